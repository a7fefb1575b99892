//! A real group of three members in one process, with a broker each.

use super::*;

pub(super) struct Trio {
    pub(super) members: Vec<(Front, Group)>,
    _dir: tempfile::TempDir,
}

impl Trio {
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With name servers.
    pub(super) async fn start_with(namesrv: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let founders: Vec<_> = (1..=3).map(|id| Member { id, raft: free_address().to_string() }).collect();
        let mut members = Vec::new();
        for id in 1..=3 {
            let (group, state, views) = start_member(id, &founders, dir.path()).await;
            let config = BrokerConfig { namesrv: namesrv.to_vec(), ..broker_config(&group) };
            let broker =
                crate::start(config, group.clone(), state, views, process(Limits::default())).unwrap();
            members.push((broker, group));
        }
        Self { members, _dir: dir }
    }

    /// One with a message in topic T, and a group that prefers a follower; returns the leader, that follower, and a connection
    /// to the leader.
    pub(super) async fn start_with_reader(group: &str) -> (Self, usize, usize, Client) {
        let trio = Self::start().await;
        let leader = trio.leader().await;
        let follower = (leader + 1) % 3;
        let mut client = trio.client(leader).await;
        client.ok(send("T", "zero")).await;
        client.ok(put_reading_group(group, follower as i64 + 1)).await;
        (trio, leader, follower, client)
    }

    pub(super) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "it does not come to be");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The member that leads, as soon as there is one, every member has said where it is, and all know the topics.
    pub(super) async fn leader(&self) -> usize {
        let complete = |(broker, group): &(Front, Group)| {
            let knows_all = (1..=3).all(|id| group.address_of(id).is_some());
            broker.state().topics.has("C1_REPLY_TOPIC") && knows_all
        };
        let leader = |trio: &Self| trio.members.iter().position(|(broker, _)| broker.node.leading().is_ok());
        self.until(|trio| leader(trio).is_some() && trio.members.iter().all(complete)).await;
        leader(self).expect("it was there just now")
    }

    pub(super) async fn client(&self, at: usize) -> Client {
        Client::connect(self.members[at].0.address).await
    }

    /// Has another member lead; returns a connection to it.
    pub(super) async fn move_leadership(&self) -> Client {
        let old = self.leader().await;
        self.members[old].1.transfer_leadership().await;
        self.until(|trio| trio.members[old].0.node.leading().is_err()).await;
        let new = self.leader().await;
        self.client(new).await
    }

    pub(super) async fn stop(self) {
        for (broker, group) in self.members {
            broker.shutdown().await;
            group.shutdown().await;
        }
    }
}
