//! Telling consumer groups that their membership has changed, so that the members share the queues anew.
//!
//! The first change is told at once. Changes that follow within a moment are told together: where hundreds of clients
//! join, each of them would otherwise be told of each other.

use raftmq_world::hash::HashSet;

use parking_lot::Mutex;
use raftmq_broker::clients::Clients;
use raftmq_broker::state::Groups;
use raftmq_remoting::Command;
use raftmq_remoting::codes::request;
use raftmq_remoting::command::language;
use raftmq_remoting::encode::encode_command;
use raftmq_remoting::header::ConsumerGroupHeader;
use tokio::sync::Notify;

use crate::channel::Channel;
use crate::limits::{NOTICE_GAP, NOTICE_GAP_PER_MEMBER, NOTICES_AT_ONCE};

/// Groups that have to be told.
pub(crate) struct Notices {
    groups: Mutex<HashSet<String>>,
    added: Notify,
    max: usize,
}

impl Notices {
    pub(crate) fn new(groups_max: usize) -> Self {
        Self { groups: Mutex::default(), added: Notify::new(), max: groups_max }
    }

    /// The members of these groups have to be told. Past the bound they find out when they look by themselves, every
    /// 20 s.
    pub(crate) fn add(&self, groups: impl IntoIterator<Item = String>) {
        let mut waiting = self.groups.lock();
        for group in groups {
            if waiting.len() < self.max {
                waiting.insert(group);
            }
        }
        if !waiting.is_empty() {
            self.added.notify_one();
        }
    }

    /// Tells them. Runs until the task is ended.
    pub(crate) async fn run(&self, settings: &Groups, clients: &Clients<Channel>) {
        loop {
            self.added.notified().await;
            let groups = std::mem::take(&mut *self.groups.lock());
            let mut told = 0;
            for group in groups {
                told += tell(settings, clients, group).await;
            }
            tokio::time::sleep(NOTICE_GAP + NOTICE_GAP_PER_MEMBER * told).await;
        }
    }
}

/// Tells the members of a group, unless its settings say that they are not to be told. Returns how many were told.
async fn tell(settings: &Groups, clients: &Clients<Channel>, group: String) -> u32 {
    if settings.get(&group).is_some_and(|settings| !settings.notify_consumer_ids_changed) {
        return 0;
    }
    let members = clients.consumer_connections(&group);
    let ext = ConsumerGroupHeader { consumer_group: group }.to_ext();
    let mut notification = Command::request(request::NOTIFY_CONSUMER_IDS_CHANGED, ext).oneway();
    notification.language = language::JAVA;
    let mut told = 0;
    for channel in members {
        notification.opaque = channel.calls.next_opaque();
        channel.write(|out| {
            if let Err(error) = encode_command(&notification, out) {
                tracing::warn!(%error, "a notification cannot be written");
            }
        });
        told += 1;
        if told % NOTICES_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_group_waits_once_and_not_for_ever_many() {
        let notices = Notices::new(2);
        notices.add([]);
        for group in ["a", "b", "a", "c"] {
            notices.add([group.to_owned()]);
        }
        // What was added before somebody waits is not missed.
        notices.added.notified().await;
        let mut waiting: Vec<_> = notices.groups.lock().iter().cloned().collect();
        waiting.sort_unstable();
        assert_eq!(waiting, ["a", "b"]);
    }
}
