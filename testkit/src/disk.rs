//! The real disk, but for how much of it is free.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use raftmq_world::{Disk, DiskLayer, DiskUsage, OsDisk, World};

/// A disk that is as full as a test says. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct ToldDisk(Arc<Mutex<DiskUsage>>);

impl Default for ToldDisk {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(DiskUsage::EMPTY)))
    }
}

impl ToldDisk {
    /// So many bytes are free from now on.
    pub fn set_free(&self, bytes: u64) {
        self.0.lock().free = bytes;
    }

    /// The system's world, with this disk.
    pub fn world(&self) -> World {
        World { disk: Arc::new(self.clone()), ..World::system() }
    }
}

impl DiskLayer for ToldDisk {
    fn below(&self) -> &dyn Disk {
        &OsDisk
    }

    fn usage(&self, _: &Path) -> io::Result<DiskUsage> {
        Ok(*self.0.lock())
    }
}
