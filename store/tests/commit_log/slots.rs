//! Crashes at any moment of a record's writes: what was written last is there, or what was being written.

use proptest::prelude::*;
use raftmq_store::Slots;
use raftmq_world::Disk;

use crate::crash_disk::{Chance, CrashDisk};
use crate::support::temp_dir;

fn record(number: u64) -> Vec<u8> {
    // Of several sectors' worth of difference, and of another length each time.
    let mut record = number.to_le_bytes().to_vec();
    record.resize(8 + (number * 37 % 200) as usize, number as u8);
    record
}

proptest! {
    #[test]
    fn the_record_that_was_written_last_survives(
        crashes in prop::collection::vec((0_u64..12, any::<u64>()), 1..8)
    ) {
        let mut dir = temp_dir();
        let mut disk = CrashDisk::new(dir.path());
        // The last record that was durable.
        let mut written = 0;
        drop(Slots::make(&disk, &dir.path().join("slots"), &record(0)).unwrap());
        for (changes, seed) in crashes {
            let path = dir.path().join("slots");
            let (mut slots, found) = Slots::open(&disk, &path).unwrap().unwrap();
            prop_assert!(found == record(written) || found == record(written + 1), "{found:?} after {written}");
            written = u64::from_le_bytes(*found.first_chunk().unwrap());
            disk.raise_watermark(written);
            disk.capture_after(changes);
            let mut next = written;
            let image = loop {
                next += 1;
                slots.write(&record(next)).unwrap();
                if let Some(image) = disk.take_captured() {
                    break image;
                }
                disk.raise_watermark(next);
            };
            written = image.watermark;
            let after = temp_dir();
            disk = CrashDisk::after_crash(after.path(), image, &mut Chance(seed));
            dir = after;
        }
        prop_assert!(disk.open(&dir.path().join("slots")).is_ok());
    }
}
