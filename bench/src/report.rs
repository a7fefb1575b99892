//! How a report is printed.

use std::fmt::Display;

use anyhow::Context;
use serde::Serialize;

/// For a person, or as one line of JSON.
pub(super) fn print<R: Serialize + Display>(report: &R, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report).context("the report as JSON")?);
    } else {
        println!("{report}");
    }
    Ok(())
}
