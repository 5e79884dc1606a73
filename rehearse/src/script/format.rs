//! The file format of scenarios: TOML, of which nothing is passed over. Pure.

use std::{collections::BTreeMap, fmt, ops::Range as Bytes, time::Duration};

use console::duration;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{Case, Expectation, Fault, Figure, Script};
use crate::{
    rules::{Rules, Setting},
    simulate::{Act, Conduct, Connects, Crowd, Cue, Habit, Model, Range, When, habit},
    verdict::Cause,
};

/// A film of a scenario ends then at the latest: some never come to rest.
const LONGEST: Duration = Duration::from_hours(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    about: String,
    source: String,
    #[serde(default)]
    rules: Settings,
    #[serde(default)]
    tasks: Tasks,
    #[serde(default)]
    revision: Vec<Spanned<Revision>>,
    #[serde(default, rename = "do")]
    deeds: Vec<Spanned<Deed>>,
    #[serde(default)]
    clients: Clients,
    #[serde(default)]
    expect: Vec<Spanned<Expected>>,
    #[serde(default)]
    case: Vec<Spanned<Variant>>,
}

/// What a case has beside, or instead of, what all have.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    #[serde(default)]
    rules: Settings,
    #[serde(default)]
    tasks: Tasks,
    revision: Option<Vec<Spanned<Revision>>>,
    #[serde(rename = "do")]
    deeds: Option<Vec<Spanned<Deed>>>,
    #[serde(default)]
    clients: Clients,
    #[serde(default)]
    expect: Vec<Spanned<Expected>>,
}

type Settings = BTreeMap<String, Spanned<Scalar>>;

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Tasks {
    drain: Option<Time>,
    boot: Option<Time>,
    answers_in: Option<Time>,
    finishes: Option<bool>,
    silent_after: Option<Time>,
    reused_after: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Revision {
    number: u32,
    boot: Option<Time>,
    #[serde(default)]
    never_listens: bool,
    crashes_after: Option<Time>,
    sickens_after: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Deed {
    at: Option<Time>,
    after: Option<Time>,
    deploy: Option<u32>,
    scale: Option<u32>,
    stop: Option<u32>,
    sicken: Option<u32>,
    lose_zone: Option<u8>,
    noticed_after: Option<Time>,
    dns_fails: Option<Time>,
    serve_stale: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Clients {
    habits: Option<Vec<Spanned<String>>>,
    processes: Option<Spanned<u32>>,
    resolvers: Option<Spanned<u32>>,
    rate: Option<Spanned<f64>>,
    connect_timeout: Option<Time>,
    request_timeout: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Expected {
    client: Option<String>,
    failing_plays: Option<Bounds>,
    mean: Option<Bounds>,
    worst: Option<Bounds>,
    longest: Option<Bounds>,
    slow: Option<Bounds>,
    slowest: Option<Bounds>,
    #[serde(default)]
    causes: BTreeMap<Cause, Bounds>,
    completes: Option<Bounds>,
    gives_up: Option<Bounds>,
    stuck: Option<Bounds>,
    killed: Option<Bounds>,
    least_named: Option<Bounds>,
    most_named: Option<Bounds>,
    least_serving: Option<Bounds>,
    most_in_answer: Option<Bounds>,
    takes: Option<Bounds>,
    gap: Option<Bounds>,
}

/// A duration in words, or a number of seconds.
#[derive(Clone, Copy)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Scalar::deserialize(deserializer)?;
        duration::parse(&scalar.0).map(Time).map_err(|error| de::Error::custom(format!("{:?}: {error}", scalar.0)))
    }
}

/// Text, a whole number, or yes or no: what a rule can be set to.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl de::Visitor<'_> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text such as \"30s\", a whole number, true or false")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
            fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<Scalar, E> {
                Ok(Scalar(is_on.to_string()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// One number, or a list of the least and the most.
#[derive(Clone, Copy)]
struct Bounds(Range);

impl<'de> Deserialize<'de> for Bounds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> de::Visitor<'de> for Any {
            type Value = Bounds;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or two as in [1, 2.5]: the least and the most")
            }
            #[expect(clippy::cast_precision_loss, reason = "nobody expects more than 2^53 of anything")]
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bounds, E> {
                Ok(Bounds(Range::only(number as f64)))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Bounds, E> {
                Ok(Bounds(Range::only(number)))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Bounds, A::Error> {
                let mut next = || sequence.next_element::<f64>();
                let (Some(least), Some(most), None) = (next()?, next()?, next()?) else {
                    return Err(de::Error::custom("expected two numbers: the least and the most"));
                };
                if least <= most {
                    Ok(Bounds(Range { least, most }))
                } else {
                    Err(de::Error::custom(format!("nothing is between {least} and {most}: the least comes first")))
                }
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Where in a text something is, to say so.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn fault(&self, at: &Bytes<usize>, what: impl Into<String>) -> Fault {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        Fault { file: self.file.to_owned(), line, what: what.into() }
    }
}

pub(super) fn parse(name: &str, file: &str, text: &str) -> Result<Script, Fault> {
    let source = Source { file, text };
    let read: File = toml::from_str(text).map_err(|error| {
        let what = error.message().replace('\n', "; ");
        let hint = "`rehearse scenarios --show scale-in` shows a file that is right";
        source.fault(&error.span().unwrap_or(0..0), format!("{what}: {hint}"))
    })?;
    for (what, said) in [("title", &read.title), ("about", &read.about), ("source", &read.source)] {
        if said.trim().is_empty() {
            return Err(source.fault(&(0..0), format!("{what} is empty: write what people should know")));
        }
    }
    let mut cases: Vec<Case> = Vec::new();
    let only = read.case.is_empty().then(|| Spanned::new(0..0, Variant::default()));
    for variant in read.case.iter().chain(&only) {
        let case = case(&source, &read, variant)?;
        if cases.iter().any(|other| other.name == case.name) {
            return Err(source.fault(&variant.span(), format!("there are two cases {:?}: rename one", case.name)));
        }
        cases.push(case);
    }
    Ok(Script { name: name.to_owned(), title: read.title, about: read.about, source: read.source, cases })
}

fn case(source: &Source<'_>, all: &File, variant: &Spanned<Variant>) -> Result<Case, Fault> {
    let (span, variant) = (variant.span(), variant.get_ref());
    let rules = rules(source, &[&all.rules, &variant.rules], &span)?;
    let time = |of: fn(&Tasks) -> Option<Time>| of(&variant.tasks).or(of(&all.tasks)).map(|time| time.0);
    let mut model = Model::new(rules, time(|tasks| tasks.drain).unwrap_or_default());
    model.boot = time(|tasks| tasks.boot).unwrap_or(model.boot);
    model.answers_in = time(|tasks| tasks.answers_in).unwrap_or_default();
    model.finishes = variant.tasks.finishes.or(all.tasks.finishes).unwrap_or(true);
    model.silent_after = time(|tasks| tasks.silent_after);
    model.reused_after = time(|tasks| tasks.reused_after);
    model.longest = LONGEST;
    for revision in variant.revision.as_ref().unwrap_or(&all.revision) {
        let it = revision.get_ref();
        let conduct = Conduct {
            boot: it.boot.map(|time| time.0),
            never_listens: it.never_listens,
            crashes_after: it.crashes_after.map(|time| time.0),
            sickens_after: it.sickens_after.map(|time| time.0),
        };
        if model.conduct.insert(it.number, conduct).is_some() {
            return Err(source.fault(&revision.span(), format!("revision {} is there twice: join them", it.number)));
        }
    }
    let (habits, crowd) = clients(source, &all.clients, &variant.clients, &span)?;
    let cues = cues(source, variant.deeds.as_ref().unwrap_or(&all.deeds), &span)?;
    let mut expectations = Vec::new();
    for expected in all.expect.iter().chain(&variant.expect) {
        expectations.extend(expected_of(source, expected, &habits)?);
    }
    if expectations.is_empty() {
        let of = if variant.name.is_empty() { String::new() } else { format!(" of case {:?}", variant.name) };
        return Err(source.fault(&span, format!("nothing is expected{of}: add [[expect]] or [[case.expect]]")));
    }
    Ok(Case { name: variant.name.clone(), model, cues, habits, crowd, expectations })
}

fn rules(source: &Source<'_>, settings: &[&Settings], span: &Bytes<usize>) -> Result<Rules, Fault> {
    let mut rules = Rules::default();
    let mut last = span.clone();
    for (name, value) in settings.iter().copied().flatten() {
        let setting = Setting { name: name.clone(), value: value.get_ref().0.clone() };
        rules.set(&setting).map_err(|error| source.fault(&value.span(), error))?;
        last = value.span();
    }
    rules.check_together().map_err(|error| source.fault(&last, error))?;
    Ok(rules)
}

fn clients(
    source: &Source<'_>,
    all: &Clients,
    own: &Clients,
    span: &Bytes<usize>,
) -> Result<(Vec<Habit>, Crowd), Fault> {
    let names = own.habits.as_ref().or(all.habits.as_ref()).filter(|names| !names.is_empty()).ok_or_else(|| {
        source.fault(span, "there are no clients: add [clients] with habits = [\"try-next\", \"first-only\"]")
    })?;
    let mut habits = Vec::new();
    for name in names {
        let mut habit = habit(name.get_ref()).map_err(|error| source.fault(&name.span(), error))?;
        if let Some(Time(limit)) = own.connect_timeout.or(all.connect_timeout) {
            habit.connects = Connects::Each(limit);
        }
        if let Some(Time(limit)) = own.request_timeout.or(all.request_timeout) {
            habit.gives_up = limit;
        }
        habits.push(habit);
    }
    let count = |what: &str, count: Option<&Spanned<u32>>, unset: usize| {
        let Some(count) = count else { return Ok(unset) };
        let number = usize::try_from(*count.get_ref()).ok().filter(|number| (1..=1000).contains(number));
        number.ok_or_else(|| source.fault(&count.span(), format!("{what} is {}: set 1 to 1000", count.get_ref())))
    };
    let clients = count("processes", own.processes.as_ref().or(all.processes.as_ref()), 1)?;
    let resolvers = count("resolvers", own.resolvers.as_ref().or(all.resolvers.as_ref()), clients)?;
    let rate = match own.rate.as_ref().or(all.rate.as_ref()) {
        None => 10.0,
        Some(rate) if (0.01..=1000.0).contains(rate.get_ref()) => *rate.get_ref(),
        Some(rate) => {
            let what = format!("rate is {}: set 0.01 to 1000 requests a second", rate.get_ref());
            return Err(source.fault(&rate.span(), what));
        }
    };
    Ok((habits, Crowd { clients, resolvers, rate }))
}

fn cues(source: &Source<'_>, deeds: &[Spanned<Deed>], span: &Bytes<usize>) -> Result<Vec<Cue>, Fault> {
    if deeds.is_empty() {
        return Err(source.fault(span, "nothing is done: add [[do]] with at = \"10s\" and deploy = 2"));
    }
    let mut cues: Vec<Cue> = Vec::new();
    for deed in deeds {
        let has_deployed = cues.iter().any(|cue| matches!(cue.act, Act::Deploy(_)));
        let cue = cue(deed.get_ref(), has_deployed).map_err(|what| source.fault(&deed.span(), what))?;
        cues.push(cue);
    }
    Ok(cues)
}

fn cue(deed: &Deed, has_deployed: bool) -> Result<Cue, &'static str> {
    let when = match (deed.at, deed.after) {
        (Some(Time(at)), None) => When::At(at),
        (None, Some(Time(wait))) if has_deployed => When::Deployed(wait),
        (None, Some(_)) => return Err("after counts from the end of a deploy, and there is none before: use at"),
        (Some(_), Some(_)) | (None, None) => {
            return Err("it is not clear when this is done: set either at or after, to a time such as \"10s\"");
        }
    };
    let noticed_after = deed.noticed_after.map_or(Duration::from_mins(1), |time| time.0);
    let is_stale_served = deed.serve_stale.unwrap_or(false);
    let acts = [
        deed.deploy.map(Act::Deploy),
        deed.scale.map(Act::Scale),
        deed.stop.map(Act::Stop),
        deed.sicken.map(Act::Sicken),
        deed.lose_zone.map(|zone| Act::LoseZone { zone, noticed_after }),
        deed.dns_fails.map(|Time(lasts)| Act::SilenceDns { lasts, is_stale_served }),
    ];
    let mut acts = acts.into_iter().flatten();
    let (Some(act), None) = (acts.next(), acts.next()) else {
        return Err("it is not clear what is done: set one of deploy, scale, stop, sicken, lose-zone and dns-fails");
    };
    match act {
        Act::Deploy(0) => Err("deploy = 0: revisions count from 1, which runs at the beginning"),
        Act::Scale(0) => Err("scale = 0: set 1 or more tasks"),
        Act::Stop(0) | Act::Sicken(0) => Err("no task: set 1 or more"),
        Act::LoseZone { zone: 2.., .. } => Err("lose-zone: there are two zones, 0 and 1"),
        Act::Deploy(_)
        | Act::Scale(_)
        | Act::Stop(_)
        | Act::Sicken(_)
        | Act::LoseZone { .. }
        | Act::SilenceDns { .. } => {
            if deed.noticed_after.is_some() && deed.lose_zone.is_none() {
                return Err("noticed-after belongs to lose-zone: take it away, or lose a zone");
            }
            if deed.serve_stale.is_some() && deed.dns_fails.is_none() {
                return Err("serve-stale belongs to dns-fails: take it away, or have DNS fail");
            }
            Ok(Cue { when, act })
        }
    }
}

fn expected_of(source: &Source<'_>, expected: &Spanned<Expected>, habits: &[Habit]) -> Result<Vec<Expectation>, Fault> {
    let (span, it) = (expected.span(), expected.get_ref());
    let fault = |what: String| Err(source.fault(&span, what));
    if let Some(client) = &it.client
        && !habits.iter().any(|habit| habit.name == client)
    {
        let names: Vec<_> = habits.iter().map(|habit| habit.name).collect();
        let names = names.join(", ");
        return fault(format!("{client:?} is none of the clients here, which are {names}: add it to habits"));
    }
    let of_clients = [it.failing_plays, it.mean, it.worst, it.longest, it.slow, it.slowest];
    let of_service = [
        it.completes,
        it.gives_up,
        it.stuck,
        it.killed,
        it.least_named,
        it.most_named,
        it.least_serving,
        it.most_in_answer,
        it.takes,
        it.gap,
    ];
    let named = |names: &[(&'static str, Figure)], bounds: &[Option<Bounds>]| -> Vec<(Figure, Range)> {
        names.iter().zip(bounds).filter_map(|((_, figure), bounds)| Some((*figure, (*bounds)?.0))).collect()
    };
    let mut clients = named(&Figure::OF_CLIENTS, &of_clients);
    clients.extend(it.causes.iter().map(|(cause, bounds)| (Figure::Of(*cause), bounds.0)));
    let service = named(&Figure::OF_SERVICE, &of_service);
    let (mine, others) = if it.client.is_some() { (clients, service) } else { (service, clients) };
    if let Some((figure, _)) = others.first() {
        let name = figure.name();
        return fault(match &it.client {
            Some(_) => format!("{name} is of the service, not of a client: move it to an [[expect]] without client"),
            None => format!("{name} is of a client: say of which, as in client = \"try-next\""),
        });
    }
    if mine.is_empty() {
        return fault(
            "nothing is expected here: add a figure, such as failing-plays = 0 or completes = 100".to_owned(),
        );
    }
    let of = |(figure, bounds)| Expectation { client: it.client.clone(), figure, bounds };
    Ok(mine.into_iter().map(of).collect())
}
