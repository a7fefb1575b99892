//! The table of topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;

use super::named::{Named, NamedCommand, NamedTable};

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
    const TABLE: u8 = 1;
    const KIND: &'static str = "topics";

    fn name(&self) -> &str {
        &self.name
    }
}

/// A change of topics.
pub type TopicCommand = NamedCommand<Topic>;

/// Every topic by name.
pub type Topics = NamedTable<Topic>;

impl Topics {
    /// A topic's configuration, or the error that there is none.
    pub fn existing(&self, name: &str) -> Result<Arc<Topic>, Error> {
        self.get(name).ok_or_else(|| Error::NoTopic(name.to_owned()))
    }
}
