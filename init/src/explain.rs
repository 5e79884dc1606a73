//! `init --explain`: what the flags and variables mean, before a deploy.

use std::fmt;

use humantime::format_duration;

use crate::{
    cli::Cli,
    lifecycle::{Drain, Plan},
};

/// The plan in words. Its text ends with a line feed.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The flags.
    pub cli: &'a Cli,
    /// What follows from them.
    pub plan: &'a Plan,
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cli, plan } = self;
        let limit = plan.budget.drain_limit();
        writeln!(f, "stop timeout   {}", plan.budget.stop_timeout())?;
        writeln!(
            f,
            "grace          {}, the command's own time at the end of it",
            format_duration(plan.budget.grace())
        )?;
        match &plan.drain {
            Drain::Fixed(drain) => {
                writeln!(f, "drain          {}", format_duration((*drain).min(limit)))?;
                if let Some(cut) = plan.budget.cut(*drain) {
                    writeln!(f, "WARNING        {cut}")?;
                }
            }
            Drain::Auto(_) => {
                let name = cli.dns_name.as_ref().map(ToString::to_string).unwrap_or_default();
                writeln!(
                    f,
                    "drain          the TTL of {name} and {}, from the stop or from the last time that DNS named us; {} if DNS \
                     never answers; over at once if it never named us; at most {}",
                    format_duration(cli.dns_margin),
                    format_duration(cli.dns_fallback.min(limit)),
                    format_duration(limit),
                )?;
            }
        }
        match plan.budget.kill_after() {
            Some(after) => writeln!(
                f,
                "kill           {} after the stop signal, if the command is still there",
                format_duration(after)
            )?,
            None => writeln!(f, "kill           never: no stop timeout was given, so the platform decides")?,
        }
        let leftover = match cli.leftover_timeout {
            none if none.is_zero() => "are left alone".to_owned(),
            limit => format!("get SIGTERM and up to {}", format_duration(limit)),
        };
        writeln!(f, "leftovers      processes that are left when the command ends {leftover}")?;

        writeln!(f, "\nsignals")?;
        let target = if cli.signals_group() { "the command's process group" } else { "the command" };
        for &signal in &cli.stop_on {
            let passed = plan.stop_signal.or_else(|| plan.rewrites.apply(signal));
            let passed = passed.map_or_else(|| "nothing".to_owned(), |signal| signal.to_string());
            writeln!(
                f,
                "  {signal:<12} starts the lame duck; at its end {passed} goes to {target}; a second one ends it at once"
            )?;
        }
        for rewrite in cli.rewrite.iter().filter(|rewrite| !cli.stop_on.contains(&rewrite.from())) {
            let passed = plan.rewrites.apply(rewrite.from());
            let passed = passed
                .map_or_else(|| "is swallowed".to_owned(), |signal| format!("goes to {target} at once as {signal}"));
            writeln!(f, "  {:<12} {passed}", rewrite.from())?;
        }
        writeln!(f, "  {:<12} go to {target} at once", "others")?;

        writeln!(f, "\nwhen the lame duck begins")?;
        let drains = !matches!(&plan.drain, Drain::Fixed(drain) if drain.min(&limit).is_zero());
        let mut nothing = true;
        let mut line = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            nothing = false;
            writeln!(f, "  {text}")
        };
        if let Some(signal) = plan.drain_signal.filter(|_| drains) {
            line(f, format_args!("{signal} goes to {target}"))?;
        }
        if let Some(url) = cli.health_url.as_ref().filter(|_| drains) {
            line(f, format_args!("{url} is asked, and an application that is not healthy is stopped at once"))?;
        }
        if let Some(words) = cli.on_drain.as_ref().filter(|_| drains) {
            line(f, format_args!("{words} is run, and not waited for"))?;
        }
        if !drains {
            writeln!(f, "  it never does: there is nothing to drain, so no drain signal, health check or hook either")?;
        } else if nothing {
            writeln!(f, "  nothing else happens")?;
        }
        writeln!(
            f,
            "\nexit code      the command's own, 128+N if signal N killed it; 125, 126, 127: init's own failures"
        )?;
        for remap in &cli.remap_exit {
            writeln!(f, "               {remap}")?;
        }
        Ok(())
    }
}
