//! What a ConsumeQueue's files hold when it is opened: units up to a limit. What lies behind is dropped.
//!
//! Nothing is synced here for each queue: there may be many. What was changed is told, and a checkpoint syncs it before it
//! counts anything new; until then the next start drops the same again.

use super::unit::{UNIT, UNIT_SIZE, Unit};
use crate::error::StoreError;
use crate::mapped_file_queue::{FileAt, MappedFileQueue};
use raftmq_world::data_end;

/// The smallest piece a disk writes whole; a unit inside of one was written entirely or not at all.
const SECTOR: usize = 512;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Queue offset behind the last unit.
    pub(super) next: u64,
    pub(super) last_physical: Option<u64>,
    /// Units were dropped from the last file, which is not synced since.
    pub(super) has_dropped: bool,
    /// The first file is there and has no unit that counts: nobody knows whether it will be there after a crash.
    pub(super) is_unused: bool,
}

/// Drops the units from physical offset `limit` on.
///
/// # Errors
/// [`StoreError::Corrupt`] where units below the limit are missing; the disk refused.
pub(super) fn recover(files: &MappedFileQueue, limit: u64) -> Result<Found, StoreError> {
    let starts = files.starts();
    let Some(last_used) = last_used_file(files, &starts, limit)? else { return Ok(Found::default()) };
    let previous = check_full_files(files, &starts[..last_used], limit)?;
    for start in &starts[last_used + 1..] {
        let file = existing(files, *start)?;
        check_dropped(&file, 0, written_from(&file, 0)?, limit)?;
    }
    files.remove_from(starts[last_used] + files.file_len())?;
    let file = existing(files, starts[last_used])?;
    let (used, last_physical) = count_units(&file, previous, limit)?;
    let dropped = written_from(&file, used)?;
    check_dropped(&file, used, dropped, limit)?;
    let has_dropped = !dropped.is_empty();
    if has_dropped {
        let (file, zeros) = (&file.file, vec![0; dropped.len() * UNIT_SIZE]);
        file.write_at((used * UNIT_SIZE) as u64, &zeros).map_err(StoreError::io("write", file.path()))?;
    }
    let next = file.start / UNIT + used as u64;
    Ok(Found { next, last_physical, has_dropped, is_unused: used == 0 })
}

/// The index of the last file whose first unit belongs to the queue, or of the first file: its name says where the
/// queue starts.
fn last_used_file(files: &MappedFileQueue, starts: &[u64], limit: u64) -> Result<Option<usize>, StoreError> {
    for (index, start) in starts.iter().enumerate().rev() {
        if index == 0 || first_unit(&existing(files, *start)?)?.continues(None, limit) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Checks at both ends of each file that it is full; returns the physical offset of the last unit.
fn check_full_files(files: &MappedFileQueue, starts: &[u64], limit: u64) -> Result<Option<u64>, StoreError> {
    let mut previous = None;
    for start in starts {
        let file = existing(files, *start)?;
        let units = units_of(&file);
        // Where a file has a single unit, that is both ends.
        for index in [0, units.len() - 1].into_iter().take(units.len()) {
            let unit = Unit::decode(&units[index]);
            if !unit.continues(previous, limit) {
                let what =
                    format!("{unit:?} after physical offset {previous:?}, in a file that has to be full");
                return Err(corrupt(&file, index, &what));
            }
            previous = Some(unit.physical_offset);
        }
    }
    Ok(previous)
}

/// A file that is known to be part of the queue.
fn existing(files: &MappedFileQueue, start: u64) -> Result<FileAt, StoreError> {
    files.file_at(start)?.ok_or_else(|| {
        StoreError::Divergence(format!("{} changed while it was being recovered", files.dir().display()))
    })
}

fn units_of(file: &FileAt) -> &[[u8; UNIT_SIZE]] {
    file.file.bytes().as_chunks::<UNIT_SIZE>().0
}

/// The first unit, of a file that may not have one.
fn first_unit(file: &FileAt) -> Result<Unit, StoreError> {
    let mut bytes = [0; UNIT_SIZE];
    file.file.read_at(0, &mut bytes).map_err(StoreError::io("read", file.file.path()))?;
    Ok(Unit::decode(&bytes))
}

/// How many units from the start of `file` on belong to the queue, and the physical offset of the last one.
fn count_units(file: &FileAt, previous: Option<u64>, limit: u64) -> Result<(usize, Option<u64>), StoreError> {
    let mut last = previous;
    let written = written_from(file, 0)?;
    for (index, bytes) in written.iter().enumerate() {
        let unit = Unit::decode(bytes);
        if !unit.continues(last, limit) {
            return Ok((index, last));
        }
        last = Some(unit.physical_offset);
    }
    Ok((written.len(), last))
}

/// Checks that no unit below the limit is among those from `from` on, which are to be dropped: such a unit was flushed,
/// and so was what should be before it. One that lies in two sectors proves nothing, it may be half of a later unit.
fn check_dropped(
    file: &FileAt,
    from: usize,
    dropped: &[[u8; UNIT_SIZE]],
    limit: u64,
) -> Result<(), StoreError> {
    for (index, bytes) in (from..).zip(dropped) {
        let position = index * UNIT_SIZE;
        let whole = position / SECTOR == (position + UNIT_SIZE - 1) / SECTOR;
        let unit = Unit::decode(bytes);
        if whole && unit.continues(None, limit) {
            let what = format!("{unit:?} lies below {limit}, but units before it are missing");
            return Err(corrupt(file, index, &what));
        }
    }
    Ok(())
}

/// The units from `from` on, up to the last one that is not zero. What was never written is not looked at.
fn written_from(file: &FileAt, from: usize) -> Result<&[[u8; UNIT_SIZE]], StoreError> {
    let end =
        data_end(&*file.file, (from * UNIT_SIZE) as u64).map_err(StoreError::io("read", file.file.path()))?;
    let count = end.map_or(0, |end| (end as usize).div_ceil(UNIT_SIZE) - from);
    Ok(&units_of(file)[from..from + count])
}

fn corrupt(file: &FileAt, unit: usize, what: &str) -> StoreError {
    let position = (unit * UNIT_SIZE) as u64;
    StoreError::Corrupt {
        path: file.file.path().to_owned(),
        position,
        physical_offset: file.start + position,
        what: format!("{what}; remove the queue's directory to have it rebuilt"),
    }
}
