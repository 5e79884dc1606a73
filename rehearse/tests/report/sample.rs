//! A report as a rehearsal would make it: four tasks are replaced by four others while three clients ask them.

use std::{net::Ipv4Addr, time::Duration};

use rehearse::{
    record::{Client, Record},
    report::{Answer, Judged, Machine, Report, Schema},
    request::{Attempt, Failure, Lookup, Outcome, Request},
    timeline::{Event, State, Status, TaskId, What},
};

/// What is to be run.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) tasks: u32,
    /// Of the DNS record, in seconds.
    pub(crate) ttl: u64,
    /// For how long a task serves after SIGTERM, in seconds.
    pub(crate) drain: u64,
    /// Requests per second, of all clients together.
    pub(crate) rate: u64,
}

const DEPLOYED: u64 = 31;
const SECOND_HALF: u64 = 91;
const LENGTH: u64 = 130;
const PROFILES: [&str; 3] = ["first-only", "try-next", "front"];

/// A whole report of two runs.
pub(crate) fn report() -> Report {
    let naive = Settings { tasks: 4, ttl: 60, drain: 0, rate: 30 };
    let answer = |question: &str, answer: &str, expectation: &str, held, rows: &[(&str, &str)]| Answer {
        question: question.to_owned(),
        answer: answer.to_owned(),
        expectation: expectation.to_owned(),
        held,
        rows: rows.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    Report {
        schema: Schema,
        version: "0.1.0".to_owned(),
        command: "rehearse --speed 10".to_owned(),
        started: "2026-01-02T03:04:05Z".to_owned(),
        was_interrupted: false,
        machine: Machine {
            system: "Linux 6.12".to_owned(),
            architecture: "x86_64".to_owned(),
            processor: "A processor".to_owned(),
            cores: 2,
            memory_mib: 8192,
        },
        answers: vec![
            answer(
                "Are requests spread over the tasks?",
                "Yes: each of 4 tasks answered between 24.1% and 25.9% of 1,200 requests.",
                "Shares differ by no more than chance: p above 0.01.",
                true,
                &[("chi-square", "1.3, p = 0.73"), ("with keep-alive", "one task answered everything")],
            ),
            answer(
                "When are records registered and deregistered during a deploy?",
                "Registered 14 s after a task was created, deregistered 1.5 s after SIGTERM.",
                "Registration in ACTIVATING, deregistration with SIGTERM plus the lag of DNS.",
                true,
                &[("registered before RUNNING", "8 of 8 tasks")],
            ),
            answer(
                "Do requests fail during a deploy?",
                "Yes: with a TTL of 60 s and no drain, requests of first-only failed for 26.0 s; with init and front none did.",
                "None, whatever the TTL, when callers use front and tasks run under init.",
                false,
                &[],
            ),
            answer(
                "Is an unhealthy task replaced?",
                "Yes, 61 s after it began to fail: two checks, 30 s apart.",
                "After retries × interval, by a task that is registered 14 s later.",
                true,
                &[],
            ),
        ],
        runs: vec![
            judged("TTL 60 s, no drain <script>alert(1)</script>", naive),
            judged("TTL 30 s, 30 s of drain under init", Settings { ttl: 30, drain: 30, ..naive }),
        ],
    }
}

/// A run, and why its requests failed.
pub(crate) fn judged(title: &str, settings: Settings) -> Judged {
    let Settings { tasks, ttl, drain, rate } = settings;
    let mut random = fastrand::Rng::with_seed(1);
    let (events, lives) = events(tasks, drain);
    let clients: Vec<Client> = PROFILES
        .into_iter()
        .flat_map(|profile| {
            let names: &[&str] = if profile == "front" { &[""] } else { &["cache phase 1/2", "cache phase 2/2"] };
            names.iter().map(move |name| Client { profile: profile.to_owned(), name: (*name).to_owned() })
        })
        .collect();
    let mut requests = Vec::new();
    let mut causes = Vec::new();
    // Load begins when tasks are there.
    for nth in 15 * rate..(LENGTH - 10) * rate {
        let intended = Duration::from_micros(nth * 1_000_000 / rate);
        let client = usize::try_from(nth).expect("there are not that many") % clients.len();
        let (request, cause) = request(client, &clients[client], intended, settings, &lives, &mut random);
        requests.push(request);
        causes.push(cause.map(str::to_owned));
    }
    let record = Record {
        title: title.to_owned(),
        settings: [
            ("tasks", tasks.to_string()),
            ("TTL", format!("{ttl}s")),
            ("drain", format!("{drain}s")),
            ("minimum healthy percent", "50".to_owned()),
            ("maximum percent", "200".to_owned()),
            ("stop timeout", "30s".to_owned()),
            ("load", format!("{rate} per second, open loop")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        speed: 10.0,
        clients,
        events,
        requests,
        length: Duration::from_secs(LENGTH),
    };
    Judged::new(record, causes)
}

/// When a task is there, and when DNS names it.
struct Life {
    task: TaskId,
    address: Ipv4Addr,
    listens: Duration,
    gone: Duration,
    registered: Duration,
    deregistered: Duration,
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn events(tasks: u32, drain: u64) -> (Vec<Event>, Vec<Life>) {
    let mut events = Vec::new();
    let mut lives = Vec::new();
    let mut say = |at: Duration, what| events.push(Event { at, what });
    say(millis(DEPLOYED * 1000 - 500), What::DeploymentStarted { revision: 2 });
    say(millis(20_000), What::Note { text: "the fault <b>latency</b> was asked for".to_owned() });
    for number in 1..=2 * tasks {
        let task = TaskId(number);
        let is_new = number > tasks;
        let created = if is_new { DEPLOYED * 1000 } else { 0 } + u64::from(number % 4) * 150;
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 1, 0).to_bits() + number);
        say(millis(created), What::Created { task, revision: if is_new { 2 } else { 1 }, address });
        let moved = |to| What::Moved { task, to, reason: None };
        say(millis(created + 2000), moved(State::Pending));
        say(millis(created + 5000), moved(State::Activating));
        say(millis(created + 6000), What::Listens { task });
        say(millis(created + 6500), What::Registered { task });
        say(millis(created + 7500), moved(State::Running));
        say(millis(created + 12_000), What::Health { task, status: Status::Healthy });
        let mut life = Life {
            task,
            address,
            listens: millis(created + 6000),
            gone: Duration::MAX,
            registered: millis(created + 6500),
            deregistered: Duration::MAX,
        };
        if !is_new {
            let stop = if number <= tasks / 2 { DEPLOYED * 1000 + 200 } else { SECOND_HALF * 1000 };
            let reason = Some("(deployment of revision 2)".to_owned());
            say(millis(stop), What::Moved { task, to: State::Stopping, reason });
            say(millis(stop), What::Signalled { task, signal: "SIGTERM".to_owned() });
            life.deregistered = millis(stop + 1500);
            say(life.deregistered, What::Deregistered { task });
            // The last one is slow to stop.
            let is_killed = number == tasks;
            life.gone = millis(stop + if is_killed { 30_000 } else { drain * 1000 + 120 });
            if is_killed {
                say(life.gone, What::Signalled { task, signal: "SIGKILL".to_owned() });
                say(millis(stop - 8000), What::Health { task, status: Status::Unhealthy });
            }
            let how = if is_killed { "SIGKILL" } else { "exit code 0" };
            say(life.gone, What::Exited { task, how: how.to_owned() });
            say(life.gone + millis(300), moved(State::Deprovisioning));
            say(life.gone + millis(4000), moved(State::Stopped));
        }
        lives.push(life);
    }
    say(millis(126_000), What::DeploymentCompleted { revision: 2 });
    events.sort_by_key(|event| event.at);
    (events, lives)
}

fn request(
    client: usize,
    Client { profile, .. }: &Client,
    intended: Duration,
    Settings { ttl, drain, .. }: Settings,
    lives: &[Life],
    random: &mut fastrand::Rng,
) -> (Request, Option<&'static str>) {
    let sent = intended + Duration::from_micros(random.u64(20..400));
    let took = Duration::from_micros(random.u64(400..1200) + if random.u8(..) == 0 { 30_000 } else { 0 });
    let mut request = Request {
        client,
        intended,
        sent,
        done: sent + took,
        outcome: Outcome::Answered { status: 200 },
        task: None,
        address: None,
        lookup: None,
        attempts: Vec::new(),
    };
    // The client's cache was filled at its own phase: the first one 26 s after the first tasks have stopped.
    let phase = if client.is_multiple_of(2) { (DEPLOYED + 26) % ttl } else { (DEPLOYED + 3) % ttl };
    let at = Duration::from_secs((intended.as_secs() + ttl - phase) / ttl * ttl + phase)
        .saturating_sub(Duration::from_secs(ttl));
    let asks_dns = profile != "front";
    let named = |at: Duration| lives.iter().filter(move |life| (life.registered..life.deregistered).contains(&at));
    let mut known: Vec<&Life> = named(if asks_dns { at.max(Duration::from_secs(14)) } else { intended }).collect();
    // Any order would do that begins with each of them as often; this one is made sooner.
    if !known.is_empty() {
        let first = random.usize(..known.len());
        known.rotate_left(first);
    }
    if asks_dns {
        let addresses = known.iter().take(8).map(|life| life.address).collect();
        request.lookup = Some(Lookup { addresses, at, failure: None });
    } else {
        known.retain(|life| (life.listens..life.gone).contains(&intended));
    }
    let tried = if profile == "first-only" { 1 } else { known.len() };
    for life in known.iter().take(tried) {
        if (life.listens..life.gone).contains(&intended) {
            request.task = Some(life.task.to_string());
            request.address = Some(life.address);
            // One task of one run answers with errors for a while.
            if drain == 0 && life.task == TaskId(1) && (17..22).contains(&intended.as_secs()) {
                request.outcome = Outcome::Answered { status: 500 };
                return (request, Some("app-error"));
            }
            return (request, None);
        }
        let address = life.address;
        request.attempts.push(Attempt { address, at: sent, failure: Failure::Refused, was_reused: false });
    }
    request.outcome = Outcome::Failed { cause: "connection refused".to_owned() };
    let cause = if tried == 1 && known.len() > 1 { "stale-first-dead" } else { "stale-all-dead" };
    (request, Some(cause))
}
