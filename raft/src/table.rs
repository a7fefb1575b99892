//! Replicated state: tables that commands in the log change, the same on every member that has applied the same entries.
//!
//! A kind of state is one [`Table`]: its commands, how they apply, its image. The group is given the [`Tables`] that it has
//! and knows nothing of what is in them. What goes through the log is a [`Change`]: one or more commands, applied together.
//! A checkpoint, and so a snapshot, is the tables' images.
//!
//! A change begins with the *feature level* that a member needs to read it, one byte. Then come its commands:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 1 | the table's number |
//! | 1 | 4 | length of what follows, little-endian |
//! | 5 | | the command, bincode (standard configuration) |
//!
//! Commands of a table are an enum to whose end variants are added; a variant says from which level on it may be proposed,
//! and so members of two releases run side by side, see `members.rs`. Nothing else of what a command is written as changes.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;

use bytes::Bytes;
use raftmq_store::StoreError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What tells members of different releases apart: the commands that they can read. It counts from 1.
pub type FeatureLevel = u8;

/// The level at which every group begins.
pub const FIRST_LEVEL: FeatureLevel = 1;

/// The largest encoded change, in bytes, where segments have room for it.
pub const CHANGE_BYTES_MAX: usize = 256 * 1024;

/// What a command may claim while it is decoded: bincode counts 8 bytes for a number or a length that takes one.
const CLAIMED_BYTES_MAX: usize = 8 * CHANGE_BYTES_MAX;

/// The number of a command's table, and its length.
const HEAD_BYTES: usize = 5;

/// A kind of replicated state.
///
/// It changes only by [`Table::apply`], in log order. Any thread may read it at any time. What a command does depends on
/// the command and on tables alone, never on a clock, an order of hashing or a setting.
pub trait Table: Send + Sync + 'static {
    /// Its number in the log and in checkpoints, which no other table has or had. The group's own is 0.
    const ID: u8;
    /// Its name, for people.
    const NAME: &'static str;
    /// The layout of its image.
    const IMAGE_VERSION: u8;
    /// Whether its commands belong to messages: then they are one entry with them, which is appended only in the term that it
    /// was planned in.
    const WITH_MESSAGES: bool = false;
    /// Whether checkpoints hold it: not where it holds nothing of its own.
    const HAS_IMAGE: bool = true;
    /// What changes it.
    type Command: Serialize + DeserializeOwned + Debug;
    /// What applying a command comes to.
    type Outcome: Debug + Send + Sync + 'static;
    /// All of it, as it is written into a checkpoint: the same state has the same image.
    type Image: Serialize + DeserializeOwned;

    /// The level from which on this command may be proposed.
    ///
    /// [`FIRST_LEVEL`] for what every release reads. A table that is new has none of these: earlier releases know nothing of it.
    fn level(command: &Self::Command) -> FeatureLevel;

    /// Carries out a committed command.
    ///
    /// # Errors
    /// [`StoreError::Divergence`]: it contradicts the state, which is as before.
    fn apply(&self, command: Self::Command) -> Result<Self::Outcome, StoreError>;

    /// The state as of now. Quick: what takes long is left to what is returned.
    fn freeze(&self) -> impl FnOnce() -> Self::Image + Send + Sync + 'static;

    /// Takes on the state that an image is of.
    ///
    /// # Errors
    /// [`StoreError::Divergence`]: no state has such an image.
    fn restore(&self, image: Self::Image) -> Result<(), StoreError>;
}

/// Why bytes are not a change.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There are none, or no command.
    #[error("a change without a command")]
    Empty,
    /// Written by a newer release.
    #[error("a change of feature level {level}; this release reads up to level {reads}")]
    TooNew {
        /// What a member has to read.
        level: FeatureLevel,
        /// What this one reads.
        reads: FeatureLevel,
    },
    /// Its level does not exist.
    #[error("a change of feature level 0")]
    NoLevel,
    /// A number that no table has.
    #[error("a command of table {0}, which there is not")]
    Table(u8),
    /// The end is missing.
    #[error("a command of table {table} ends {missing} bytes early")]
    Short {
        /// The table's number.
        table: u8,
        /// How much is missing.
        missing: usize,
    },
    /// Not what the table's commands look like.
    #[error("undecodable command of table {table}: {source}")]
    Decode {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        source: bincode::error::DecodeError,
    },
    /// Bytes behind the command.
    #[error("{left} bytes behind the end of a command of table {table}")]
    Trailing {
        /// The table.
        table: &'static str,
        /// How many.
        left: usize,
    },
    /// Cannot be written.
    #[error("unencodable command of table {table}: {source}")]
    Encode {
        /// The table.
        table: &'static str,
        /// Why not.
        source: bincode::error::EncodeError,
    },
    /// Larger than [`CHANGE_BYTES_MAX`].
    #[error("a change of {0} bytes is over the limit of {CHANGE_BYTES_MAX}")]
    TooLarge(usize),
}

/// A change of the replicated state: commands that are applied together, as they are written into the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    bytes: Vec<u8>,
    with_messages: bool,
}

impl Change {
    /// A change of one table.
    ///
    /// # Errors
    /// The command is too large, or could not be read again: one in the log that cannot be would stop every member.
    pub fn new<T: Table>(command: &T::Command) -> Result<Self, ChangeError> {
        Self { bytes: vec![FIRST_LEVEL], with_messages: false }.and::<T>(command)
    }

    /// The same and a command more, carried out after those before it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn and<T: Table>(mut self, command: &T::Command) -> Result<Self, ChangeError> {
        let at = self.bytes.len() + HEAD_BYTES;
        self.bytes.extend_from_slice(&[T::ID, 0, 0, 0, 0]);
        bincode::serde::encode_into_std_write(command, &mut self.bytes, bincode::config::standard())
            .map_err(|source| ChangeError::Encode { table: T::NAME, source })?;
        if self.bytes.len() > CHANGE_BYTES_MAX {
            return Err(ChangeError::TooLarge(self.bytes.len()));
        }
        decode::<T>(&self.bytes[at..])?;
        // Checked above.
        let len = (self.bytes.len() - at) as u32;
        self.bytes[at - 4..at].copy_from_slice(&len.to_le_bytes());
        self.bytes[0] = self.level().max(T::level(command));
        self.with_messages |= T::WITH_MESSAGES;
        Ok(self)
    }

    /// The level that a member needs to read it.
    pub fn level(&self) -> FeatureLevel {
        self.bytes[0]
    }

    /// Whether it belongs to messages, see [`Table::WITH_MESSAGES`].
    pub fn is_with_messages(&self) -> bool {
        self.with_messages
    }

    /// As it stands in the log.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Change({} bytes, level {})", self.bytes.len(), self.level())
    }
}

fn decode<T: Table>(bytes: &[u8]) -> Result<T::Command, ChangeError> {
    let config = bincode::config::standard().with_limit::<CLAIMED_BYTES_MAX>();
    let (command, read) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|source| ChangeError::Decode { table: T::NAME, source })?;
    match bytes.len() - read {
        0 => Ok(command),
        left => Err(ChangeError::Trailing { table: T::NAME, left }),
    }
}

/// A command in a change, as it stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct EncodedCommand<'a> {
    table: u8,
    bytes: &'a [u8],
}

impl EncodedCommand<'_> {
    /// The command, where it is one of this table that can be read.
    pub fn of<T: Table>(&self) -> Option<T::Command> {
        if self.table == T::ID { decode::<T>(self.bytes).ok() } else { None }
    }
}

/// The commands in a change as it stands in the log, in order, for who looks for a few of them: none is decoded. They end
/// where the bytes are no change.
pub fn commands(change: &[u8]) -> impl Iterator<Item = EncodedCommand<'_>> {
    let mut rest = change.get(1..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (table, behind) = rest.split_first()?;
        let (bytes, behind) = split_command(*table, behind).ok()?;
        rest = behind;
        Some(EncodedCommand { table: *table, bytes })
    })
}

/// A command, and what is behind it. `bytes` begin with its length.
fn split_command(table: u8, bytes: &[u8]) -> Result<(&[u8], &[u8]), ChangeError> {
    let short = |missing| ChangeError::Short { table, missing };
    let (len, behind) = bytes.split_first_chunk().ok_or_else(|| short(4 - bytes.len()))?;
    let len = u32::from_le_bytes(*len) as usize;
    behind.split_at_checked(len).ok_or_else(|| short(len - behind.len()))
}

/// What applying a change has come to, one outcome for each of its commands.
#[derive(Debug, Default)]
pub struct Outcomes(Vec<Box<dyn AnyOutcome>>);

trait AnyOutcome: Any + Debug + Send + Sync {}

impl<T: Any + Debug + Send + Sync> AnyOutcome for T {}

impl Outcomes {
    /// That of the first command, which was one of `T`'s; `None` where it was not.
    pub fn first<T: Table>(self) -> Option<T::Outcome> {
        let first: Box<dyn Any> = self.0.into_iter().next()?;
        first.downcast().ok().map(|outcome| *outcome)
    }
}

/// A table's image with its number and its version, as a checkpoint holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableImage {
    /// The table's number.
    pub table: u8,
    /// The layout of the image.
    pub version: u8,
    /// The image, bincode (standard configuration).
    pub content: Bytes,
}

/// A command that can be carried out.
type Ready<'a> = Box<dyn FnOnce() -> Result<Box<dyn AnyOutcome>, StoreError> + 'a>;
/// The state of a table as of a moment, before it is made into an image.
type Frozen = Box<dyn FnOnce() -> Result<TableImage, StoreError> + Send + Sync>;

/// A table whatever its types.
trait AnyTable: Send + Sync {
    fn name(&self) -> &'static str;
    fn is_with_messages(&self) -> bool;
    fn has_image(&self) -> bool;
    fn read(&self, command: &[u8]) -> Result<Ready<'_>, ChangeError>;
    fn freeze(&self) -> Frozen;
    fn restore(&self, image: &TableImage) -> Result<(), StoreError>;
}

impl<T: Table> AnyTable for T {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn is_with_messages(&self) -> bool {
        T::WITH_MESSAGES
    }

    fn has_image(&self) -> bool {
        T::HAS_IMAGE
    }

    fn read(&self, command: &[u8]) -> Result<Ready<'_>, ChangeError> {
        let command = decode::<T>(command)?;
        Ok(Box::new(move || self.apply(command).map(|outcome| Box::new(outcome) as Box<dyn AnyOutcome>)))
    }

    fn freeze(&self) -> Frozen {
        let frozen = Table::freeze(self);
        Box::new(move || {
            let content = bincode::serde::encode_to_vec(frozen(), bincode::config::standard())
                .map_err(|e| StoreError::Illegal(format!("the image of table {}: {e}", T::NAME)))?;
            Ok(TableImage { table: T::ID, version: T::IMAGE_VERSION, content: content.into() })
        })
    }

    fn restore(&self, image: &TableImage) -> Result<(), StoreError> {
        if image.version != T::IMAGE_VERSION {
            return Err(StoreError::Illegal(format!(
                "an image of table {} in layout {}; this release reads layout {}",
                T::NAME,
                image.version,
                T::IMAGE_VERSION
            )));
        }
        let content = crate::record_file::decode(&image.content)
            .map_err(|e| StoreError::Illegal(format!("an undecodable image of table {}: {e}", T::NAME)))?;
        Table::restore(self, content)
    }
}

/// The tables of a group. Clones are handles to the same.
#[derive(Clone)]
pub struct Tables {
    reads: FeatureLevel,
    tables: BTreeMap<u8, Arc<dyn AnyTable>>,
}

impl Tables {
    /// No tables yet, of a release that reads changes up to a level.
    pub fn new(reads: FeatureLevel) -> Self {
        Self { reads, tables: BTreeMap::new() }
    }

    /// The same and one more.
    ///
    /// # Panics
    /// Where another has its number: a mistake in the list of tables, which every start meets.
    #[must_use]
    pub fn with<T: Table>(mut self, table: Arc<T>) -> Self {
        let before = self.tables.insert(T::ID, table);
        assert!(before.is_none(), "two tables have number {}: {} is one of them", T::ID, T::NAME);
        self
    }

    /// The highest level of a change that this release reads.
    pub fn reads(&self) -> FeatureLevel {
        self.reads
    }

    /// Carries out a change: all of its commands, or none where one cannot be read. `is_with_messages` tells whether it came
    /// in front of messages.
    ///
    /// # Errors
    /// It cannot be read, or contradicts the state.
    pub fn apply(&self, change: &[u8], is_with_messages: bool) -> Result<Outcomes, StoreError> {
        let ready = self.read(change).map_err(|e| StoreError::Illegal(e.to_string()))?;
        let alone = ready.iter().find(|(table, _)| table.is_with_messages() && !is_with_messages);
        if let Some((table, _)) = alone {
            return Err(StoreError::Divergence(format!(
                "a change of table {} without its messages",
                table.name()
            )));
        }
        ready.into_iter().map(|(_, apply)| apply()).collect::<Result<_, _>>().map(Outcomes)
    }

    fn read(&self, change: &[u8]) -> Result<Vec<(&dyn AnyTable, Ready<'_>)>, ChangeError> {
        let (&level, mut rest) = change.split_first().ok_or(ChangeError::Empty)?;
        match level {
            0 => return Err(ChangeError::NoLevel),
            level if level > self.reads => return Err(ChangeError::TooNew { level, reads: self.reads }),
            _ if rest.is_empty() => return Err(ChangeError::Empty),
            _ => {}
        }
        let mut ready = Vec::new();
        while let Some((id, behind)) = rest.split_first() {
            let table = self.tables.get(id).ok_or(ChangeError::Table(*id))?;
            let (command, behind) = split_command(*id, behind)?;
            ready.push((&**table, table.read(command)?));
            rest = behind;
        }
        Ok(ready)
    }

    /// The state as of now, quickly; what is returned makes the images, which takes long where there is much.
    pub fn freeze(&self) -> impl FnOnce() -> Result<Vec<TableImage>, StoreError> + Send + Sync + use<> {
        let frozen: Vec<_> =
            self.tables.values().filter(|table| table.has_image()).map(|table| table.freeze()).collect();
        move || frozen.into_iter().map(|image| image()).collect()
    }

    /// Takes on the state that images are of. A table without an image stays as it is: it is newer than they.
    ///
    /// # Errors
    /// An image is of no table, or no state has it.
    pub fn restore(&self, images: &[TableImage]) -> Result<(), StoreError> {
        for image in images {
            let table = self.tables.get(&image.table).ok_or_else(|| {
                StoreError::Illegal(format!(
                    "an image of table {}, which this release has not: it is from a newer one",
                    image.table
                ))
            })?;
            table.restore(image)?;
        }
        Ok(())
    }
}

impl Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tables.values().map(|table| table.name())).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Adds up numbers.
    #[derive(Default)]
    pub(crate) struct Sum<const ID_: u8>(Mutex<u64>);

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub(crate) enum SumCommand {
        Add(u64),
        /// Of level 2.
        Sub(u64),
        Text(Vec<String>),
    }

    impl<const ID_: u8> Sum<ID_> {
        pub(crate) fn get(&self) -> u64 {
            *self.0.lock()
        }
    }

    impl<const ID_: u8> Table for Sum<ID_> {
        const ID: u8 = ID_;
        const NAME: &'static str = "sum";
        const IMAGE_VERSION: u8 = 1;
        const WITH_MESSAGES: bool = ID_ == 9;
        const HAS_IMAGE: bool = ID_ != 8;
        type Command = SumCommand;
        type Outcome = u64;
        type Image = u64;

        fn level(command: &SumCommand) -> FeatureLevel {
            if matches!(command, SumCommand::Sub(_)) { 2 } else { 1 }
        }

        fn apply(&self, command: SumCommand) -> Result<u64, StoreError> {
            let mut sum = self.0.lock();
            let less = || StoreError::Divergence("less than nothing".to_owned());
            *sum = match command {
                SumCommand::Add(n) => *sum + n,
                SumCommand::Sub(n) => sum.checked_sub(n).ok_or_else(less)?,
                SumCommand::Text(texts) => *sum + texts.len() as u64,
            };
            Ok(*sum)
        }

        fn freeze(&self) -> impl FnOnce() -> u64 + Send + Sync + 'static {
            let sum = self.get();
            move || sum
        }

        fn restore(&self, image: u64) -> Result<(), StoreError> {
            *self.0.lock() = image;
            Ok(())
        }
    }

    type One = Sum<1>;
    type Two = Sum<2>;
    type Nine = Sum<9>;

    fn tables(reads: FeatureLevel) -> (Arc<One>, Arc<Two>, Tables) {
        let (one, two) = (Arc::<One>::default(), Arc::<Two>::default());
        let tables = Tables::new(reads).with(one.clone()).with(two.clone()).with(Arc::<Nine>::default());
        (one, two, tables)
    }

    fn add(n: u64) -> Change {
        Change::new::<One>(&SumCommand::Add(n)).unwrap()
    }

    #[test]
    fn a_change_is_carried_out_as_a_whole_and_in_order() {
        let (one, two, tables) = tables(2);
        let change = add(5).and::<Two>(&SumCommand::Add(7)).unwrap().and::<One>(&SumCommand::Sub(2)).unwrap();
        assert_eq!((add(5).level(), change.level(), change.is_with_messages()), (1, 2, false));
        let outcomes = tables.apply(change.as_bytes(), false).unwrap();
        assert_eq!((one.get(), two.get(), outcomes.first::<One>()), (3, 7, Some(5)));
        // Its second command is for no table that there is.
        let mut other = add(1).and::<Two>(&SumCommand::Add(1)).unwrap().into_bytes();
        let second = add(1).into_bytes().len();
        other[second] = 77;
        assert!(tables.apply(&other, false).unwrap_err().to_string().contains("table 77"));
        assert_eq!((one.get(), two.get()), (3, 7));
        assert!(matches!(
            tables.apply(Change::new::<One>(&SumCommand::Sub(9)).unwrap().as_bytes(), false),
            Err(StoreError::Divergence(_))
        ));
    }

    #[test]
    fn bytes_that_are_no_change_are_named() {
        let (one, _, tables) = tables(1);
        let whole = add(300).and::<Two>(&SumCommand::Text(vec!["x".into()])).unwrap().into_bytes();
        let first = add(300).into_bytes().len();
        for end in (0..whole.len()).filter(|end| *end != first) {
            assert!(tables.apply(&whole[..end], false).is_err(), "{end}");
        }
        let says = |bytes: &[u8]| tables.apply(bytes, false).unwrap_err().to_string();
        assert!(says(&[]).contains("without a command") && says(&[1]).contains("without a command"));
        assert!(says(&[0, 1]).contains("level 0"));
        let mut longer = whole.clone();
        longer[2] += 1;
        assert!(
            says(&longer).contains("1 bytes behind the end of a command of table sum"),
            "{}",
            says(&longer)
        );
        assert_eq!(one.get(), 0);
    }

    #[test]
    fn what_a_newer_release_wrote_is_told_in_words() {
        let newer = Change::new::<One>(&SumCommand::Sub(0)).unwrap();
        let says = |reads| tables(reads).2.apply(newer.as_bytes(), false).map_err(|e| e.to_string());
        assert!(says(2).is_ok());
        assert!(says(1).unwrap_err().contains("feature level 2; this release reads up to level 1"));
    }

    #[test]
    fn a_change_is_bounded_and_read_again_before_it_is_proposed() {
        let text = |len: usize| Change::new::<One>(&SumCommand::Text(vec![String::new(); len]));
        let change = text(CHANGE_BYTES_MAX - 100).unwrap();
        assert!(tables(1).2.apply(change.as_bytes(), false).is_ok());
        assert!(matches!(text(CHANGE_BYTES_MAX), Err(ChangeError::TooLarge(_))));
    }

    #[test]
    fn images_restore_what_they_are_of() {
        let (_, _, from) = tables(1);
        from.apply(add(5).and::<Two>(&SumCommand::Add(7)).unwrap().as_bytes(), false).unwrap();
        let frozen = from.freeze();
        from.apply(add(1).as_bytes(), false).unwrap();
        let images = frozen().unwrap();
        let (one, two, to) = tables(1);
        to.restore(&images).unwrap();
        assert_eq!((one.get(), two.get(), to.freeze()().unwrap()), (5, 7, images.clone()));
        let refused = |image: TableImage| to.restore(&[image]).unwrap_err().to_string();
        assert!(refused(TableImage { table: 3, ..images[0].clone() }).contains("table 3"));
        assert!(refused(TableImage { version: 2, ..images[0].clone() }).contains("layout 2"));
        assert!(refused(TableImage { content: Bytes::new(), ..images[0].clone() }).contains("undecodable"));
    }

    #[test]
    fn commands_are_found_in_a_change_without_its_tables() {
        let change = add(5).and::<Two>(&SumCommand::Add(7)).unwrap().and::<One>(&SumCommand::Sub(2)).unwrap();
        let of_one =
            |bytes: &[u8]| commands(bytes).filter_map(|command| command.of::<One>()).collect::<Vec<_>>();
        let bytes = change.as_bytes();
        assert_eq!(of_one(bytes), [SumCommand::Add(5), SumCommand::Sub(2)]);
        assert_eq!(of_one(&bytes[..bytes.len() - 1]), [SumCommand::Add(5)]);
        assert_eq!((of_one(&[]), of_one(&[1])), (vec![], vec![]));
        let mut unreadable = bytes.to_vec();
        unreadable[6] = 77;
        assert_eq!(of_one(&unreadable), [SumCommand::Sub(2)]);
    }

    #[test]
    fn a_table_that_holds_nothing_is_not_in_checkpoints() {
        let tables = tables(1).2.with(Arc::<Sum<8>>::default());
        assert!(tables.freeze()().unwrap().iter().all(|image| image.table != 8));
    }

    #[test]
    #[should_panic(expected = "two tables have number 1")]
    fn no_two_tables_have_a_number() {
        let _ = tables(1).2.with(Arc::<One>::default());
    }

    /// *Invariant 7*, read back.
    #[test]
    fn what_belongs_to_messages_is_not_carried_out_without_them() {
        let (_, _, tables) = tables(1);
        let step = Change::new::<Nine>(&SumCommand::Add(1)).unwrap();
        assert!(step.is_with_messages() && !add(1).is_with_messages());
        assert!(matches!(tables.apply(step.as_bytes(), false), Err(StoreError::Divergence(_))));
        assert_eq!(tables.apply(step.as_bytes(), true).unwrap().first::<Nine>(), Some(1));
    }
}
