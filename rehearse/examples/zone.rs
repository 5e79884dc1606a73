//! Serves a zone of a number of addresses, alone, as the rehearsal's DNS server does: for clients that are to be tried on it.
//!
//!     cargo run --release -p rehearse --example zone -- 127.0.0.1:5300 4

use std::{
    error::Error,
    io::{Write, stdout},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rehearse::{
    cluster::{Addresses, Cluster},
    dns::{Authority, Names, Role, Server, Terms},
    rules::Rules,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(bind), Some(count), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("give an address, such as 127.0.0.1:5300, and how many tasks are named".into());
    };
    let (bind, count) = (bind.parse::<SocketAddr>()?, count.parse::<u8>()?);
    let rules = Rules { desired: count.into(), most_answers: count.into(), ..Rules::default() };
    let names = Names { service: "fsde-back".to_owned(), namespace: "internal".to_owned() };
    let terms = Terms { role: Role::Authority, names, task_port: 1235, negative_ttl: rules.negative_ttl, speed: 1.0 };
    let room = Addresses { first: Ipv4Addr::new(127, 0, 1, 1), count: count.into() };
    let (cluster, _) = Cluster::steady(rules, room, 1);
    let source = Authority::new(Arc::new(Mutex::new(cluster)), || Duration::ZERO);
    let server = Server::start(bind, terms, Arc::new(source))?;
    writeln!(stdout(), "fsde-back.internal is answered at {}", server.address())?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
