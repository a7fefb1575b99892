//! The table of consumers that are asked what they subscribe to, and of the pulls that wait for their answers.

use parking_lot::Mutex;
use raftmq_remoting::Command;
use raftmq_world::hash::HashMap;

use crate::limits::{INQUIRIES_MAX, INQUIRY_GAP, INQUIRY_PULLS_MAX};

/// The clients that are asked or were lately.
#[derive(Default)]
pub(crate) struct Inquiries(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// By connection and group.
    inquiries: HashMap<(u64, String), Inquiry>,
    /// Pulls that wait, over all of them.
    pulls: usize,
}

#[derive(Default)]
struct Inquiry {
    /// When the client may be asked again, in ms of the node's clock.
    not_before_ms: u64,
    /// What waits for the answer. Somebody sees to it where there is any.
    waiting: Vec<Command>,
}

/// What becomes of a pull that cannot be served as it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It waits with others.
    Behind,
    /// It is the first to wait; its client is to be asked, not before so many ms have passed.
    First(u64),
    Full,
}

impl Inquiries {
    pub(crate) fn add(&self, connection: u64, group: &str, pull: Command, now_ms: u64) -> Added {
        let table = &mut *self.0.lock();
        let key = (connection, group.to_owned());
        if table.pulls >= INQUIRY_PULLS_MAX {
            return Added::Full;
        }
        if table.inquiries.len() >= INQUIRIES_MAX && !table.inquiries.contains_key(&key) {
            table
                .inquiries
                .retain(|_, inquiry| !inquiry.waiting.is_empty() || inquiry.not_before_ms > now_ms);
            if table.inquiries.len() >= INQUIRIES_MAX {
                return Added::Full;
            }
        }
        let inquiry = table.inquiries.entry(key).or_default();
        inquiry.waiting.push(pull);
        table.pulls += 1;
        match inquiry.waiting.len() {
            1 => Added::First(inquiry.not_before_ms.saturating_sub(now_ms)),
            _ => Added::Behind,
        }
    }

    /// Notes that a client is being asked.
    pub(crate) fn asking(&self, connection: u64, group: &str, now_ms: u64) {
        if let Some(inquiry) = self.0.lock().inquiries.get_mut(&(connection, group.to_owned())) {
            inquiry.not_before_ms = now_ms + INQUIRY_GAP.as_millis() as u64;
        }
    }

    /// What has waited for a client's answer.
    pub(crate) fn take(&self, connection: u64, group: &str) -> Vec<Command> {
        let mut table = self.0.lock();
        let inquiry = table.inquiries.get_mut(&(connection, group.to_owned()));
        let waiting = inquiry.map(|inquiry| std::mem::take(&mut inquiry.waiting)).unwrap_or_default();
        table.pulls -= waiting.len();
        waiting
    }
}

#[cfg(test)]
mod tests {
    use raftmq_remoting::Ext;

    use super::*;

    fn add(inquiries: &Inquiries, connection: u64, now_ms: u64) -> Added {
        inquiries.add(connection, "g", Command::request(11, Ext::new()), now_ms)
    }

    #[test]
    fn a_client_is_asked_once_a_second_for_all_that_waits() {
        let inquiries = Inquiries::default();
        let gap = INQUIRY_GAP.as_millis() as u64;
        assert_eq!(add(&inquiries, 1, 5), Added::First(0));
        inquiries.asking(1, "g", 5);
        assert_eq!((add(&inquiries, 1, 6), add(&inquiries, 2, 6)), (Added::Behind, Added::First(0)));
        assert_eq!(inquiries.take(1, "g").len(), 2);
        assert_eq!(add(&inquiries, 1, 105), Added::First(gap - 100));
        assert_eq!((inquiries.take(1, "g").len(), inquiries.take(1, "g").len()), (1, 0));
        assert_eq!(add(&inquiries, 1, 6 + gap), Added::First(0));
    }

    #[test]
    fn clients_and_their_pulls_are_bounded_and_forgotten() {
        let inquiries = Inquiries::default();
        for connection in 0..INQUIRIES_MAX as u64 {
            assert_eq!(add(&inquiries, connection, 0), Added::First(0));
            inquiries.asking(connection, "g", 0);
        }
        assert_eq!(add(&inquiries, u64::MAX, 0), Added::Full);
        while inquiries.0.lock().pulls < INQUIRY_PULLS_MAX {
            assert_eq!(add(&inquiries, 0, 0), Added::Behind);
        }
        assert_eq!(add(&inquiries, 0, 0), Added::Full);
        for connection in 0..INQUIRIES_MAX as u64 {
            inquiries.take(connection, "g");
        }
        let later = INQUIRY_GAP.as_millis() as u64;
        assert_eq!(add(&inquiries, u64::MAX, later - 1), Added::Full, "they were asked just now");
        assert_eq!(add(&inquiries, u64::MAX, later), Added::First(0));
        let table = inquiries.0.lock();
        assert_eq!((table.inquiries.len(), table.pulls), (1, 1));
    }
}
