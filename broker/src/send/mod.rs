//! Sending: messages as they are stored, those included that a consumer gives back.
//!
//! | module | what it is |
//! |---|---|
//! | `message` | what is checked of a send, and the records that it becomes |
//! | `back` | the copy of a message that a consumer gives back |
//! | `detour` | where delayed and given-up messages go instead of their topic |
//! | `given_up` | which messages are given up |
//! | `records` | what those have in common |

mod back;
mod detour;
mod given_up;
mod message;
mod records;

use std::sync::Arc;

pub use back::GivenBack;
pub use message::{Send, TopicCache};
pub use records::{Encoded, Missing, REGION, Records, RecordsEnd, SendProblem, SendSettings};

use crate::locks::QueueLocking;
use crate::replica::Replica;

/// Makes records of what is sent to a group.
pub struct Sends {
    replica: Arc<Replica>,
    locks: Arc<QueueLocking>,
    settings: SendSettings,
}

impl Sends {
    /// For a member of a group.
    pub fn new(replica: Arc<Replica>, locks: Arc<QueueLocking>, settings: SendSettings) -> Self {
        Self { replica, locks, settings }
    }

    /// Checks a send and appends its records to `out`, with a single message's unique key. Writes nothing where it fails.
    pub fn encode(
        &self,
        cache: &mut TopicCache,
        send: &Send<'_>,
        out: &mut Records,
    ) -> Result<Encoded, SendProblem> {
        let holds_locks = |group: &str| self.locks.are_held(group);
        message::encode_send(&self.settings, self.replica.state(), holds_locks, cache, send, out)
    }

    /// Checks what a consumer gives back and appends the record that this asks for; `None` where its group has no retries.
    /// Writes nothing where it fails.
    pub fn give_back(
        &self,
        given_back: &GivenBack<'_>,
        out: &mut Records,
    ) -> Result<Option<Encoded>, SendProblem> {
        back::encode(&self.settings, self.replica.state(), self.replica.store(), given_back, out)
    }

    /// Whether a message that is given back is in the log and not dispatched yet: a consumer may have it from a member that was
    /// further.
    pub fn is_ahead(&self, physical_offset: i64) -> bool {
        let store = self.replica.store();
        let ahead = store.dispatched_physical_offset()..store.max_physical_offset();
        u64::try_from(physical_offset).is_ok_and(|offset| ahead.contains(&offset))
    }
}
