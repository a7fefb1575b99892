//! A trace of pulls that are refused as what they subscribe to is not known: clients say little of it, and ask again for
//! as long as it lasts. One line a second for each group and code.

use raftmq_world::hash::HashMap;

use parking_lot::Mutex;

use crate::limits::{REFUSAL_LOG_GAP, REFUSALS_KEPT};

#[derive(Default)]
pub(crate) struct RefusalLog(Mutex<HashMap<(String, i32), Lately>>);

struct Lately {
    /// When the last line was written, in ms of the caller's clock.
    logged_ms: u64,
    /// Refusals since then.
    unlogged: u64,
}

impl RefusalLog {
    /// Notes a refusal. Returns how many there were since the last line where it is time for the next.
    pub(crate) fn note(&self, group: &str, code: i32, now_ms: u64) -> Option<u64> {
        let gap_ms = REFUSAL_LOG_GAP.as_millis() as u64;
        let is_over = |lately: &Lately| lately.logged_ms + gap_ms <= now_ms;
        let mut groups = self.0.lock();
        if let Some(lately) = groups.get_mut(&(group.to_owned(), code)) {
            if !is_over(lately) {
                lately.unlogged += 1;
                return None;
            }
            lately.logged_ms = now_ms;
            return Some(std::mem::take(&mut lately.unlogged));
        }
        if groups.len() >= REFUSALS_KEPT {
            groups.retain(|_, lately| !is_over(lately));
        }
        if groups.len() >= REFUSALS_KEPT {
            return None;
        }
        groups.insert((group.to_owned(), code), Lately { logged_ms: now_ms, unlogged: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_a_line_a_second_for_each_code() {
        let log = RefusalLog::default();
        let gap = REFUSAL_LOG_GAP.as_millis() as u64;
        assert_eq!(
            (log.note("g", 24, 7), log.note("g", 25, 7), log.note("h", 24, 7)),
            (Some(0), Some(0), Some(0))
        );
        for now_ms in 7..7 + gap {
            assert_eq!(log.note("g", 24, now_ms), None);
        }
        assert_eq!((log.note("g", 24, 7 + gap), log.note("g", 24, 8 + gap)), (Some(gap), None));
    }

    #[test]
    fn so_many_groups_are_known_and_the_rest_is_silent() {
        let log = RefusalLog::default();
        for n in 0..2 * REFUSALS_KEPT {
            assert_eq!(log.note(&n.to_string(), 24, 0).is_some(), n < REFUSALS_KEPT);
        }
        assert_eq!(log.note("another", 24, REFUSAL_LOG_GAP.as_millis() as u64), Some(0));
        assert_eq!(log.0.lock().len(), 1);
    }
}
