//! What kills the nodes if the test does not live to do it.
//!
//! A shell reads from a pipe of which this process holds the other end. When this process ends, however it does, the
//! pipe closes, and the shell kills its process group, to which all nodes belong.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// The watcher. Dropping it kills what is left in its process group.
#[derive(Debug)]
pub(super) struct Lifeline {
    watcher: Child,
    pipe: Option<ChildStdin>,
}

impl Lifeline {
    pub(super) fn new() -> Result<Self> {
        // A group whose parent dies is sent SIGHUP if a member of it is stopped, as a node may be.
        let mut watcher = Command::new("sh")
            .args(["-c", "trap '' HUP INT TERM; read -r _; kill -9 0"])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start sh to watch over the nodes")?;
        let pipe = watcher.stdin.take();
        Ok(Self { watcher, pipe })
    }

    /// The group nodes must be started in.
    pub(super) fn process_group(&self) -> i32 {
        // Process ids are below 2^22.
        self.watcher.id() as i32
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.pipe = None;
        // It ends by its own hand; that it cannot be waited for would be news.
        drop(self.watcher.wait());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_is_in_the_group_dies_with_the_pipe() {
        let lifeline = Lifeline::new().unwrap();
        let mut sleeper =
            Command::new("sleep").arg("600").process_group(lifeline.process_group()).spawn().unwrap();
        assert!(sleeper.try_wait().unwrap().is_none());
        drop(lifeline);
        assert_eq!(sleeper.wait().unwrap().signal(), Some(9));
    }
}
