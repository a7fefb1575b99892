//! What the name servers know of this member: which version of the topics each has been told.

use parking_lot::Mutex;
use raftmq_raft::{Role, RoleState};
use raftmq_remoting::body::DataVersion;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::limits::{NAME_SERVER_TIMEOUT, REGISTRATION_RETRY};

/// What a name server has last been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Version of the topics.
    pub(crate) version: u64,
    /// The last attempt failed, so nobody waits for this one.
    pub(crate) failing: bool,
    /// It was warned of that.
    pub(crate) warned: bool,
}

pub(crate) struct Registered {
    /// One for each name server, in the configuration's order.
    pub(crate) told: Vec<watch::Sender<Told>>,
    stamp: Mutex<Stamp>,
}

/// The data version, made anew when what it stands for changes.
#[derive(Default)]
struct Stamp {
    of: Option<(u64, u64, Option<u64>)>,
    version: DataVersion,
}

impl Registered {
    pub(crate) fn new(name_servers: usize) -> Self {
        Self { told: (0..name_servers).map(|_| watch::Sender::default()).collect(), stamp: Mutex::default() }
    }

    /// Waits until the name servers that answer know this version of the topics. Those that do not answer are known
    /// soon, and are not waited for the next time.
    pub(crate) async fn wait_for(&self, version: u64) {
        let told = futures_util::future::join_all(self.told.iter().map(|told| async {
            let mut told = told.subscribe();
            // The sender lives as long as this does.
            let _ = told.wait_for(|told| told.version >= version || told.failing).await;
        }));
        if timeout(NAME_SERVER_TIMEOUT + REGISTRATION_RETRY, told).await.is_err() {
            tracing::warn!(version, "not every name server knows the changed topics in time");
        }
    }

    /// A version that is newer than every one before it: by the term where a leader changes, else by the count.
    pub(crate) fn stamp(&self, term: u64, version: u64, broker_id: Option<u64>, now_ms: i64) -> DataVersion {
        let mut stamp = self.stamp.lock();
        if stamp.of != Some((term, version, broker_id)) {
            stamp.of = Some((term, version, broker_id));
            stamp.version = DataVersion {
                counter: version as i64,
                state_version: term as i64,
                timestamp: now_ms.max(stamp.version.timestamp + 1),
            };
        }
        stamp.version
    }
}

/// The id a member registers as: the leader is 0, everybody else has its node id. `None` where it must not register.
pub(crate) fn broker_id(role: &RoleState, node_id: u64) -> Option<u64> {
    match role.role {
        Role::Leader => role.ready.then_some(0),
        Role::Follower | Role::Candidate | Role::Learner => Some(node_id),
        Role::Stopped => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_leader_is_zero_once_it_serves_and_the_others_are_themselves() {
        let role = |role, ready| RoleState { role, term: 1, leader: None, ready };
        assert_eq!(broker_id(&role(Role::Leader, true), 1), Some(0));
        assert_eq!(broker_id(&role(Role::Leader, false), 1), None);
        assert_eq!(broker_id(&role(Role::Follower, false), 1), Some(1));
        assert_eq!(broker_id(&role(Role::Candidate, false), 3), Some(3));
        assert_eq!(broker_id(&role(Role::Stopped, false), 3), None);
    }

    #[test]
    fn a_data_version_changes_with_what_it_stands_for_only() {
        let registration = Registered::new(0);
        let first = registration.stamp(3, 7, Some(1), 1_000);
        assert_eq!((first.counter, first.state_version), (7, 3));
        assert_eq!(registration.stamp(3, 7, Some(1), 1_000), first);
        let as_leader = registration.stamp(4, 7, Some(0), 1_000);
        assert!(as_leader.state_version == 4 && as_leader.timestamp > first.timestamp);
        assert_eq!(registration.stamp(4, 7, Some(0), 2_000), as_leader);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_name_server_that_fails() {
        let registration = Registered::new(2);
        registration.told[0].send_replace(Told { version: 5, ..Told::default() });
        registration.told[1].send_replace(Told { failing: true, ..Told::default() });
        timeout(Duration::from_millis(50), registration.wait_for(5)).await.unwrap();
        let waiting = registration.wait_for(6);
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        registration.told[0].send_replace(Told { version: 6, ..Told::default() });
        timeout(Duration::from_millis(50), waiting).await.unwrap();
    }
}
