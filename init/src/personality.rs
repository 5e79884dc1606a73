//! The program that we are called as. A link or a copy named like another init is that init: its flags, variables,
//! defaults, exit codes, and the texts that scripts look for. Pure.
//!
//! It drains only if `INIT_DRAIN` or `INIT_DNS_NAME` says so. The rules are those of tini 0.19.0 and dumb-init 1.2.5,
//! as their documentation gives them; where one of them fails (see the README), this does what was meant.

use std::ffi::{OsStr, OsString};

use crate::{cli::Cli, error::Error, exit};

/// What we are called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Personality {
    /// `init`, or anything that is not the name of another.
    Init,
    /// `tini`, `tini-static` or Docker's `docker-init`.
    Tini,
    /// `dumb-init`.
    DumbInit,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Run a command, or probe, or explain.
    Run(Box<Cli>),
    /// Say something, and exit with this code.
    Say {
        /// What to say, with its last line feed.
        text: String,
        /// On stdout, where it was asked for; on stderr, where something is wrong.
        on_stdout: bool,
        /// The exit code.
        code: u8,
    },
}

/// The exit code of both for flags that are wrong, and where there is no room for a child.
const USAGE: u8 = 1;

/// The exit code of dumb-init for a command that cannot be run.
const DUMB_INIT_EXEC: u8 = 2;

const TINI_VERSION: &str = concat!("tini version 0.19.0 - lameduck ", env!("CARGO_PKG_VERSION"), "\n");
const TINI_USAGE: &str = "\
usage: tini [-gsvw] [-e CODE]... [-p SIGNAL] [--] PROGRAM [ARG]...
  -e CODE    exit with 0 where the program exits with CODE
  -g         send signals to the program's process group
  -p SIGNAL  get SIGNAL when the parent dies
  -s         reap orphans even if not PID 1 (TINI_SUBREAPER)
  -v         say more; may be repeated (TINI_VERBOSITY)
  -w         say so when an orphan is reaped
  -h, -l, --version
It drains if INIT_DRAIN or INIT_DNS_NAME is set.
";
const TINI_LICENSE: &str = "lameduck's init, called as tini: MIT license\n";

const DUMB_INIT_VERSION: &str = concat!("dumb-init v1.2.5 - lameduck ", env!("CARGO_PKG_VERSION"), "\n");
const DUMB_INIT_USAGE: &str = "\
usage: dumb-init [-cv] [-r FROM:TO]... PROGRAM [ARG]...
  -c, --single-child     signal the program only, in our own session
  -r, --rewrite FROM:TO  pass a signal on as another, by number; a TO of 0 drops it
  -v, --verbose          say what happens (DUMB_INIT_DEBUG=1)
  -h, --help, -V, --version
It drains if INIT_DRAIN or INIT_DNS_NAME is set.
";

impl Personality {
    /// The one that goes with the program's name.
    #[must_use]
    pub fn of(program: &OsStr) -> Self {
        match std::path::Path::new(program).file_name().and_then(OsStr::to_str) {
            Some("tini" | "tini-static" | "docker-init") => Self::Tini,
            Some("dumb-init") => Self::DumbInit,
            Some(_) | None => Self::Init,
        }
    }

    /// Reads the command line, the program's name first. `variable` looks into the environment.
    pub fn read(self, arguments: &[OsString], variable: impl Fn(&str) -> Option<OsString>) -> Request {
        let foreign = match self {
            Self::Init => return understood(Cli::read(arguments), exit::OWN_FAILURE),
            Self::Tini => tini(arguments, &variable),
            Self::DumbInit => dumb_init(arguments, &variable),
        };
        match foreign {
            Ok(mut flags) => {
                if ["INIT_DRAIN", "INIT_DNS_NAME"].iter().all(|name| variable(name).is_none()) {
                    flags.splice(1..1, ["--drain".into(), "0".into()]);
                }
                understood(Cli::read(flags), USAGE)
            }
            Err(request) => request,
        }
    }

    /// What to say of a failure before the command ran, without a line feed.
    #[must_use]
    pub fn failure(self, error: &Error) -> String {
        let pid = std::process::id();
        let has_no_room = error.exit_code() == exit::OWN_FAILURE;
        match (self, error) {
            (Self::Tini, Error::Spawn { source, .. }) if has_no_room => {
                format!("[FATAL tini ({pid})] fork failed: {}", reason(source))
            }
            (Self::DumbInit, Error::Spawn { source, .. }) if has_no_room => {
                format!("[dumb-init] Unable to fork. Exiting. {}", reason(source))
            }
            (Self::Tini, Error::Spawn { command, source }) => {
                format!("[FATAL tini ({pid})] exec {} failed: {}", command.display(), reason(source))
            }
            (Self::Tini, error) => format!("[FATAL tini ({pid})] {error}"),
            (Self::DumbInit, Error::Spawn { command, source }) => {
                format!("[dumb-init] {}: {}", command.display(), reason(source))
            }
            (Self::DumbInit, error) => format!("[dumb-init] {error}"),
            (Self::Init, error) => format!("init: {error}"),
        }
    }

    /// The exit code for a failure before the command ran.
    #[must_use]
    pub fn failure_code(self, error: &Error) -> u8 {
        let own = error.exit_code();
        match (self, error) {
            (Self::Tini | Self::DumbInit, _) if own == exit::OWN_FAILURE => USAGE,
            (Self::DumbInit, Error::Spawn { .. }) => DUMB_INIT_EXEC,
            (Self::Init | Self::Tini | Self::DumbInit, _) => own,
        }
    }
}

/// The kernel's words without Rust's number behind them.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn understood(read: Result<Cli, clap::Error>, usage: u8) -> Request {
    match read {
        Ok(cli) => Request::Run(Box::new(cli)),
        Err(error) => {
            let on_stdout = !error.use_stderr();
            let code = if on_stdout { 0 } else { usage };
            Request::Say { text: error.render().to_string(), on_stdout, code }
        }
    }
}

fn wrong(program: &str, what: &str, usage: &str) -> Request {
    Request::Say { text: format!("{program}: {what}\n{usage}"), on_stdout: false, code: USAGE }
}

const fn say(text: String, on_stdout: bool) -> Request {
    Request::Say { text, on_stdout, code: 0 }
}

/// Short flags as getopt reads them: in clusters, a value in the same word or the next; up to the first word that is
/// none, or `--`.
struct Options<'a> {
    words: &'a [OsString],
    /// The rest of a cluster.
    cluster: String,
}

impl<'a> Options<'a> {
    /// The next flag, or a long one with its dashes.
    fn next(&mut self) -> Option<String> {
        if self.cluster.is_empty() {
            let (word, rest) = self.words.split_first()?;
            let word = word.to_str().filter(|word| word.len() > 1 && word.starts_with('-'))?;
            self.words = rest;
            if word == "--" {
                return None;
            }
            if word.starts_with("--") {
                return Some(word.to_owned());
            }
            word[1..].clone_into(&mut self.cluster);
        }
        let flag = self.cluster.remove(0);
        Some(format!("-{flag}"))
    }

    fn value(&mut self) -> Option<OsString> {
        if !self.cluster.is_empty() {
            return Some(std::mem::take(&mut self.cluster).into());
        }
        let (value, rest) = self.words.split_first()?;
        self.words = rest;
        Some(value.clone())
    }

    fn rest(self) -> &'a [OsString] {
        self.words
    }
}

/// Our flags for tini's.
fn tini(arguments: &[OsString], variable: &impl Fn(&str) -> Option<OsString>) -> Result<Vec<OsString>, Request> {
    if let [_, only] = arguments
        && only == "--version"
    {
        return Err(say(TINI_VERSION.to_owned(), true));
    }
    let mut flags: Vec<OsString> = vec!["init".into(), "--leftover-timeout".into(), "0".into()];
    let mut is_subreaper = variable("TINI_SUBREAPER").is_some();
    let verbosity = variable("TINI_VERBOSITY").and_then(|value| value.to_str()?.parse().ok());
    let mut verbosity: u32 = verbosity.unwrap_or(1);
    if variable("TINI_KILL_PROCESS_GROUP").is_some() {
        flags.push("-g".into());
    }
    let mut options = Options { words: arguments.get(1..).unwrap_or_default(), cluster: String::new() };
    while let Some(flag) = options.next() {
        match flag.as_str() {
            "-h" => return Err(say(TINI_USAGE.to_owned(), true)),
            "-l" => return Err(say(TINI_LICENSE.to_owned(), true)),
            "-g" | "-w" => flags.push(flag.into()),
            "-s" => is_subreaper = true,
            "-v" => verbosity += 1,
            "-e" | "-p" => match options.value() {
                Some(value) => flags.extend([flag.into(), value]),
                None => return Err(wrong("tini", &format!("{flag} needs a value"), TINI_USAGE)),
            },
            unknown => return Err(wrong("tini", &format!("unknown option {unknown}"), TINI_USAGE)),
        }
    }
    if options.words.is_empty() {
        return Err(wrong("tini", "no program was given", TINI_USAGE));
    }
    flags.push(format!("--subreaper={is_subreaper}").into());
    let level = ["error", "warn", "info", "debug"][verbosity.min(3) as usize];
    flags.extend(["--log-format", "text", "--log-level", level, "--"].map(OsString::from));
    flags.extend_from_slice(options.rest());
    Ok(flags)
}

/// Our flags for dumb-init's.
fn dumb_init(arguments: &[OsString], variable: &impl Fn(&str) -> Option<OsString>) -> Result<Vec<OsString>, Request> {
    let is = |name: &str, value: &str| variable(name).is_some_and(|found| found == value);
    let mut has_session = !is("DUMB_INIT_SETSID", "0");
    let mut is_verbose = is("DUMB_INIT_DEBUG", "1");
    let mut rewrites = Vec::new();
    let mut options = Options { words: arguments.get(1..).unwrap_or_default(), cluster: String::new() };
    while let Some(flag) = options.next() {
        match flag.as_str() {
            "-h" | "--help" => return Err(say(DUMB_INIT_USAGE.to_owned(), false)),
            "-V" | "--version" => return Err(say(DUMB_INIT_VERSION.to_owned(), false)),
            "-c" | "--single-child" => has_session = false,
            "-v" | "--verbose" => is_verbose = true,
            "-r" | "--rewrite" => match options.value() {
                Some(value) => rewrites.extend(["-r".into(), value]),
                None => return Err(wrong("dumb-init", &format!("{flag} needs a value"), DUMB_INIT_USAGE)),
            },
            long if long.starts_with("--rewrite=") => {
                rewrites.extend(["-r".into(), long["--rewrite=".len()..].into()]);
            }
            unknown => return Err(wrong("dumb-init", &format!("unknown option {unknown}"), DUMB_INIT_USAGE)),
        }
    }
    if options.words.is_empty() {
        return Err(wrong("dumb-init", "no program was given", DUMB_INIT_USAGE));
    }
    let mut flags: Vec<OsString> = vec!["init".into(), "--suspend".into()];
    if has_session {
        flags.extend(["--session", "-g"].map(OsString::from));
    } else {
        // Signals are for the program only, and so is the SIGTERM at its end.
        flags.extend(["--leftover-timeout", "0"].map(OsString::from));
    }
    flags.extend(rewrites);
    let level = if is_verbose { "debug" } else { "warn" };
    flags.extend(["--log-format", "text", "--log-level", level, "--"].map(OsString::from));
    flags.extend_from_slice(options.rest());
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::cli::DrainFlag;

    fn read(words: &[&str], environment: &[(&str, &str)]) -> Request {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        let variable = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Personality::of(&words[0]).read(&words, variable)
    }

    fn run(words: &[&str], environment: &[(&str, &str)]) -> Cli {
        match read(words, environment) {
            Request::Run(cli) => *cli,
            Request::Say { text, .. } => panic!("{text}"),
        }
    }

    fn said(words: &[&str]) -> (String, bool, u8) {
        match read(words, &[]) {
            Request::Say { text, on_stdout, code } => (text, on_stdout, code),
            Request::Run(cli) => panic!("{cli:?}"),
        }
    }

    #[test]
    fn the_name_is_the_last_part_of_the_path() {
        for (path, personality) in [
            ("/sbin/tini", Personality::Tini),
            ("tini-static", Personality::Tini),
            ("/usr/bin/docker-init", Personality::Tini),
            ("/usr/local/bin/dumb-init", Personality::DumbInit),
            ("/init", Personality::Init),
            ("/tini/init", Personality::Init),
            ("tini2", Personality::Init),
        ] {
            assert_eq!(Personality::of(OsStr::new(path)), personality, "{path}");
        }
    }

    #[test]
    fn tini_reads_its_flags_in_clusters_and_stops_at_the_program() {
        let cli = run(&["tini", "-gwvv", "-e143", "-e", "7", "-p", "SIGTERM", "--", "sh", "-c", "-v"], &[]);
        assert!(cli.process_group && cli.warn_on_reap && !cli.subreaper);
        assert_eq!((cli.remap_exit.len(), cli.log_level), (2, LevelFilter::DEBUG));
        assert_eq!(cli.command, ["sh", "-c", "-v"]);
        assert_eq!(run(&["tini", "sh", "-c", "exit 7"], &[]).command, ["sh", "-c", "exit 7"]);
    }

    #[test]
    fn tini_reads_its_variables() {
        let environment = [("TINI_SUBREAPER", ""), ("TINI_VERBOSITY", "3"), ("TINI_KILL_PROCESS_GROUP", "1")];
        let cli = run(&["docker-init", "true"], &environment);
        assert!(cli.subreaper && cli.process_group && cli.log_level == LevelFilter::DEBUG);
        let cli = run(&["tini", "true"], &[]);
        assert!(!cli.subreaper && !cli.process_group && cli.log_level == LevelFilter::WARN);
    }

    #[test]
    fn another_init_drains_only_if_our_variables_say_so() {
        for name in ["tini", "dumb-init"] {
            assert_eq!(run(&[name, "true"], &[]).drain, Some(DrainFlag::Fixed(Duration::ZERO)));
            // The variable itself is read by the flags' own definition, from the real environment.
            assert_eq!(run(&[name, "true"], &[("INIT_DRAIN", "9s")]).drain, None);
            assert_eq!(run(&[name, "true"], &[("INIT_DNS_NAME", "back")]).drain, None);
        }
    }

    #[test]
    fn docker_finds_the_version_that_it_looks_for() {
        let (text, on_stdout, code) = said(&["docker-init", "--version"]);
        assert!(text.starts_with("tini version 0.19.0") && on_stdout && code == 0, "{text}");
        let (text, on_stdout, code) = said(&["dumb-init", "-V"]);
        assert!(text.starts_with("dumb-init v1.2.5") && !on_stdout && code == 0, "{text}");
    }

    #[test]
    fn wrong_flags_are_1_and_named() {
        for (words, part) in [
            (vec!["tini", "-x", "true"], "-x"),
            (vec!["tini"], "no program"),
            (vec!["tini", "-e"], "-e needs"),
            (vec!["tini", "-e", "256", "true"], "256"),
            (vec!["tini", "-p", "NONE", "true"], "NONE"),
            (vec!["dumb-init", "--verbos", "true"], "--verbos"),
            (vec!["dumb-init", "-r", "x", "true"], "x"),
            (vec!["dumb-init"], "no program"),
        ] {
            let (text, on_stdout, code) = said(&words);
            assert!(text.contains(part) && !on_stdout && code == 1, "{words:?}: {text}");
        }
    }

    #[test]
    fn dumb_init_has_a_session_unless_told_otherwise() {
        let cli = run(&["dumb-init", "-r", "15:3", "--rewrite=2:0", "-v", "sh", "-c", "x"], &[]);
        assert!(cli.session && cli.process_group && cli.log_level == LevelFilter::DEBUG);
        assert!(!cli.leftover_timeout.is_zero());
        assert_eq!((cli.rewrite.len(), cli.command), (2, vec!["sh".into(), "-c".into(), "x".into()]));
        for (words, environment) in
            [(vec!["dumb-init", "-c", "true"], vec![]), (vec!["dumb-init", "true"], vec![("DUMB_INIT_SETSID", "0")])]
        {
            let cli = run(&words, &environment);
            assert!(!cli.session && !cli.process_group && cli.leftover_timeout.is_zero());
        }
    }

    #[test]
    fn each_has_its_own_words_and_codes_for_a_command_that_cannot_run() {
        let error = |errno| Error::Spawn { command: "foo".into(), source: std::io::Error::from_raw_os_error(errno) };
        let missing = error(libc::ENOENT);
        assert!(Personality::Tini.failure(&missing).ends_with("exec foo failed: No such file or directory"));
        assert_eq!(Personality::DumbInit.failure(&missing), "[dumb-init] foo: No such file or directory");
        // Nothing is wrong with the command: there is no room for a child.
        let full = error(libc::EAGAIN);
        assert!(Personality::Tini.failure(&full).ends_with("fork failed: Resource temporarily unavailable"));
        assert!(Personality::DumbInit.failure(&full).starts_with("[dumb-init] Unable to fork. Exiting."));
        for (personality, codes) in [
            (Personality::Tini, [127, 126, 1]),
            (Personality::DumbInit, [2, 2, 1]),
            (Personality::Init, [127, 126, 125]),
        ] {
            let found = [libc::ENOENT, libc::EACCES, libc::EAGAIN].map(|errno| personality.failure_code(&error(errno)));
            assert_eq!(found, codes, "{personality:?}");
        }
    }

    /// Words that mean something to one of the three, in every order, and words that mean nothing to any.
    fn random_arguments(random: &mut fastrand::Rng, name: &str) -> Vec<OsString> {
        use std::os::unix::ffi::OsStringExt;

        const WORDS: [&str; 36] = [
            "--",
            "-",
            "-g",
            "-s",
            "-w",
            "-v",
            "-vvv",
            "-c",
            "-e",
            "143",
            "-e143",
            "143:0",
            "-p",
            "KILL",
            "-r",
            "15:2",
            "TERM:0",
            "-gs",
            "-h",
            "-l",
            "-V",
            "--version",
            "--drain",
            "30s",
            "auto",
            "--drain=0",
            "--dns-name",
            "back.test",
            "--stop-timeout",
            "10",
            "--rewrite",
            "--single-child",
            "--explain",
            "sh",
            "exit 7",
            "",
        ];
        let mut arguments = vec![OsString::from(name)];
        for _ in 0..random.usize(0..8) {
            arguments.push(if random.u8(..) < 16 {
                OsString::from_vec((0..random.usize(0..6)).map(|_| random.u8(1..)).collect())
            } else {
                WORDS[random.usize(..WORDS.len())].into()
            });
        }
        arguments
    }

    #[test]
    fn whatever_the_arguments_are_the_command_is_their_end_unchanged_or_somebody_is_told() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut ran = 0;
        for round in 0..6_000 {
            let name = ["init", "tini", "dumb-init"][round % 3];
            let arguments = random_arguments(&mut random, name);
            match Personality::of(OsStr::new(name)).read(&arguments, |_| None) {
                Request::Run(cli) => {
                    assert!(arguments.ends_with(&cli.command), "{arguments:?} became {:?}", cli.command);
                    // What was left out were flags, and at most one pair of dashes.
                    let flags = &arguments[1..arguments.len() - cli.command.len()];
                    assert!(flags.iter().filter(|word| *word == "--").count() <= 1, "{arguments:?}");
                    ran += 1;
                }
                Request::Say { text, on_stdout, code } => {
                    assert!(text.ends_with('\n'), "{arguments:?}: {text:?}");
                    assert!(!on_stdout || code == 0, "{arguments:?}: {text}");
                }
            }
        }
        // Else it would show nothing.
        assert!(ran > 1_000, "{ran}");
    }
}
