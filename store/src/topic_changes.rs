//! What commands mean for the messages of topics.
//!
//! A topic that is dropped and made again begins anew: its queues are empty, and their offsets count from 0. Both follow
//! from the log: what stands before the command that drops it goes, wherever it is kept, and what stands behind it counts
//! from 0. The store reads no commands; whoever opens it says what they mean.

/// What a command does to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicChange<'a> {
    /// From here on there is one of this name.
    Made(&'a str),
    /// All messages that it has are dropped, and there is none of this name from here on.
    Dropped(&'a str),
}

/// Tells what a command does to topics, in order. *Invariant 1*: of the same bytes it tells the same for ever, as queue
/// offsets follow from it. It is asked once for each command that is appended, so it should be quick to see that one does
/// nothing; a command that it cannot read does nothing.
pub type TopicChanges = fn(command: &[u8], tell: &mut dyn FnMut(TopicChange<'_>));

/// Commands that do nothing to topics.
pub(crate) fn none(_: &[u8], _: &mut dyn FnMut(TopicChange<'_>)) {}

/// The topics that a command drops.
pub(crate) fn dropped(changes: TopicChanges, command: &[u8]) -> Vec<String> {
    let mut topics = Vec::new();
    changes(command, &mut |change| {
        if let TopicChange::Dropped(topic) = change {
            topics.push(topic.to_owned());
        }
    });
    topics
}
