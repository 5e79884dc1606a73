//! The processes of this rehearsal, and what they leave behind. A container ends with its first process, and nothing of a run
//! may outlive it; but whoever starts a process group of its own, as init does for its child, is not killed with its parent's.

use std::{
    collections::BTreeSet,
    fs, io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use tokio::process::{Child, Command};

/// First processes that run. Whatever else is a child of this process was left by one that has ended.
static FIRST: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn first() -> MutexGuard<'static, BTreeSet<i32>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Orphans become children of this process from now on.
///
/// # Errors
///
/// If the kernel refuses.
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// In the environment of a task's processes: whose they are, however far from the first one.
const MARK: &str = "LAMEDUCK_REHEARSED";

/// A first process.
#[derive(Debug)]
pub struct First {
    /// Its number.
    pub id: Pid,
    mark: String,
}

/// Starts the first process of a task, in a group of its own.
///
/// # Errors
///
/// If it cannot be started.
pub fn start(command: &mut Command) -> io::Result<(Child, First)> {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let mark = format!("{}-{}", getpid().as_raw_nonzero(), STARTED.fetch_add(1, Ordering::Relaxed));
    // Held meanwhile: a child that is not known yet would be taken for an orphan.
    let mut first = first();
    let child = command.env(MARK, &mark).process_group(0).kill_on_drop(true).spawn()?;
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let id = id.ok_or_else(|| io::Error::other("it has no process id"))?;
    first.insert(id.as_raw_nonzero().get());
    Ok((child, First { id, mark: format!("{MARK}={mark}") }))
}

/// A first process has ended, and was waited for: what it has left behind goes, too.
pub fn ended(process: &First) {
    let mut first = first();
    first.remove(&process.id.as_raw_nonzero().get());
    // Not the orphans of others, whose tasks go on.
    kill_all(|pid| {
        // Read of none that runs: where two hundred tasks end, that would be two hundred times two hundred.
        let environment = || fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        !first.contains(&pid) && environment().split(|byte| *byte == 0).any(|entry| entry == process.mark.as_bytes())
    });
}

/// Ends all that is left, whoever started it.
pub fn end() {
    kill_all(|_| true);
}

fn kill_all(is_meant: impl Fn(i32) -> bool) {
    // Whoever is killed may leave children of its own.
    loop {
        let orphans: Vec<_> = children().into_iter().filter(|pid| is_meant(*pid)).collect();
        if orphans.is_empty() {
            return;
        }
        for orphan in orphans.into_iter().filter_map(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(orphan, Signal::KILL);
            let _ = waitpid(Some(orphan), WaitOptions::empty());
        }
    }
}

/// Whether the first process of a container would get a signal: one that it neither catches nor blocks, to wait for it, does
/// not reach it, as the kernel keeps process 1 of a namespace from what would end it.
///
/// Source: <https://man7.org/linux/man-pages/man7/pid_namespaces.7.html>.
#[must_use]
pub fn handles(id: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", id.as_raw_nonzero())).unwrap_or_default();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
    };
    let bit = 1_u64 << (signal.as_raw() - 1);
    // Where nothing is known it is sent.
    mask("SigCgt").zip(mask("SigBlk")).is_none_or(|(caught, blocked)| (caught | blocked) & bit != 0)
}

/// The children of this process.
fn children() -> Vec<i32> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists: Vec<_> = threads.map(|thread| fs::read_to_string(thread.path().join("children"))).collect();
    if lists.iter().any(Result::is_ok) {
        let all = lists.into_iter().flatten();
        return all.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    }
    // A kernel without CONFIG_PROC_CHILDREN.
    let parent = getpid().as_raw_nonzero().get();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses, and may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}
