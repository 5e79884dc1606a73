//! Tells the crate which commit it is built from, if whoever builds says so.

#![expect(clippy::disallowed_macros, reason = "cargo reads a build script's stdout to its end")]

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LAMEDUCK_COMMIT");
    // Not asked of git: the image is built without the repository, and a source tarball has none.
    let commit = env::var("LAMEDUCK_COMMIT").unwrap_or_default();
    let suffix = if commit.is_empty() { String::new() } else { format!(" ({commit})") };
    println!("cargo::rustc-env=LAMEDUCK_VERSION={}{suffix}", env!("CARGO_PKG_VERSION"));
}
