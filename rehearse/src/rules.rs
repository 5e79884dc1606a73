//! The rules of ECS and Cloud Map that a rehearsal follows: each with its value, its meaning and its source, and each can be
//! changed. Pure.

use std::{fmt, time::Duration};

use console::duration;

use crate::{health::Check, zone::Terms};

/// What becomes of a task that turns unhealthy outside a deployment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Replacement {
    /// It is stopped, and then another one is started: ECS until October 2023, and what the article saw.
    Legacy,
    /// Another one is started, and it is stopped when that one is healthy, if the maximum percent has room for it.
    Modern,
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        })
    }
}

/// All of them.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each one is described in RULES")]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own, and any of them goes with any other")]
pub struct Rules {
    pub desired: u32,
    pub minimum_healthy_percent: u32,
    pub maximum_percent: u32,
    pub unhealthy_replacement: Replacement,
    pub breaker_percent: u32,
    pub breaker_least: u32,
    pub breaker_most: u32,
    pub rollback: bool,
    pub tick: Duration,
    pub provisioning: Duration,
    pub pending: Duration,
    pub activating: Duration,
    pub container_start: Duration,
    pub jitter: Duration,
    pub register_lag_least: Duration,
    pub register_lag: Duration,
    pub deregister_lag_least: Duration,
    pub deregister_lag: Duration,
    pub deregister_first: Duration,
    pub deregister_last: bool,
    pub stop_timeout: Duration,
    pub deprovisioning: Duration,
    pub has_health_check: bool,
    pub health_interval: Duration,
    pub health_timeout: Duration,
    pub health_retries: u32,
    pub health_start_period: Duration,
    pub health_report_lag: Duration,
    pub steady_without_check: Duration,
    pub restart_pause: Duration,
    pub restart_pause_most: Duration,
    pub ttl: Duration,
    pub negative_ttl: Duration,
    pub most_answers: usize,
    pub resolver_caches: u32,
    pub initially_healthy: bool,
    pub cloud_map_health_delay: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            desired: 4,
            minimum_healthy_percent: 50,
            maximum_percent: 200,
            unhealthy_replacement: Replacement::Modern,
            breaker_percent: 50,
            breaker_least: 3,
            breaker_most: 200,
            rollback: true,
            tick: secs(3),
            provisioning: secs(8),
            pending: secs(6),
            activating: secs(4),
            container_start: secs(2),
            jitter: secs(1),
            register_lag_least: secs(1),
            register_lag: secs(3),
            deregister_lag_least: secs(0),
            deregister_lag: secs(3),
            deregister_first: secs(0),
            deregister_last: false,
            stop_timeout: secs(30),
            deprovisioning: secs(10),
            has_health_check: true,
            health_interval: secs(30),
            health_timeout: secs(15),
            health_retries: 2,
            health_start_period: secs(5),
            health_report_lag: secs(8),
            steady_without_check: secs(40),
            restart_pause: secs(10),
            restart_pause_most: Duration::from_mins(15),
            ttl: secs(60),
            negative_ttl: secs(300),
            most_answers: 8,
            resolver_caches: 1,
            initially_healthy: true,
            cloud_map_health_delay: secs(30),
        }
    }
}

impl Rules {
    /// The container health check, if there is one.
    #[must_use]
    pub fn check(&self) -> Option<Check> {
        self.has_health_check.then_some(Check {
            interval: self.health_interval,
            timeout: self.health_timeout,
            retries: self.health_retries,
            start_period: self.health_start_period,
        })
    }

    /// How answers are made.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            ttl: self.ttl,
            negative_ttl: self.negative_ttl,
            most_answers: self.most_answers,
            health_delay: self.cloud_map_health_delay,
            is_healthy_at_first: self.initially_healthy,
        }
    }

    /// How many tasks that fail to become healthy end a deployment.
    #[must_use]
    pub fn breaker_threshold(&self) -> u32 {
        let share = u64::from(self.desired) * u64::from(self.breaker_percent);
        let share = u32::try_from(share.div_ceil(100)).unwrap_or(u32::MAX);
        share.max(self.breaker_least).min(self.breaker_most)
    }

    /// Changes one rule.
    ///
    /// # Errors
    ///
    /// If there is none of that name, or it cannot have that value.
    pub fn set(&mut self, setting: &Setting) -> Result<(), String> {
        let rule = RULES.iter().find(|rule| rule.name == setting.name).ok_or_else(|| {
            let nearest = RULES.iter().map(|rule| rule.name).find(|name| name.contains(setting.name.as_str()));
            let hint = nearest.map(|name| format!(" (is it {name})")).unwrap_or_default();
            format!("there is no rule {:?}{hint}: `rehearse rules` lists them", setting.name)
        })?;
        (rule.set)(self, &setting.value)
            .map_err(|error| format!("{} cannot be {:?}: {error}", rule.name, setting.value))
    }

    /// What is impossible about them together.
    ///
    /// # Errors
    ///
    /// What does not fit, with the values.
    pub fn check_together(&self) -> Result<(), String> {
        let durations = [("tick", self.tick), ("health-interval", self.health_interval)];
        if let Some((name, _)) = durations.iter().find(|(_, value)| value.is_zero()) {
            return Err(format!("{name} is 0s, so that no time would ever pass: set 1s or more"));
        }
        if !(1..=10_000).contains(&self.desired) {
            return Err(format!("desired is {}: set 1 to 10000", self.desired));
        }
        if self.maximum_percent < 100 && self.minimum_healthy_percent >= 100 || self.maximum_percent == 0 {
            return Err(format!(
                "minimum-healthy-percent {} and maximum-percent {} leave no task to start or to stop: raise the maximum",
                self.minimum_healthy_percent, self.maximum_percent
            ));
        }
        let lags = [
            ("register-lag", self.register_lag_least, self.register_lag),
            ("deregister-lag", self.deregister_lag_least, self.deregister_lag),
        ];
        if let Some((name, least, most)) = lags.iter().find(|(_, least, most)| least > most) {
            return Err(format!(
                "{name}-least {} is more than {name} {}: lower it",
                humantime::format_duration(*least),
                humantime::format_duration(*most)
            ));
        }
        if !(1..=1000).contains(&self.resolver_caches) {
            return Err(format!("resolver-caches is {}: set 1 to 1000", self.resolver_caches));
        }
        if self.container_start > self.activating {
            return Err(format!(
                "container-start {} is after the end of activating {}: lower it",
                humantime::format_duration(self.container_start),
                humantime::format_duration(self.activating)
            ));
        }
        Ok(())
    }
}

/// `NAME=VALUE`, as on the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// Which rule.
    pub name: String,
    /// Its value in words.
    pub value: String,
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as ttl=15s")?;
        Ok(Self { name: name.trim().to_owned(), value: value.trim().to_owned() })
    }
}

/// One rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Its name in settings.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// Where its value comes from.
    pub source: &'static str,
    /// Its value in words.
    pub get: fn(&Rules) -> String,
    set: fn(&mut Rules, &str) -> Result<(), String>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a rule's value is read and written.
trait Value: Sized {
    fn read(text: &str) -> Result<Self, String>;
    fn write(&self) -> String;
}

impl Value for Duration {
    fn read(text: &str) -> Result<Self, String> {
        duration::parse(text)
    }
    fn write(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

impl Value for u32 {
    fn read(text: &str) -> Result<Self, String> {
        text.trim_end_matches('%')
            .parse()
            .ok()
            .filter(|number| *number <= 100_000)
            .ok_or_else(|| "expected a number up to 100000".to_owned())
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

impl Value for usize {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|number| (1..=1000).contains(number))
            .ok_or_else(|| "expected a number from 1 to 1000".to_owned())
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

impl Value for bool {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err("expected yes or no".to_owned()),
        }
    }
    fn write(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

impl Value for Replacement {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "legacy" => Ok(Self::Legacy),
            "modern" => Ok(Self::Modern),
            _ => Err("expected legacy or modern".to_owned()),
        }
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

macro_rules! rules {
    ($($name:literal $field:ident $meaning:literal $source:literal;)*) => {
        /// Every rule, in the order in which they are printed.
        pub const RULES: &[Rule] = &[$(Rule {
            name: $name,
            meaning: $meaning,
            source: $source,
            get: |rules| Value::write(&rules.$field),
            set: |rules, text| {
                rules.$field = Value::read(text)?;
                Ok(())
            },
        }),*];
    };
}

rules! {
    "desired" desired "tasks that the service should have" "the article: 4";
    "minimum-healthy-percent" minimum_healthy_percent "of the desired count that stay healthy in a deployment, rounded up" "AWS CDK's default: 50; the API's: 100 (DeploymentConfiguration)";
    "maximum-percent" maximum_percent "of the desired count that may run in a deployment, rounded down" "API DeploymentConfiguration: 200";
    "unhealthy-replacement" unhealthy_replacement "legacy stops an unhealthy task and then starts another; modern starts first" "modern since October 2023 (AWS What's New 2023/10); the article saw legacy";
    "breaker-percent" breaker_percent "of the desired count that may fail to become healthy before a deployment is given up" "API DeploymentCircuitBreaker: 50";
    "breaker-least" breaker_least "but at least this many" "API DeploymentCircuitBreaker: 3";
    "breaker-most" breaker_most "and at most this many" "API DeploymentCircuitBreaker: 200";
    "rollback" rollback "whether the last completed revision is deployed again then" "API DeploymentCircuitBreaker";
    "tick" tick "from one decision of the scheduler to the next" "not documented: assumed";
    "provisioning" provisioning "PROVISIONING: the network interface" "with pending and activating 17 to 19 s, as the article saw; how it is divided is assumed";
    "pending" pending "PENDING: waiting for the agent" "see provisioning";
    "activating" activating "ACTIVATING: image, containers, registration" "see provisioning";
    "container-start" container_start "into ACTIVATING until the container starts, and is registered" "registration before RUNNING: ECS task lifecycle; amazon-ecs-agent issue 1421";
    "jitter" jitter "by which each of these may be longer or shorter" "the article: listed 17 to 19 s after the start";
    "register-lag-least" register_lag_least "at least, from a registration until DNS shows it" "fits the article's 17 to 19 s: assumed";
    "register-lag" register_lag "at most, from a registration until DNS shows it" "the article: 0 to 3 s; Route 53: generally within 60 s";
    "deregister-lag-least" deregister_lag_least "at least, from a deregistration until DNS shows it" "the article: 0 to 3 s";
    "deregister-lag" deregister_lag "at most, from a deregistration until DNS shows it" "the article: 0 to 3 s";
    "deregister-first" deregister_first "from the deregistration to SIGTERM; ECS does not wait" "0: aws/containers-roadmap issues 343 and 1639";
    "deregister-last" deregister_last "whether a task that is stopped is deregistered only when it is STOPPED" "no; for Spot interruptions and load balancers reported otherwise (re:Post, fargate-spot-termination-notice), and for DNS not documented";
    "stop-timeout" stop_timeout "from SIGTERM to SIGKILL" "ContainerDefinition stopTimeout: 30 s; Fargate at most 120 s";
    "deprovisioning" deprovisioning "DEPROVISIONING: the network interface is deleted" "not documented: assumed";
    "health-check" has_health_check "whether the containers have a health check" "the article: yes";
    "health-interval" health_interval "from the end of a probe to the next one" "API HealthCheck: 30 s";
    "health-timeout" health_timeout "after which a probe has failed" "the article: 15 s; API HealthCheck: 5 s";
    "health-retries" health_retries "failures in a row that make a task unhealthy" "the article: 2; API HealthCheck: 3";
    "health-start-period" health_start_period "in which failures do not count" "the article: 5 s; API HealthCheck: 0";
    "health-report-lag" health_report_lag "from a change of health until the scheduler acts on it" "fits the article's 37 s from record to replacement: assumed";
    "steady-without-check" steady_without_check "after RUNNING until a task without a health check counts as healthy" "ECS rolling update: 40 s";
    "restart-pause" restart_pause "before the next start once three in a row have failed; doubles each time" "ECS service throttle logic; the figure is assumed";
    "restart-pause-most" restart_pause_most "at most" "ECS service throttle logic: 15 min";
    "ttl" ttl "of the records" "AWS CDK's default: 60 s; the article: 60, 15, 30 s";
    "negative-ttl" negative_ttl "how long it is kept that there is no record" "private zones through the VPC's resolver: 300 s (aws/aws-app-mesh-roadmap issue 221)";
    "most-answers" most_answers "records in an answer" "Cloud Map MULTIVALUE: 8 (API DnsConfig)";
    "resolver-caches" resolver_caches "caches between a client and the zone, of which each question meets one" "a VPC's resolver is a fleet (Route 53 Developer Guide, resolver availability and scaling); 1 is the worst case";
    "initially-healthy" initially_healthy "whether DNS names a task before its health is known" "Cloud Map AWS_INIT_HEALTH_STATUS: healthy";
    "cloud-map-health-delay" cloud_map_health_delay "from a report of health until answers show it" "API HealthCheckCustomConfig: about 30 s";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(rules: &mut Rules, text: &str) -> Result<(), String> {
        rules.set(&text.parse()?)
    }

    #[test]
    fn rules_with_which_nothing_would_ever_happen_are_refused() {
        for (rule, expected) in
            [("tick=0", "tick is 0s"), ("health-interval=0", "health-interval is 0s"), ("desired=0", "1 to 10000")]
        {
            let mut rules = Rules::default();
            set(&mut rules, rule).unwrap();
            assert!(rules.check_together().unwrap_err().contains(expected), "{rule}");
        }
    }

    #[test]
    fn every_rule_can_be_set_to_what_it_prints() {
        for rule in RULES {
            let mut rules = Rules::default();
            let value = (rule.get)(&rules);
            assert_eq!(set(&mut rules, &format!("{}={value}", rule.name)), Ok(()), "{}", rule.name);
            assert_eq!(rules, Rules::default(), "{}", rule.name);
            let other = match value.as_str() {
                "yes" => "no",
                "no" => "yes",
                "modern" => "legacy",
                _ => "77",
            };
            set(&mut rules, &format!("{}={other}", rule.name)).unwrap();
            assert_ne!(rules, Rules::default(), "{} has another value now", rule.name);
        }
    }

    #[test]
    fn what_is_no_rule_or_no_value_is_refused_with_what_to_do() {
        let mut rules = Rules::default();
        assert!(set(&mut rules, "ttl").unwrap_err().contains("ttl=15s"));
        assert!(set(&mut rules, "healthy=1").unwrap_err().contains("minimum-healthy-percent"));
        assert!(set(&mut rules, "ttl=soon").unwrap_err().contains("ttl cannot be \"soon\""));
        assert!(set(&mut rules, "desired=-1").is_err());
        assert!(set(&mut rules, "most-answers=0").is_err());
        assert_eq!(rules, Rules::default());
        set(&mut rules, "container-start=5s").unwrap();
        assert!(rules.check_together().unwrap_err().contains("5s"));
    }

    #[test]
    fn the_breaker_is_half_of_the_desired_count_but_three_to_two_hundred() {
        for (desired, threshold) in [(1, 3), (4, 3), (6, 3), (7, 4), (100, 50), (1000, 200)] {
            assert_eq!(Rules { desired, ..Rules::default() }.breaker_threshold(), threshold, "{desired}");
        }
    }
}
