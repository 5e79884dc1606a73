//! The same deployments with real processes, ten times as fast as the service lives, and in virtual time: what real clients
//! saw is what the simulation expects of them.

use std::{path::Path, process::Command};

use rehearse::simulate::Sweep;

#[test]
fn what_real_clients_see_is_what_the_simulation_expects() {
    let own = Path::new(env!("CARGO_BIN_EXE_rehearse"));
    for name in ["init", "front", "back"] {
        let beside = own.with_file_name(name);
        assert!(beside.is_file(), "{} is not built: run `cargo build --workspace` first", beside.display());
    }
    let clients = ["front", "try-next", "first-only", "fixed-order", "keep-alive"];
    let output = Command::new(own)
        .args(["sweep", "--real", "--json", "--speed", "10", "--rate", "1", "--phases", "6", "--net", "127.240.1.1"])
        .args(["--ttls", "30s,60s", "--drains", "0s,15s,35s", "--minimums", "50,100", "--intervals", "30s"])
        .args(["--deploys", "50", "--clients", &clients.join(",")])
        .arg("--output")
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("agreement"))
        .output()
        .unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    let sweep: Sweep = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {complained}"));
    let (mut cells, mut failing, mut others) = (0, 0, Vec::new());
    for panel in &sweep.panels {
        for column in &panel.columns {
            for cell in &column.cells {
                let what = format!(
                    "{}, minimum {} %, TTL {:?}, drain {:?}",
                    panel.client, panel.minimum_healthy_percent, column.ttl, cell.drain
                );
                let real = cell.real.as_ref().unwrap_or_else(|| panic!("{what}: not run"));
                assert!(real.requests > 400, "{what}: {real:?}");
                cells += 1;
                failing += u32::from(real.low > 0);
                if !real.agrees {
                    others.push(format!("{what}: {real:?}"));
                }
            }
        }
    }
    assert!(others.is_empty(), "{}\n{complained}", others.join("\n"));
    assert_eq!(output.status.code(), Some(0), "{complained}");
    // A dozen settings, each with five clients; in some of them requests have to fail.
    assert_eq!(cells, 12 * clients.len());
    assert!(failing >= 8, "{failing} cells must fail");
}
