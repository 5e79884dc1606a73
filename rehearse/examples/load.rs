//! Sends requests at a rate to one address, as a rehearsal's clients do, and says how late it was with them.
//!
//!     cargo run --release -p rehearse --example load -- 127.0.0.1:8080 keep-alive 2000 5
//!
//! The client is `keep-alive` or `new-connections`. Neither asks DNS: it is the load generator alone that is seen.

use std::{
    env,
    error::Error,
    io::{Write, stdout},
    net::SocketAddrV4,
    num::NonZeroUsize,
    time::Duration,
};

use rehearse::{
    client::Profile,
    clock::Clock,
    load::{Load, Sender, Target, Timeouts},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, client, rate, seconds] = arguments.as_slice() else {
        return Err(
            "give an address, keep-alive or new-connections, requests per second, and for how many seconds".into()
        );
    };
    let address: SocketAddrV4 = address.parse()?;
    let rate = rate.parse::<f64>().ok().filter(|rate| *rate > 0.0).ok_or("the rate is not above zero")?;
    let time = Duration::try_from_secs_f64(seconds.parse()?)?;
    let mut behaviour = Profile::Front.behaviour();
    match client.as_str() {
        "keep-alive" => {}
        "new-connections" => behaviour.reuse = None,
        _ => return Err(format!("{client:?} is neither keep-alive nor new-connections").into()),
    }
    let second = Duration::from_secs(1);
    let load = Load {
        clock: Clock::new(Instant::now(), 1.0),
        rate,
        clients: vec![Sender { behaviour, target: Target::Front(address) }],
        path: "/".to_owned(),
        timeouts: Timeouts { dns: second, connect: 5 * second, request: 10 * second },
        most_in_flight: NonZeroUsize::new(10_000).ok_or("never")?,
        seed: 1,
    };
    let (before, begin) = (cpu_time(), Instant::now());
    let running = load.start()?;
    sleep(time).await;
    let sending = begin.elapsed();
    let came = running.finish().await?;
    let (spent, requests) = (cpu_time().saturating_sub(before), came.requests.len());
    let failed = came.requests.iter().filter(|request| !request.is_good()).count();
    let late = |share| came.lateness.at(share).as_micros();
    // What whoever waits for an answer sees, the generator's own lateness among it.
    let mut latencies: Vec<_> = came.requests.iter().map(|it| it.done.saturating_sub(it.intended)).collect();
    latencies.sort_unstable();
    let p99 = latencies.get(requests.saturating_sub(1) * 99 / 100).map_or(0, Duration::as_micros);
    #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
    let (held, cost) = (requests as f64 / sending.as_secs_f64(), spent.as_secs_f64() * 1e6 / requests.max(1) as f64);
    writeln!(
        stdout(),
        "requests {requests}\nfailed {failed}\nnot_sent {}\nrate {held:.1}\nlate_p50_us {}\nlate_p99_us {}\nlate_max_us {}\n\
         latency_p99_us {p99}\ncpu_us {cost:.1}",
        came.not_sent,
        late(0.5),
        late(0.99),
        came.lateness.max().as_micros(),
    )?;
    Ok(())
}

/// What this process has used of the CPUs.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}
