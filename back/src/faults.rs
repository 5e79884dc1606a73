//! What a task does wrong on purpose. Pure: time, the request and a random number come in, what is done with the request goes
//! out.

use std::{
    fmt,
    time::{Duration, Instant},
};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

/// The path of the health check, which has faults of its own: one for all paths is not for it.
pub const HEALTH: &str = "/health";

/// The most memory that one fault takes.
const MOST_LEAKED: u64 = 4096;

/// The signals that end no process by themselves: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH (signal(7)).
const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];

/// A fault as it is asked for, in JSON.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct Wanted {
    fault: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mebibytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<f64>,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    lasts: Option<String>,
}

/// The faults that there are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Status,
    Latency,
    Hang,
    Abort,
    Cut,
    Unhealthy,
    IgnoreStop,
    Crash,
    Leak,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Latency => "latency",
            Self::Hang => "hang",
            Self::Abort => "abort",
            Self::Cut => "cut",
            Self::Unhealthy => "unhealthy",
            Self::IgnoreStop => "ignore_stop",
            Self::Crash => "crash",
            Self::Leak => "leak",
        })
    }
}

/// A delay, fixed or drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// Always the same.
    Fixed(Duration),
    /// Any between the two is as likely.
    Uniform(Duration, Duration),
    /// Half of the delays are shorter than the first, and one in a hundred is longer than the second (log-normal), as those of
    /// services are.
    Tail(Duration, Duration),
}

impl Latency {
    /// The delay for a random number from 0 up to 1, without 1.
    #[must_use]
    pub fn at(self, random: f64) -> Duration {
        /// How many standard deviations the 99th percentile of a normal distribution is from its middle.
        const P99: f64 = 2.326_347_874;
        match self {
            Self::Fixed(delay) => delay,
            Self::Uniform(least, most) => least + most.saturating_sub(least).mul_f64(random),
            Self::Tail(median, p99) => {
                let spread = (p99.as_secs_f64() / median.as_secs_f64()).ln() / P99;
                let seconds = median.as_secs_f64() * (spread * normal(random)).exp();
                // Once in a very long while the tail is longer than anybody waits.
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(Duration::from_hours(1))
            }
        }
    }
}

/// The point below which this share of a normal distribution is, to 0.00045 (Abramowitz and Stegun, 26.2.23).
fn normal(share: f64) -> f64 {
    let tail = share.min(1.0 - share).max(1e-12);
    let t = (-2.0 * tail.ln()).sqrt();
    let far = t
        - (2.515_517 + 0.802_853 * t + 0.010_328 * t * t)
            / (1.0 + 1.432_788 * t + 0.189_269 * t * t + 0.001_308 * t * t * t);
    if share < 0.5 { -far } else { far }
}

/// What is done with a request, instead of or before an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Done {
    /// It is answered with this status.
    Status(StatusCode),
    /// It is never answered.
    Hang,
    /// Its connection is closed without a word.
    Abort,
    /// Half of its answer's body is sent, and then the connection is closed.
    Cut,
}

/// What is done with one request: nothing, usually.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// It waits for so long first.
    pub delay: Duration,
    /// And then.
    pub done: Option<Done>,
}

/// What the whole process does, at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// It ends with this code, without finishing anything.
    Exit(u8),
    /// It kills itself with this signal.
    Signal(i32),
    /// It takes so many mebibytes and keeps them.
    Leak(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Delay(Latency),
    Request(Done),
    Unhealthy,
    IgnoreStop,
    Process(Act),
}

#[derive(Clone, Debug, PartialEq)]
struct Fault {
    wanted: Wanted,
    kind: Kind,
    /// All but the health check's if there is none.
    path: Option<String>,
    /// Of a hundred requests.
    percent: f64,
    lasts: Option<Duration>,
}

/// The faults that are on.
#[derive(Debug, Default)]
pub struct Faults {
    on: Vec<(Fault, Option<Instant>)>,
    /// What GET /error turns on and off, as in the article that this began with.
    has_error: bool,
}

impl Faults {
    /// Takes these faults in place of those that are on. What the process does at once is returned, and not kept.
    ///
    /// # Errors
    ///
    /// What is wrong with which of them; nothing is changed then.
    pub fn set(&mut self, wanted: Vec<Wanted>, now: Instant) -> Result<Vec<Act>, String> {
        let mut on = Vec::new();
        let mut acts = Vec::new();
        for (number, wanted) in wanted.into_iter().enumerate() {
            let name = wanted.fault;
            let fault = Fault::try_from(wanted).map_err(|error| format!("fault {}, {name}: {error}", number + 1))?;
            if let Kind::Process(act) = fault.kind {
                acts.push(act);
            } else {
                let until = fault.lasts.map(|lasts| now + lasts);
                on.push((fault, until));
            }
        }
        self.on = on;
        self.has_error = false;
        Ok(acts)
    }

    /// Turns the article's error on, or off if it is on. Whether it is on now.
    pub fn toggle_error(&mut self) -> bool {
        self.has_error = !self.has_error;
        self.has_error
    }

    /// Those that are on, as they were asked for.
    pub fn on(&mut self, now: Instant) -> impl Iterator<Item = &Wanted> {
        self.forget(now);
        self.on.iter().map(|(fault, _)| &fault.wanted)
    }

    /// What is done with a request for `path`. `random` gives numbers from 0 up to 1, without 1.
    pub fn judge(&mut self, path: &str, now: Instant, mut random: impl FnMut() -> f64) -> Verdict {
        self.forget(now);
        let mut verdict = Verdict::default();
        for (fault, _) in &self.on {
            let is_for_it = match (&fault.path, fault.kind) {
                (_, Kind::Unhealthy) => path == HEALTH,
                (Some(only), _) => path == only,
                (None, _) => path != HEALTH,
            };
            if !is_for_it || random() * 100.0 >= fault.percent {
                continue;
            }
            match fault.kind {
                Kind::Delay(latency) => verdict.delay += latency.at(random()),
                // The first one counts.
                Kind::Request(done) => verdict.done = verdict.done.or(Some(done)),
                Kind::Unhealthy => {
                    verdict.done = verdict.done.or(Some(Done::Status(StatusCode::SERVICE_UNAVAILABLE)));
                }
                Kind::IgnoreStop | Kind::Process(_) => {}
            }
        }
        if self.has_error {
            verdict.done = verdict.done.or(Some(Done::Status(StatusCode::INTERNAL_SERVER_ERROR)));
        }
        verdict
    }

    /// Whether signals to stop are ignored.
    pub fn ignores_stop(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.on.iter().any(|(fault, _)| fault.kind == Kind::IgnoreStop)
    }

    fn forget(&mut self, now: Instant) {
        self.on.retain(|(_, until)| until.is_none_or(|until| now < until));
    }
}

impl TryFrom<Wanted> for Fault {
    type Error = String;

    fn try_from(wanted: Wanted) -> Result<Self, String> {
        let duration = |text: &Option<String>| match text {
            Some(text) => console::duration::parse(text).map(Some).map_err(|error| format!("{text:?}: {error}")),
            None => Ok(None),
        };
        let (latency, at_least) = (duration(&wanted.latency)?, duration(&wanted.at_least)?);
        let (at_most, p99) = (duration(&wanted.at_most)?, duration(&wanted.p99)?);
        let kind = match wanted.fault {
            Name::Status => {
                let status = wanted.status.unwrap_or(500);
                let status = StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 200);
                Kind::Request(Done::Status(status.ok_or("status must be a number from 200 to 999")?))
            }
            Name::Latency => Kind::Delay(match (latency, at_least, at_most, p99) {
                (Some(fixed), None, None, None) => Latency::Fixed(fixed),
                (None, Some(least), Some(most), None) if least <= most => Latency::Uniform(least, most),
                (Some(median), None, None, Some(p99)) if Duration::ZERO < median && median <= p99 => {
                    Latency::Tail(median, p99)
                }
                _ => {
                    return Err(
                        "give latency (fixed), at_least and at_most, or latency (the median) and p99".to_owned()
                    );
                }
            }),
            Name::Hang => Kind::Request(Done::Hang),
            Name::Abort => Kind::Request(Done::Abort),
            Name::Cut => Kind::Request(Done::Cut),
            Name::Unhealthy => Kind::Unhealthy,
            Name::IgnoreStop => Kind::IgnoreStop,
            Name::Crash => Kind::Process(match (wanted.exit_code, wanted.signal) {
                (code, None) => Act::Exit(code.unwrap_or(1)),
                (None, Some(signal)) if (1..=31).contains(&signal) && !HARMLESS.contains(&signal) => {
                    Act::Signal(signal)
                }
                (None, Some(_)) => return Err("signal must be one from 1 to 31 that ends a process".to_owned()),
                (Some(_), Some(_)) => return Err("give exit_code or signal, not both".to_owned()),
            }),
            Name::Leak => match wanted.mebibytes {
                Some(mebibytes @ 1..=MOST_LEAKED) => Kind::Process(Act::Leak(mebibytes)),
                Some(_) | None => return Err(format!("mebibytes must be a number from 1 to {MOST_LEAKED}")),
            },
        };
        wanted.has_nothing_else()?;
        let percent = wanted.percent.unwrap_or(100.0);
        if !(0.0..=100.0).contains(&percent) {
            return Err("percent must be a number from 0 to 100".to_owned());
        }
        if wanted.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err("path must begin with /".to_owned());
        }
        let lasts = duration(&wanted.lasts)?;
        Ok(Self { kind, path: wanted.path.clone(), percent, lasts, wanted })
    }
}

impl Wanted {
    /// A field that the fault does not have is a mistake, and not to be passed over.
    fn has_nothing_else(&self) -> Result<(), String> {
        use Name::{Abort, Crash, Cut, Hang, Latency, Leak, Status};
        let fields: [(&str, bool, &[Name]); 10] = [
            ("status", self.status.is_some(), &[Status]),
            ("latency", self.latency.is_some(), &[Latency]),
            ("at_least", self.at_least.is_some(), &[Latency]),
            ("at_most", self.at_most.is_some(), &[Latency]),
            ("p99", self.p99.is_some(), &[Latency]),
            ("exit_code", self.exit_code.is_some(), &[Crash]),
            ("signal", self.signal.is_some(), &[Crash]),
            ("mebibytes", self.mebibytes.is_some(), &[Leak]),
            ("path", self.path.is_some(), &[Status, Latency, Hang, Abort, Cut]),
            ("for", self.lasts.is_some() && matches!(self.fault, Crash | Leak), &[]),
        ];
        match fields.into_iter().find(|(_, is_there, of)| *is_there && !of.contains(&self.fault)) {
            Some((field, _, _)) => Err(format!("it has no {field}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(json: &str) -> Vec<Wanted> {
        serde_json::from_str(json).unwrap()
    }

    /// Faults from JSON, and the time at which they were set.
    fn faults(json: &str) -> (Faults, Instant) {
        let (mut faults, now) = (Faults::default(), start());
        assert_eq!(faults.set(wanted(json), now), Ok(vec![]));
        (faults, now)
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    fn status(code: u16) -> Verdict {
        Verdict { delay: Duration::ZERO, done: Some(Done::Status(StatusCode::from_u16(code).unwrap())) }
    }

    #[test]
    fn a_fault_is_for_its_path_or_for_all_but_the_health_check() {
        let (mut faults, now) = faults(r#"[{"fault":"status","path":"/a"},{"fault":"status","status":503}]"#);
        for (path, verdict) in [("/a", status(500)), ("/b", status(503)), ("/health", Verdict::default())] {
            assert_eq!(faults.judge(path, now, || 0.0), verdict, "{path}");
        }
    }

    #[test]
    fn only_the_health_check_fails_if_the_task_is_unhealthy() {
        let (mut faults, now) = faults(r#"[{"fault":"unhealthy"}]"#);
        assert_eq!(faults.judge("/health", now, || 0.0), status(503));
        assert_eq!(faults.judge("/", now, || 0.0), Verdict::default());
    }

    #[test]
    fn a_fault_hits_its_share_of_requests_and_ends_with_its_time() {
        let (mut faults, now) = faults(r#"[{"fault":"hang","percent":25,"for":"10s"}]"#);
        let mut hit =
            |random, seconds| faults.judge("/", now + Duration::from_secs(seconds), || random) != Verdict::default();
        assert_eq!([hit(0.0, 0), hit(0.249, 9), hit(0.25, 0), hit(0.0, 10)], [true, true, false, false]);
        assert_eq!(faults.on(now).count(), 0, "it was forgotten when its time was over");
    }

    #[test]
    fn delays_add_up_and_then_the_first_fault_counts() {
        let (mut faults, now) = faults(
            r#"[{"fault":"latency","latency":"100ms"},{"fault":"latency","at_least":"1s","at_most":"2s"},
                {"fault":"cut"},{"fault":"abort"}]"#,
        );
        let verdict = faults.judge("/", now, || 0.5);
        assert_eq!(verdict, Verdict { delay: Duration::from_millis(1600), done: Some(Done::Cut) });
    }

    #[test]
    fn a_tail_has_its_median_and_its_99th_percentile() {
        let latency = Latency::Tail(Duration::from_millis(20), Duration::from_secs(2));
        for (share, milliseconds) in [(0.5, 20.0), (0.99, 2000.0), (0.01, 0.2)] {
            let ratio = latency.at(share).as_secs_f64() * 1000.0 / milliseconds;
            assert!((0.99..1.01).contains(&ratio), "{share}: {ratio}");
        }
        assert!(latency.at(0.0) < latency.at(0.001) && latency.at(0.999) < latency.at(1.0 - f64::EPSILON));
    }

    #[test]
    fn what_the_process_does_is_told_once_and_not_kept() {
        let (mut faults, now) = (Faults::default(), start());
        let json = r#"[{"fault":"crash","exit_code":3},{"fault":"crash","signal":9},{"fault":"leak","mebibytes":64}]"#;
        assert_eq!(faults.set(wanted(json), now), Ok(vec![Act::Exit(3), Act::Signal(9), Act::Leak(64)]));
        assert_eq!(faults.on(now).count(), 0);
    }

    #[test]
    fn stops_are_ignored_for_as_long_as_it_is_asked_for() {
        let (mut faults, now) = faults(r#"[{"fault":"ignore_stop","for":"1m"}]"#);
        assert!(faults.ignores_stop(now) && !faults.ignores_stop(now + Duration::from_mins(1)));
    }

    #[test]
    fn the_articles_error_is_toggled_and_ends_with_the_next_faults() {
        let (mut faults, now) = (Faults::default(), start());
        assert!(faults.toggle_error());
        assert_eq!(faults.judge("/health", now, || 0.0), status(500));
        assert!(!faults.toggle_error());
        assert_eq!(faults.judge("/", now, || 0.0), Verdict::default());
        faults.toggle_error();
        faults.set(vec![], now).unwrap();
        assert_eq!(faults.judge("/", now, || 0.0), Verdict::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_number_and_changes_nothing() {
        let (mut faults, now) = faults(r#"[{"fault":"hang"}]"#);
        for (json, says) in [
            (r#"[{"fault":"cut"},{"fault":"status","status":100}]"#, "fault 2, status: status must be"),
            (r#"[{"fault":"latency"}]"#, "give latency"),
            (r#"[{"fault":"latency","at_least":"2s","at_most":"1s"}]"#, "give latency"),
            (r#"[{"fault":"latency","latency":"soon"}]"#, "soon"),
            (r#"[{"fault":"latency","latency":"0","p99":"1s"}]"#, "give latency"),
            (r#"[{"fault":"crash","exit_code":1,"signal":9}]"#, "not both"),
            (r#"[{"fault":"crash","signal":0}]"#, "from 1 to 31"),
            (r#"[{"fault":"crash","signal":17}]"#, "that ends a process"),
            (r#"[{"fault":"leak","mebibytes":0}]"#, "from 1 to 4096"),
            (r#"[{"fault":"hang","status":500}]"#, "it has no status"),
            (r#"[{"fault":"unhealthy","path":"/"}]"#, "it has no path"),
            (r#"[{"fault":"crash","for":"1s"}]"#, "it has no for"),
            (r#"[{"fault":"hang","percent":101}]"#, "percent"),
            (r#"[{"fault":"hang","path":"a"}]"#, "begin with /"),
        ] {
            let error = faults.set(wanted(json), now).unwrap_err();
            assert!(error.contains(says), "{json}: {error}");
        }
        assert_eq!(faults.on(now).count(), 1);
    }
}
