//! What is derived from the log, seen alike: ConsumeQueues, IndexFiles, the timer index, and what is to come.
//!
//! Reput puts every committed record into every view, in the order of the log, and publishes a batch at a time.
//! Checkpoints make views durable and note what they hold; a start recovers them from that. *Invariant 4*: they hold
//! committed messages only, and whatever does not fit together is deleted and made again.
//!
//! What a view reads from a record is given to it from above. A view knows of no other.

use std::fmt;
use std::path::Path;

use raftmq_message::properties;
use raftmq_message::record::RecordView;

use crate::error::StoreError;

/// How many properties are found in one pass. What is asked for beyond them is found by a pass of its own.
const PROPERTIES_MAX: usize = 8;

/// Something that is derived from the log, in a directory of its own.
///
/// Reput is the one that puts and publishes, the checkpoint's step the one that flushes and cleans up; any thread reads.
/// An error stops the member.
pub trait View: fmt::Debug + Send + Sync {
    /// The directory, which is deleted where what is in it does not fit.
    fn dir(&self) -> &Path;

    /// The properties that are read of every record: found for all views in one pass.
    fn properties(&self) -> &'static [&'static str] {
        &[]
    }

    /// Adds what is to be kept of a record, the next one in the log. It need not be readable yet.
    fn put(&self, committed: &Committed<'_>) -> Result<(), StoreError>;

    /// Makes everything that was put readable.
    fn publish(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Tells who waits of what was published; it can be read in every other view as well.
    fn announce(&self) {}

    /// What it holds, everything that was put having been published: what a checkpoint records, and a start compares.
    /// All are 0 where it holds nothing.
    fn held(&self) -> Numbers;

    /// Returns when everything put before is durable; a checkpoint may be written then.
    fn flush(&self) -> Result<(), StoreError>;

    /// A checkpoint as of `physical_offset` with these numbers is durable: what it does not count may be removed.
    fn clean_up(&self, _physical_offset: u64, _recorded: &Numbers) -> Result<(), StoreError> {
        Ok(())
    }

    /// A topic is dropped by the command at `physical_offset`, and all before that is published: none of its messages are
    /// to be found any more, and what is put of it from now on begins anew. A start may go back to before the command, and
    /// needs then what was flushed.
    fn drop_topic(&self, _topic: &str, _physical_offset: u64) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes in what the directory has of records below `physical_limit`, in place of whatever it held, and durably
    /// drops the rest. `recorded` is what it held when it was flushed there. What is missing shows in what it
    /// [holds](Self::held) then.
    ///
    /// # Errors
    /// Those of the disk; any other has the directory deleted.
    fn recover(&self, physical_limit: u64, recorded: &Numbers) -> Result<(), StoreError>;

    /// Records below `physical_offset`, which is not behind the last checkpoint, leave the log: what holds nothing else
    /// may go with them, now or with the next checkpoint. May be called by any thread.
    fn drop_below(&self, physical_offset: u64) -> Result<(), StoreError>;
}

/// What is read from a record for a view, given to it from above.
#[derive(Clone, Copy, Debug)]
pub struct Reads<F> {
    /// The properties that are needed of every record.
    pub properties: &'static [&'static str],
    /// What comes of them.
    pub read: F,
}

/// A committed record, and those of its properties that views read.
#[derive(Clone, Debug)]
pub struct Committed<'a> {
    /// The record.
    pub record: RecordView<'a>,
    names: &'a PropertyNames,
    values: [Option<&'a str>; PROPERTIES_MAX],
}

impl<'a> Committed<'a> {
    /// Looks through the properties once.
    pub fn new(record: RecordView<'a>, names: &'a PropertyNames) -> Self {
        let values = names.find(record.properties());
        Self { record, names, values }
    }

    /// The value of a property, as by [`properties::get`].
    pub fn property(&self, name: &str) -> Option<&'a str> {
        match self.names.names.iter().position(|known| *known == name) {
            Some(at) => self.values[at],
            None => self.record.property(name),
        }
    }

    /// Where the record stands in the log.
    pub fn physical_offset(&self) -> u64 {
        self.record.physical_offset() as u64
    }

    /// Where the message stands in its queue.
    pub fn queue_offset(&self) -> u64 {
        self.record.queue_offset() as u64
    }

    /// Bytes of the record.
    pub fn size(&self) -> u32 {
        self.record.total_size() as u32
    }
}

/// The names of the properties that are found in one pass.
#[derive(Clone, Debug, Default)]
pub struct PropertyNames {
    names: Vec<&'static str>,
    /// A bit for each byte that one of them begins with, by its last six bits: most properties have none of these names.
    begins: u64,
}

impl PropertyNames {
    /// Those of these names that one pass finds: all of them unless they are too many.
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        let mut found = Self::default();
        for name in names {
            if found.names.len() < PROPERTIES_MAX && !name.is_empty() && !found.names.contains(&name) {
                found.names.push(name);
                found.begins |= bit_of(name.as_bytes()[0]);
            }
        }
        found
    }

    /// The value of each, as by [`properties::get`].
    fn find<'a>(&self, list: &'a str) -> [Option<&'a str>; PROPERTIES_MAX] {
        let mut values = [None; PROPERTIES_MAX];
        let mut start = 0;
        while start < list.len() {
            let rest = &list.as_bytes()[start..];
            let end = start + properties::pair_end(rest);
            if self.begins & bit_of(rest[0]) != 0 {
                self.take(&list[start..end], &mut values);
            }
            start = end + 1;
        }
        values
    }

    fn take<'a>(&self, piece: &'a str, values: &mut [Option<&'a str>; PROPERTIES_MAX]) {
        for (name, value) in self.names.iter().zip(values) {
            let ends = piece.as_bytes().get(name.len()) == Some(&properties::KEY_END);
            if ends && piece.starts_with(name) && piece.len() > name.len() + 1 {
                *value = Some(&piece[name.len() + 1..]);
            }
        }
    }
}

fn bit_of(byte: u8) -> u64 {
    1 << (byte & 63)
}

/// What a view holds, in a few numbers. No other view's have the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(Vec<(&'static str, u64)>);

impl Numbers {
    /// Numbers by name.
    pub fn new(numbers: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        Self(numbers.into_iter().collect())
    }

    /// The same names, of something that holds nothing.
    pub(crate) fn zeros(&self) -> Self {
        Self::new(self.iter().map(|(name, _)| (name, 0)))
    }

    /// One of them, 0 where it is not there.
    pub fn get(&self, name: &str) -> u64 {
        self.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| number)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_message::RecordParts;

    #[test]
    fn properties_are_found_whether_the_one_pass_looks_for_them_or_not() {
        const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let host = ([127, 0, 0, 1], 1).into();
        let parts = RecordParts {
            topic: "t",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"",
            properties: &["j\u{1}1\u{2}a\u{1}2\u{2}a\u{1}3\u{2}b\u{1}"],
        };
        let mut bytes = Vec::new();
        parts.encode_into(&mut bytes).unwrap();
        for names in
            [PropertyNames::new(NAMES), PropertyNames::new(["j", "a", "j"]), PropertyNames::default()]
        {
            let committed = Committed::new(RecordView::parse(&bytes).unwrap(), &names);
            let found = NAMES.map(|name| committed.property(name));
            assert_eq!((found[0], found[1], found[9]), (Some("3"), None, Some("1")), "{names:?}");
            assert_eq!(found.iter().flatten().count(), 2);
        }
        assert_eq!(PropertyNames::new(NAMES).names.len(), PROPERTIES_MAX);
    }
}
