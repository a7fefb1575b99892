//! The data directory: whose it is, and that only one process has it open.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;

use crate::error::StoreError;
use raftmq_world::Disk;

/// What a directory was made with, and must be opened with again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The group's name.
    pub broker_name: String,
    /// The member's node id.
    pub node_id: u64,
    /// The length of a log segment in bytes.
    pub segment_bytes: u64,
}

/// The format of everything in a data directory. Raised by a change that an older build would misread. Those before 2 had
/// no group that one could tell from others.
const FORMAT: u64 = 2;

impl Identity {
    fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("format", FORMAT.to_string()),
            ("cluster", self.cluster.clone()),
            ("broker_name", self.broker_name.clone()),
            ("node_id", self.node_id.to_string()),
            ("segment_bytes", self.segment_bytes.to_string()),
        ]
    }

    /// The chain value before the log's first frame: the same on every member, another in every group.
    pub(crate) fn chain_seed(&self) -> u32 {
        crc32c::crc32c(format!("{}/{}", self.cluster, self.broker_name).as_bytes())
    }

    /// Compares with what `dir` was made with, or records it in a new directory. It is the first file of a directory:
    /// one that has a log in `log_dir` and no identity has lost it.
    pub(crate) fn check_or_record(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        log_dir: &Path,
    ) -> Result<(), StoreError> {
        let path = dir.join("identity");
        let Some(content) = disk.read(&path).map_err(StoreError::io("read", &path))? else {
            if !disk.list(log_dir).map_err(StoreError::io("list", log_dir))?.is_empty() {
                return Err(lost(
                    &path,
                    "it is missing, and the directory has a log: whose it is cannot be told",
                ));
            }
            let text: String =
                self.settings().iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            return disk.replace(&path, text.as_bytes()).map_err(StoreError::io("write", &path));
        };
        let text = String::from_utf8_lossy(&content);
        let found: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let format = found.get("format").and_then(|format| format.parse::<u64>().ok());
        if format != Some(FORMAT) {
            return Err(StoreError::Illegal(format!(
                "{} is of a directory of format {}, and this release reads format {FORMAT}: start the release that made it, or \
                 begin with an empty directory",
                path.display(),
                found.get("format").unwrap_or(&"nothing")
            )));
        }
        for (what, wanted) in self.settings() {
            let found = found.get(what).copied().unwrap_or("nothing");
            if found != wanted {
                return Err(StoreError::Contradiction { path, what, found: found.to_owned(), wanted });
            }
        }
        Ok(())
    }
}

/// Takes the lock on a data directory; released when dropped or when the process ends.
pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Any + Send>, StoreError> {
    let path = dir.join("lock");
    disk.lock(&path).map_err(StoreError::io("lock", &path))?.ok_or(StoreError::InUse { path })
}

/// A small file that must be there.
pub(crate) fn lost(path: &Path, what: &str) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), position: 0, physical_offset: 0, what: what.to_owned() }
}
