//! A leader's part in [leases](crate::lease): it asks the other voters for them, over a connection to each.
//!
//! A request is sent at every heartbeat, whether those before are answered or not, so that what the way there and back takes
//! costs as much of the lease and no more. Followers answer from memory, and say whether their disks have room.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use openraft::RaftNetworkFactory;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::electorate::Electorate;
use crate::lease::Leases;
use crate::room::Rooms;
use crate::state_machine::Core;
use crate::transport::{Link, Transport};
use crate::types::{NodeId, Vote};
use crate::wire;

/// A connection on which nothing is answered for this long is given up, and made anew only where the way there and back
/// works: a leader that is heard and hears nothing must not keep others from being elected.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Requests of a connection that are not answered; then no more are sent.
const REQUESTS_MAX: usize = 64;

/// Asks for leases while this member leads.
pub(crate) struct Renewal {
    pub(crate) raft: Core,
    pub(crate) transport: Transport,
    pub(crate) leases: Arc<Leases>,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) interval: Duration,
}

/// Whom a leader asks.
#[derive(PartialEq, Eq)]
struct Voters {
    vote: Vote,
    electorate: Electorate,
}

impl Renewal {
    /// Runs until the Raft core ends.
    pub(crate) async fn run(mut self) {
        let mut server = self.raft.server_metrics();
        let mut present = None;
        // Who is asked; the tasks end where they are dropped.
        let mut asking: Option<JoinSet<()>> = None;
        loop {
            let (voters, addresses) = {
                let metrics = server.borrow_and_update();
                let membership = metrics.membership_config.membership();
                let electorate = Electorate::of(membership);
                let leads = metrics.state == ServerState::Leader;
                let nodes: Vec<_> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
                // That it was elected may not be recorded yet.
                let vote = Vote { committed: true, ..metrics.vote };
                (leads.then_some(Voters { vote, electorate }), nodes)
            };
            if voters != present {
                let tasks = asking.insert(JoinSet::new());
                self.rooms.lead(voters.as_ref().map(|voters| voters.electorate.clone()).unwrap_or_default());
                if let Some(Voters { vote, electorate }) = &voters {
                    self.leases.lead(vote.leader_id.term, electorate.clone());
                    let own = vote.leader_id.voted_for;
                    let is_asked = |id: &NodeId| *id != own && electorate.has(*id);
                    for (id, node) in addresses.iter().filter(|(id, _)| is_asked(id)) {
                        let link = self.transport.new_client(*id, node).await;
                        let (leases, rooms) = (self.leases.clone(), self.rooms.clone());
                        let asks = Asks { member: *id, vote: *vote, leases, rooms, interval: self.interval };
                        tasks.spawn(asks.run(link));
                    }
                }
                present = voters;
            }
            if server.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Asks one member.
struct Asks {
    member: NodeId,
    vote: Vote,
    leases: Arc<Leases>,
    rooms: Arc<Rooms>,
    interval: Duration,
}

impl Asks {
    /// Asks until the task is ended.
    async fn run(self, mut link: Link) {
        loop {
            if let Err(error) = self.ask_on(&mut link).await {
                tracing::debug!(node = self.member, "no lease asked for: {error}");
            }
            link.disconnect();
            sleep(self.interval).await;
        }
    }

    /// Asks over one connection until it fails.
    async fn ask_on(&self, link: &mut Link) -> io::Result<()> {
        let transport = link.transport().clone();
        let connection = link.connection().await?;
        let term = self.vote.leader_id.term;
        let mut asked: VecDeque<(u64, Duration, Instant)> = VecDeque::new();
        let mut next = Instant::now();
        loop {
            let overdue = asked.front().map(|(.., at)| *at + ANSWER_MAX);
            tokio::select! {
                biased;
                reply = connection.receive(&transport) => {
                    let (id, reply) = wire::read_lease_reply(reply?).map_err(io::Error::other)?;
                    self.rooms.said(self.member, reply.has_room);
                    while let Some((other, at, _)) = asked.pop_front_if(|(other, ..)| *other <= id) {
                        if let Some(given) = reply.given.filter(|_| other == id) {
                            self.leases.given(term, self.member, at, given);
                        }
                    }
                }
                () = sleep_until(overdue.unwrap_or(next)), if overdue.is_some() => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
                }
                () = sleep_until(next), if asked.len() < REQUESTS_MAX => {
                    let at = self.leases.now();
                    if let Some(lease) = self.leases.to_ask(term) {
                        let id = connection.take_id();
                        let mut out = BytesMut::new();
                        wire::put_lease(&mut out, id, &self.vote, lease);
                        asked.push_back((id, at, Instant::now()));
                        connection.send_in_time(&out).await?;
                    }
                    next = Instant::now().max(next + self.interval);
                }
            }
        }
    }
}
