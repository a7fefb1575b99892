//! The table of topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use raftmq_raft::{FIRST_LEVEL, FeatureLevel, Table};
use raftmq_store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::Error;

use super::named::{Added, Named, NamedTable};

/// How a topic's messages may be tagged; carried for clients that ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterType {
    /// One tag a message.
    #[default]
    SingleTag,
    /// Several; obsolete.
    MultiTag,
}

/// A topic's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Queues that consumers see.
    pub read_queues: u32,
    /// Queues that producers see.
    pub write_queues: u32,
    /// Permission bits: 4 read, 2 write, 1 inherit.
    pub perm: u32,
    /// System bits: 1 unit, 2 unit subscription.
    pub sys_flag: u32,
    /// Whether it is an ordered topic.
    pub order: bool,
    /// How it is tagged.
    pub filter_type: FilterType,
    /// 5.x attributes, by name without sign.
    pub attributes: BTreeMap<String, String>,
}

impl Topic {
    /// A plain topic with `queues` queues to read and to write.
    pub fn new(name: impl Into<String>, queues: u32, perm: u32) -> Self {
        Self {
            name: name.into(),
            read_queues: queues,
            write_queues: queues,
            perm,
            sys_flag: 0,
            order: false,
            filter_type: FilterType::SingleTag,
            attributes: BTreeMap::new(),
        }
    }

    /// How many queues it has, to read or to write.
    pub fn queues(&self) -> u32 {
        self.read_queues.max(self.write_queues)
    }

    /// The id of a queue that it has, or the error that it has none such.
    pub fn existing_queue(&self, queue_id: i32) -> Result<u32, Error> {
        let queues = self.queues();
        let none = || Error::NoQueue { topic: self.name.clone(), queue_id, queues };
        u32::try_from(queue_id).ok().filter(|id| *id < queues).ok_or_else(none)
    }
}

impl Named for Topic {
    fn name(&self) -> &str {
        &self.name
    }
}

/// A change of topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopicCommand {
    /// Creates a topic or replaces its configuration.
    Put(Topic),
    /// Creates a topic where there is none of that name, and fewer than `max` in all.
    Add {
        /// The topic.
        topic: Topic,
        /// How many topics there may be.
        max: u32,
    },
    /// Removes a topic's configuration.
    Delete {
        /// The topic.
        name: String,
    },
}

/// Every topic by name.
#[derive(Debug, Default)]
pub struct Topics(NamedTable<Topic>);

impl Topics {
    /// A topic's configuration.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.0.get(name)
    }

    /// A topic's configuration, or the error that there is none.
    pub fn existing(&self, name: &str) -> Result<Arc<Topic>, Error> {
        self.get(name).ok_or_else(|| Error::NoTopic(name.to_owned()))
    }

    /// Whether there is such a topic.
    pub fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }

    /// Every topic, sorted by name.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.0.all()
    }

    /// How often topics have changed.
    pub fn version(&self) -> u64 {
        self.0.version()
    }

    /// Tells of every change; the value is the version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

impl Table for Topics {
    const ID: u8 = 1;
    const NAME: &'static str = "topics";
    const IMAGE_VERSION: u8 = 1;
    type Command = TopicCommand;
    type Outcome = Added;
    /// Sorted by name, and the version.
    type Image = (Vec<Topic>, u64);

    fn level(_: &TopicCommand) -> FeatureLevel {
        FIRST_LEVEL
    }

    fn apply(&self, command: TopicCommand) -> Result<Added, StoreError> {
        match command {
            TopicCommand::Put(topic) => self.0.put(topic),
            TopicCommand::Add { topic, max } => return Ok(self.0.add(topic, max)),
            TopicCommand::Delete { name } => self.0.delete(&name),
        }
        Ok(Added::Done)
    }

    fn freeze(&self) -> impl FnOnce() -> Self::Image + Send + Sync + 'static {
        self.0.freeze()
    }

    fn restore(&self, image: Self::Image) -> Result<(), StoreError> {
        self.0.restore(image);
        Ok(())
    }
}
