//! The `init` binary: reads the flags, starts the child, returns its exit code.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    process::ExitCode,
};

use console::log;
use init::{
    check::{CheckUrl, check},
    cli::Cli,
    error::Error,
    explain::Explanation,
    host::{self, Child},
    lifecycle::{Drain, Lifecycle},
    personality::{Personality, Request},
    run::run,
};
use tokio::time::Instant;
use tracing::{info, warn};

// musl's own allocator asks the kernel for pages, and gives them back, with every copy that signal_hook makes of its table
// while the handlers are installed: two thirds of the time until the child runs.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

// Not in main: Rust's own start-up runs before it and changes what was inherited.
// SAFETY: the loader calls the functions of .init_array once, in the only thread, after relocation and with the C
// library ready; this one makes system calls only and cannot unwind.
#[expect(unsafe_code, reason = "nothing but a function of .init_array runs before Rust's own start-up")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = host::before_main;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let personality = Personality::of(arguments.first().map_or(OsStr::new(""), OsString::as_os_str));
    let cli = match personality.read(&arguments, |name| std::env::var_os(name)) {
        Request::Run(cli) => cli,
        Request::Say { text, on_stdout, code } => {
            let _ = if on_stdout {
                io::stdout().write_all(text.as_bytes())
            } else {
                io::stderr().write_all(text.as_bytes())
            };
            return code.into();
        }
    };
    let result = match &cli.check {
        Some(url) => probe(url, &cli),
        None => supervise(&cli),
    };
    result.unwrap_or_else(|error| {
        log::tell(&personality.failure(&error));
        personality.failure_code(&error).into()
    })
}

/// Lives the child's life and returns the exit code that tells of it.
fn supervise(cli: &Cli) -> Result<ExitCode, Error> {
    let plan = cli.plan(Instant::now().into_std())?;
    if cli.explain {
        let _ = write!(io::stdout(), "{}", Explanation { cli, plan: &plan });
        return Ok(ExitCode::SUCCESS);
    }
    if cli.command.is_empty() {
        return Err(Error::NoCommand);
    }
    log::start(cli.log_format, cli.level());
    let drain = match &plan.drain {
        Drain::Fixed(drain) => {
            if let Some(cut) = plan.budget.cut(*drain) {
                warn!("{cut}");
            }
            humantime::format_duration((*drain).min(plan.budget.drain_limit())).to_string()
        }
        Drain::Auto(_) => "auto".to_owned(),
    };
    let (event_loop, mut child) = Child::start(&cli.command, cli.setup(&plan))?;
    event_loop.block_on(async {
        info!(pid = child.pid(), drain, "started {:?}", cli.command[0]);
        let status = run(Lifecycle::new(plan), &mut child).await;
        let code = cli.exit_code(status);
        info!(code, "ended: {status}");
        Ok(code.into())
    })
}

/// Asks once whether the application is healthy.
fn probe(url: &CheckUrl, cli: &Cli) -> Result<ExitCode, Error> {
    host::accept_signals();
    Ok(match host::event_loop()?.block_on(check(url, cli.check_timeout)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(unhealthy) => {
            log::tell(&format!("init: {url} is not healthy: {unhealthy}"));
            ExitCode::FAILURE
        }
    })
}
