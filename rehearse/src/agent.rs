//! Starts the processes of tasks, signals them, and sees how they end. Decides nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpStream,
    process::{Child, Command},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    cluster::Fact,
    nursery::{self, First},
    timeline::TaskId,
};

/// How many of the last lines of a task are kept, to be shown when it ends unexpectedly.
const LINES: usize = 12;

/// How often it is looked whether a task listens.
const LISTENING: Duration = Duration::from_millis(10);

/// How a task's process is started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Launch {
    /// The program and its arguments, in which `{ip}`, `{port}`, `{task}` and `{revision}` stand for the task's own.
    pub command: Vec<String>,
    /// What its environment has besides what this process has; with the same placeholders.
    pub environment: Vec<(String, String)>,
    /// Where it listens.
    pub port: u16,
}

impl Launch {
    fn command(&self, task: TaskId, revision: u32, address: Ipv4Addr) -> Command {
        let fill = |text: &String| {
            text.replace("{ip}", &address.to_string())
                .replace("{port}", &self.port.to_string())
                .replace("{task}", &task.to_string())
                .replace("{revision}", &revision.to_string())
        };
        let mut words = self.command.iter().map(fill);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What is set for us, or for a front or an init of this shell, is not meant for the tasks.
        let is_ours = |name: &str| ["BACK_", "FRONT_", "INIT_", "REHEARSE_"].iter().any(|it| name.starts_with(it));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_ours)) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, fill(value))));
        command
    }
}

#[derive(Debug)]
enum Order {
    Terminate,
    Kill,
}

#[derive(Debug)]
struct Running {
    orders: UnboundedSender<Order>,
    watching: JoinHandle<()>,
    lines: Lines,
}

/// The last lines that a task wrote.
type Lines = Arc<Mutex<VecDeque<String>>>;

/// The processes of a service's tasks. They end with it.
#[derive(Debug)]
pub struct Agent {
    launch: Launch,
    tasks: BTreeMap<TaskId, Running>,
    facts: UnboundedSender<Fact>,
}

impl Agent {
    /// An agent that tells what it sees, and where it is told.
    #[must_use]
    pub fn new(launch: Launch) -> (Self, UnboundedReceiver<Fact>) {
        let (facts, seen) = unbounded_channel();
        (Self { launch, tasks: BTreeMap::new(), facts }, seen)
    }

    /// Starts a task's process. If that is not possible, it has ended.
    pub fn start(&mut self, task: TaskId, revision: u32, address: Ipv4Addr) {
        let facts = self.facts.clone();
        let lines = Lines::default();
        let started = nursery::start(&mut self.launch.command(task, revision, address));
        let (mut child, id) = match started {
            Ok(started) => started,
            Err(error) => {
                let program = self.launch.command.first().map_or("", String::as_str);
                let how = format!("{program} cannot be started: {error}");
                // Nobody listens any more when the run is over.
                let _ = facts.send(Fact::Exited { task, how });
                return;
            }
        };
        let (orders, received) = unbounded_channel();
        let readers = [
            child.stdout.take().map(|output| tokio::spawn(keep(output, Arc::clone(&lines)))),
            child.stderr.take().map(|output| tokio::spawn(keep(output, Arc::clone(&lines)))),
        ];
        let port = self.launch.port;
        let told = Arc::clone(&lines);
        let watching = tokio::spawn(async move {
            let listening = tokio::spawn(listens(task, address, port, facts.clone()));
            let how = watch(child, id, received, || {
                let text = format!(
                    "{task} has no handler for SIGTERM: as the first process of a container it goes on until SIGKILL"
                );
                let _ = facts.send(Fact::Note(text));
            })
            .await;
            listening.abort();
            // What it wrote last may still be on its way, unless somebody else holds the pipe.
            for reader in readers.into_iter().flatten() {
                let mut reader = reader;
                if timeout(Duration::from_millis(100), &mut reader).await.is_err() {
                    reader.abort();
                }
            }
            let last = told.lock().unwrap_or_else(PoisonError::into_inner).back().cloned();
            let how =
                if how == "exit code 0" { how } else { last.map_or(how.clone(), |last| format!("{how}: {last}")) };
            let _ = facts.send(Fact::Exited { task, how });
        });
        self.tasks.insert(task, Running { orders, watching, lines });
    }

    /// Sends SIGTERM to a task's first process, as the platform does.
    pub fn terminate(&self, task: TaskId) {
        self.order(task, Order::Terminate);
    }

    /// Sends SIGKILL to all of a task's processes.
    pub fn kill(&self, task: TaskId) {
        self.order(task, Order::Kill);
    }

    fn order(&self, task: TaskId, order: Order) {
        if let Some(running) = self.tasks.get(&task) {
            // It has ended, if nobody takes orders.
            let _ = running.orders.send(order);
        }
    }

    /// The last lines that a task wrote.
    #[must_use]
    pub fn last_lines(&self, task: TaskId) -> Vec<String> {
        let lines = self.tasks.get(&task).map(|running| &running.lines);
        lines
            .map(|lines| lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Kills what is left, and waits until it is gone.
    pub async fn clean_up(mut self) {
        let running: Vec<_> = std::mem::take(&mut self.tasks).into_values().collect();
        for running in &running {
            let _ = running.orders.send(Order::Kill);
        }
        for running in running {
            let _ = running.watching.await;
        }
    }
}

/// Follows orders until the process has ended. Says so if it does not care for SIGTERM.
async fn watch(mut child: Child, first: First, mut orders: UnboundedReceiver<Order>, is_deaf: impl Fn()) -> String {
    let (mut is_told, id) = (true, first.id);
    let ended = loop {
        tokio::select! {
            biased;
            ended = child.wait() => break ended,
            order = orders.recv(), if is_told => {
                // None once it is waited for: its id may be another's then.
                if child.id().is_none() {
                    continue;
                }
                // It may have ended just now.
                let _ = match order {
                    Some(Order::Terminate) if !nursery::handles(id, Signal::TERM) => {
                        is_deaf();
                        Ok(())
                    }
                    Some(Order::Terminate) => kill_process(id, Signal::TERM),
                    Some(Order::Kill) => kill_process_group(id, Signal::KILL),
                    None => {
                        is_told = false;
                        kill_process_group(id, Signal::KILL)
                    }
                };
            }
        }
    };
    nursery::ended(&first);
    match ended {
        Ok(status) => in_words(status),
        Err(error) => format!("cannot be waited for: {error}"),
    }
}

/// How a process ended, such as "exit code 1" or "signal 9".
fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "SIGKILL".to_owned(),
        (None, Some(15)) => "SIGTERM".to_owned(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

/// Tells when somebody listens there.
async fn listens(task: TaskId, address: Ipv4Addr, port: u16, facts: UnboundedSender<Fact>) {
    while TcpStream::connect((address, port)).await.is_err() {
        sleep(LISTENING).await;
    }
    let _ = facts.send(Fact::Listens(task));
}

/// Keeps the last lines, so that the pipe never fills, and none of them in its whole length if it is a long one.
async fn keep(output: impl AsyncRead + Unpin, lines: Lines) {
    const LONGEST: usize = 500;
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while let Ok(read) = reader.fill_buf().await
        && !read.is_empty()
    {
        let length = read.len();
        for byte in read {
            if *byte != b'\n' {
                if line.len() < LONGEST {
                    line.push(*byte);
                }
                continue;
            }
            push(&lines, &line);
            line.clear();
        }
        reader.consume(length);
    }
    if !line.is_empty() {
        push(&lines, &line);
    }
}

fn push(lines: &Lines, line: &[u8]) {
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == LINES {
        lines.pop_front();
    }
    lines.push_back(String::from_utf8_lossy(line).into_owned());
}
