//! Messages that are not put into a queue of their topic at once: delayed ones, which wait in a system topic, and those
//! that a consumer has failed too often, which end among its group's dead letters.
//!
//! Everything here is a function of the message and the clock. What is decided is where the record goes and with which
//! properties; whoever delivers delayed messages finds the way back in `REAL_TOPIC` and `REAL_QID`.

use std::borrow::Cow;

use raftmq_message::properties::{self, names};
use raftmq_message::topic::{SCHEDULE_TOPIC, TIMER_TOPIC, dlq_topic};

use crate::error::Error;
use crate::limits::{DELAY_GROWTH_MAX, TIMER_DELAY_MAX};

/// Where a message is stored instead, and its properties there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Detour {
    pub(super) topic: Cow<'static, str>,
    pub(super) queue_id: i32,
    pub(super) properties: String,
}

impl Detour {
    /// What the log has to have room for beside the record: a delayed message becomes longer when it is delivered.
    pub(super) fn growth(&self) -> usize {
        if [SCHEDULE_TOPIC, TIMER_TOPIC].contains(&&*self.topic) { DELAY_GROWTH_MAX } else { 0 }
    }
}

/// What a message says about when it is to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timing {
    /// The delay level asked for; 0 or less asks for none.
    pub(super) level: i32,
    /// Whether it asks for a time of its own.
    pub(super) is_timed: bool,
}

impl Timing {
    /// Takes up a property. One of them is enough to know that a message is not an ordinary one.
    pub(super) fn take_up(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match name {
            names::DELAY => {
                self.level = value.parse().map_err(|_| {
                    let shown: String = value.chars().take(SHOWN_MAX).collect();
                    Error::DelayLevel(shown)
                })?;
            }
            names::TIMER_DELAY_SEC | names::TIMER_DELAY_MS | names::TIMER_DELIVER_MS => self.is_timed = true,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn is_delayed(self) -> bool {
        self.level > 0 || self.is_timed
    }
}

/// Characters of a bad value that an answer repeats.
const SHOWN_MAX: usize = 64;

/// The way of a message that asks for a delay; `None` where it is due already. A level goes before a time.
///
/// `topic` and `queue_id` are its own, `levels` is how many there are, `now_ms` is the broker's clock, in ms since the
/// epoch.
pub(super) fn delayed(
    list: &str,
    timing: Timing,
    (topic, queue_id): (&str, i32),
    levels: u32,
    now_ms: i64,
) -> Result<Option<Detour>, Error> {
    if timing.level > 0 {
        return Ok(Some(by_level(list, timing.level, (topic, queue_id), levels)));
    }
    let due_ms = if timing.is_timed { due_ms(list, now_ms)? } else { None };
    Ok(due_ms.map(|due_ms| by_time(list, due_ms, (topic, queue_id), now_ms)))
}

/// The queue of a delay level, which counts from 1. Levels past the last are taken for that.
pub(super) fn by_level(list: &str, level: i32, (topic, queue_id): (&str, i32), levels: u32) -> Detour {
    const REPLACED: [&str; 6] = [
        names::DELAY,
        names::REAL_TOPIC,
        names::REAL_QID,
        names::TIMER_DELAY_SEC,
        names::TIMER_DELAY_MS,
        names::TIMER_DELIVER_MS,
    ];
    let level = level.clamp(1, i32::try_from(levels).unwrap_or(i32::MAX).max(1));
    let mut properties = properties::remove_all(list, &REPLACED);
    properties::append(&mut properties, names::DELAY, &level.to_string());
    properties::append(&mut properties, names::REAL_TOPIC, topic);
    properties::append(&mut properties, names::REAL_QID, &queue_id.to_string());
    Detour { topic: SCHEDULE_TOPIC.into(), queue_id: level - 1, properties }
}

fn by_time(list: &str, due_ms: i64, (topic, queue_id): (&str, i32), now_ms: i64) -> Detour {
    const REPLACED: [&str; 3] = [names::TIMER_ENQUEUE_MS, names::REAL_TOPIC, names::REAL_QID];
    let mut properties = properties::remove_all(list, &REPLACED);
    properties::append(&mut properties, names::TIMER_OUT_MS, &due_ms.to_string());
    properties::append(&mut properties, names::TIMER_ENQUEUE_MS, &now_ms.to_string());
    properties::append(&mut properties, names::REAL_TOPIC, topic);
    properties::append(&mut properties, names::REAL_QID, &queue_id.to_string());
    Detour { topic: TIMER_TOPIC.into(), queue_id: 0, properties }
}

/// When a message is due that asks for a time, in ms since the epoch; `None` where that has come.
fn due_ms(list: &str, now_ms: i64) -> Result<Option<i64>, Error> {
    // It has waited already, and comes back from whoever received it.
    if properties::get(list, names::TIMER_OUT_MS).is_some() {
        return Ok(None);
    }
    if properties::get(list, names::TIMER_DEL_UNIQKEY).is_some() {
        return Err(Error::Unsupported("taking back a delayed message (TIMER_DEL_UNIQKEY) is not supported"));
    }
    let number =
        |name| properties::get(list, name).map(|value| value.parse::<i64>().map_err(|_| Error::Untimely));
    let due_ms = if let Some(seconds) = number(names::TIMER_DELAY_SEC) {
        now_ms.saturating_add(seconds?.saturating_mul(1000))
    } else if let Some(delay_ms) = number(names::TIMER_DELAY_MS) {
        now_ms.saturating_add(delay_ms?)
    } else {
        number(names::TIMER_DELIVER_MS).ok_or(Error::Untimely)??
    };
    if due_ms.saturating_sub(now_ms) > TIMER_DELAY_MAX.as_millis() as i64 {
        return Err(Error::Untimely);
    }
    Ok((due_ms > now_ms).then_some(due_ms))
}

/// The way to a group's dead letters, for a message that comes as a send to its retry topic.
pub(super) fn dead_letters(list: &str, group: &str) -> Detour {
    Detour {
        topic: dlq_topic(group).into(),
        queue_id: 0,
        properties: properties::set(list, names::DELAY, "-1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_123;
    const DAYS_3_MS: i64 = 3 * 24 * 3600 * 1000;

    fn route(list: &str) -> Result<Option<Detour>, Error> {
        let mut timing = Timing::default();
        for (name, value) in properties::iter(list) {
            timing.take_up(name, value)?;
        }
        delayed(list, timing, ("T", 7), 18, NOW_MS)
    }

    fn list(pairs: &[(&str, &str)]) -> String {
        properties::from_pairs(pairs.iter().copied())
    }

    #[test]
    fn a_level_leads_to_its_queue_and_the_last_one_stands_for_all_beyond() {
        for (level, queue_id, stored) in
            [("1", 0, "1"), ("18", 17, "18"), ("19", 17, "18"), ("2147483647", 17, "18")]
        {
            let asked =
                list(&[("KEYS", "k"), ("DELAY", level), ("REAL_TOPIC", "forged"), ("TIMER_DELAY_MS", "9")]);
            let detour = route(&asked).unwrap().unwrap();
            let properties =
                list(&[("KEYS", "k"), ("DELAY", stored), ("REAL_TOPIC", "T"), ("REAL_QID", "7")]);
            assert_eq!(detour, Detour { topic: SCHEDULE_TOPIC.into(), queue_id, properties });
        }
        for level in ["0", "-1"] {
            assert_eq!(route(&list(&[("DELAY", level)])), Ok(None));
        }
        for level in ["x", "2147483648", "1 "] {
            assert!(matches!(route(&list(&[("DELAY", level)])), Err(Error::DelayLevel(_))));
        }
    }

    #[test]
    fn a_time_is_kept_to_the_millisecond_with_the_way_back() {
        let deliver = (NOW_MS + 1).to_string();
        for (asked, due_ms) in [
            (("TIMER_DELAY_SEC", "2"), NOW_MS + 2000),
            (("TIMER_DELAY_MS", "1"), NOW_MS + 1),
            (("TIMER_DELIVER_MS", deliver.as_str()), NOW_MS + 1),
            (("TIMER_DELAY_SEC", "259200"), NOW_MS + DAYS_3_MS),
        ] {
            let detour = route(&list(&[asked, ("REAL_QID", "forged"), ("TAGS", "a")])).unwrap().unwrap();
            let properties = list(&[
                asked,
                ("TAGS", "a"),
                ("TIMER_OUT_MS", &due_ms.to_string()),
                ("TIMER_ENQUEUE_MS", &NOW_MS.to_string()),
                ("REAL_TOPIC", "T"),
                ("REAL_QID", "7"),
            ]);
            assert_eq!(detour, Detour { topic: TIMER_TOPIC.into(), queue_id: 0, properties });
        }
    }

    #[test]
    fn seconds_go_before_milliseconds_and_both_before_a_time() {
        let all = [("TIMER_DELIVER_MS", "1"), ("TIMER_DELAY_MS", "5"), ("TIMER_DELAY_SEC", "9")];
        for (asked, due_ms) in
            [(&all[..], Some(NOW_MS + 9000)), (&all[..2], Some(NOW_MS + 5)), (&all[..1], None)]
        {
            assert_eq!(due_ms_of(asked), due_ms);
        }
    }

    fn due_ms_of(pairs: &[(&str, &str)]) -> Option<i64> {
        due_ms(&list(pairs), NOW_MS).unwrap()
    }

    #[test]
    fn what_is_due_goes_on_at_once_and_what_makes_no_sense_is_refused() {
        let now = NOW_MS.to_string();
        for asked in [
            ("TIMER_DELAY_SEC", "0"),
            ("TIMER_DELAY_SEC", "-9223372036854775808"),
            ("TIMER_DELAY_MS", "-1"),
            ("TIMER_DELIVER_MS", now.as_str()),
            ("TIMER_DELIVER_MS", "-9223372036854775808"),
        ] {
            assert_eq!(route(&list(&[asked])), Ok(None), "{asked:?}");
        }
        assert_eq!(
            route(&list(&[("TIMER_DELAY_SEC", "9"), ("TIMER_OUT_MS", "1")])),
            Ok(None),
            "it has waited"
        );
        let late = (NOW_MS + DAYS_3_MS + 1).to_string();
        for asked in [
            ("TIMER_DELAY_SEC", "259201"),
            ("TIMER_DELAY_SEC", "9223372036854775807"),
            ("TIMER_DELAY_MS", "9223372036854775807"),
            ("TIMER_DELIVER_MS", late.as_str()),
            ("TIMER_DELIVER_MS", "soon"),
            ("TIMER_DELAY_MS", "99999999999999999999"),
        ] {
            assert_eq!(route(&list(&[asked])), Err(Error::Untimely), "{asked:?}");
        }
        let taken_back = route(&list(&[("TIMER_DELAY_SEC", "9"), ("TIMER_DEL_UNIQKEY", "A")]));
        assert!(matches!(taken_back, Err(Error::Unsupported(_))));
    }
}
