//! `report.json`: the whole report, for programs. Its fields are described in `report-schema.md`.

use std::io::Write;

use super::Report;

/// Writes it, on one line.
///
/// # Errors
///
/// Those of the writer.
pub fn write(report: &Report, mut to: impl Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut to, report)?;
    to.write_all(b"\n")
}

/// Reads it.
///
/// # Errors
///
/// If it is no report of the schema that this version knows.
pub fn read(bytes: &[u8]) -> Result<Report, serde_json::Error> {
    serde_json::from_slice(bytes)
}
