//! Finding a place in a group: the side of a directory that has none, or may have lost it.
//!
//! A directory that is new asks the nodes that it was told of where it belongs, until it is in a group:
//!
//! * Somebody has the founding members of a group, and it is one of them: it founds the group as well.
//! * A leader says that it is a member: it enters that group, and receives the log.
//! * Nobody has a group, everybody was told to found one with the same nodes, and it is the first of them: it founds it,
//!   and notes durably with whom. A directory that is not among those never becomes a founding member.
//!
//! A member that hears of no leader for long asks as well. Where the leader says that its directory has no part in the
//! group any more, it takes another Raft id and starts again, with the log that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::BasicNode;
use parking_lot::Mutex;
use raftmq_store::StoreError;
use raftmq_world::{Mutation, Random, Threads};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::api::{Member, Role, RoleState};
use crate::group_id::GroupId;
use crate::hello::{Acquaintances, Hello};
use crate::standing::{Standing, node_of};
use crate::state_machine::Core;
use crate::transport::Transport;
use crate::types::{Membership, NodeId, decode_membership, encode_membership};
use crate::wire::Sought;

/// How often nodes are asked.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// A member that has not heard of a leader for so long asks whether it still is one.
const LONELY: Duration = Duration::from_secs(5);

/// Why a directory takes another Raft id.
#[derive(Debug)]
pub(crate) struct Renewed(pub(crate) String);

/// Looks for this directory's place.
pub(crate) struct Entering {
    pub(crate) raft: Core,
    pub(crate) standing: Arc<Standing>,
    pub(crate) transport: Transport,
    pub(crate) threads: Arc<dyn Threads>,
    pub(crate) random: Random,
    pub(crate) role: watch::Receiver<RoleState>,
    pub(crate) acquaintances: Arc<Acquaintances>,
    /// The other nodes that this member was told of.
    pub(crate) others: Vec<Member>,
    /// Its own address for the others.
    pub(crate) own: Member,
    /// Whom it is told to found a group with; nobody where it is not.
    pub(crate) founding: String,
    /// What it waits for, to be shown.
    pub(crate) waits: Arc<Mutex<Option<String>>>,
}

/// What a node has answered.
type Answer = (Hello, Sought);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// Found the group that was founded with these.
    Adopt(GroupId, Vec<u8>),
    /// Found a group with these.
    Found(BTreeMap<NodeId, String>),
    /// Enter a group as a member that its leader has taken in.
    Enter(GroupId),
    /// Ask again; what there is to say of it.
    Wait(String),
}

impl Entering {
    /// Runs until the task is ended, or this directory has to start under another Raft id.
    pub(crate) async fn run(self) -> Result<Renewed, StoreError> {
        if !self.standing.is_seated() {
            self.enter().await?;
        } else if let Some(founders) = self.standing.founding() {
            // It may have been stopped before it was done.
            self.found(&founders).await?;
        }
        loop {
            self.has_been_lonely().await;
            if let Some(words) = self.has_no_part().await {
                tracing::warn!(
                    "this directory has no part in the group any more, it returns as a new member: {words}"
                );
                let (standing, random) = (self.standing.clone(), self.random.clone());
                self.blocking(move || standing.renew(&random)).await?;
                return Ok(Renewed(words));
            }
        }
    }

    async fn blocking(
        &self,
        act: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.threads.run(act).await.unwrap_or_else(|| Err(StoreError::Stopped("the member stops".into())))
    }

    /// Asks until this directory is in a group.
    async fn enter(&self) -> Result<(), StoreError> {
        loop {
            let answers = self.ask(true).await;
            let (group, founders) = match self.next(&answers) {
                Next::Adopt(group, founders) => (group, Some(founders)),
                Next::Enter(group) => (group, None),
                Next::Found(members) => {
                    let (group, founders) = self.draw_up(members)?;
                    (group, Some(founders))
                }
                Next::Wait(words) => {
                    self.say(words);
                    tokio::time::sleep(INTERVAL).await;
                    continue;
                }
            };
            let (standing, noted) = (self.standing.clone(), founders.clone());
            self.blocking(move || standing.enter(group, noted)).await?;
            self.waits.lock().take();
            tracing::info!(%group, founder = founders.is_some(), "in a group");
            return match founders {
                Some(founders) => self.found(&founders).await,
                None => Ok(()),
            };
        }
    }

    /// Says what it waits for, once.
    fn say(&self, words: String) {
        let mut waits = self.waits.lock();
        if waits.as_ref() != Some(&words) {
            tracing::info!("not in a group yet: {words}");
            *waits = Some(words);
        }
    }

    /// A new group of these members.
    fn draw_up(&self, members: BTreeMap<NodeId, String>) -> Result<(GroupId, Vec<u8>), StoreError> {
        let illegal = |e: &dyn std::fmt::Display| StoreError::Illegal(format!("founding members: {e}"));
        let voters: BTreeSet<_> = members.keys().copied().collect();
        let nodes: BTreeMap<_, _> =
            members.into_iter().map(|(id, addr)| (id, BasicNode::new(addr))).collect();
        let membership = Membership::new(vec![voters], nodes).map_err(|e| illegal(&e))?;
        let group = GroupId::draw(&self.random);
        Ok((group, encode_membership(group, &membership).map_err(|e| illegal(&e))?))
    }

    /// Every founding member writes the same first entry for itself.
    async fn found(&self, founders: &[u8]) -> Result<(), StoreError> {
        let failed =
            |e: &dyn std::fmt::Display| StoreError::Illegal(format!("the group was not founded: {e}"));
        if self.raft.is_initialized().await.map_err(|e| failed(&e))? {
            return Ok(());
        }
        let (_, membership) = decode_membership(founders).map_err(|e| failed(&e))?;
        let mut nodes: BTreeMap<_, _> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        if Mutation::TwoFounders.is_on() && self.own.id == 2 {
            nodes.retain(|id, _| node_of(*id) == 2);
        }
        match self.raft.initialize(nodes).await {
            // The others were faster: a vote or an entry of the group is here already.
            Err(_) if self.raft.is_initialized().await.map_err(|e| failed(&e))? => Ok(()),
            done => done.map_err(|e| failed(&e)),
        }
    }

    /// What the nodes say, by number. It may ask for its node's seat as well.
    async fn ask(&self, for_seat: bool) -> BTreeMap<u64, Result<Answer, String>> {
        let asked = self.others.iter().map(|other| async {
            let asking = self.transport.seek(&other.raft, &self.founding, for_seat);
            let answer = match timeout(ANSWER_TIMEOUT, asking).await {
                Ok(answer) => answer.map_err(|e| e.to_string()),
                Err(_) => Err(format!("no answer from {}", other.raft)),
            };
            (other.id, answer)
        });
        join_all(asked).await.into_iter().collect()
    }

    fn next(&self, answers: &BTreeMap<u64, Result<Answer, String>>) -> Next {
        match (self.standing.group(), next(self.standing.id(), &self.own.raft, &self.founding, answers)) {
            // With the log of one group there is no place in another.
            (Some(own), Next::Adopt(group, _) | Next::Enter(group)) if own != group => Next::Wait(format!(
                "the group that answers was founded as {group}, this directory is of {own}"
            )),
            (Some(own), Next::Found(_)) => Next::Wait(format!("no other member of the group {own} answers")),
            (_, next) => next,
        }
    }

    /// Returns when this member has heard of no leader for long.
    async fn has_been_lonely(&self) {
        let began = Instant::now();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let leads = self.role.borrow().role == Role::Leader;
            let silence = self.acquaintances.leader_silence().min(began.elapsed());
            if !leads && silence >= LONELY {
                return;
            }
        }
    }

    /// Why this directory has no part in its group, if a leader says so.
    async fn has_no_part(&self) -> Option<String> {
        let own = self.standing.group();
        let answers = self.ask(false).await;
        let of_leader = answers
            .into_values()
            .flatten()
            .find(|(theirs, sought)| theirs.group == own && sought.is_member.is_some());
        of_leader.filter(|(_, sought)| sought.is_member == Some(false)).map(|(_, sought)| sought.words)
    }
}

/// What a directory without a group does next.
fn next(own: NodeId, address: &str, founding: &str, answers: &BTreeMap<u64, Result<Answer, String>>) -> Next {
    let answered = || answers.values().flatten();
    let groups: BTreeSet<GroupId> = answered().filter_map(|(theirs, _)| theirs.group).collect();
    if groups.len() > 1 {
        let groups: Vec<_> = groups.iter().map(GroupId::to_string).collect();
        return Next::Wait(format!("members of several groups answer: {}", groups.join(", ")));
    }
    if let Some(group) = groups.first() {
        return next_in(*group, own, answers);
    }
    if founding.is_empty() {
        let words = answers.values().filter_map(|answer| answer.as_ref().err());
        let words: Vec<_> = words.map(String::as_str).collect();
        return Next::Wait(format!(
            "no member of a group answers, and this node was not told to found one ({})",
            words.join("; ")
        ));
    }
    let mut members = BTreeMap::from([(own, address.to_owned())]);
    for (node, answer) in answers {
        match answer {
            Ok((theirs, _)) if theirs.node() != *node => {
                return Next::Wait(format!(
                    "node {} answers where node {node} was looked for",
                    theirs.node()
                ));
            }
            Ok((theirs, sought)) if sought.founding == founding => {
                members.insert(theirs.id, theirs.raft.clone());
            }
            Ok((_, sought)) => return Next::Wait(sought.words.clone()),
            Err(words) => {
                return Next::Wait(format!(
                    "to found a group every node has to answer: node {node}: {words}"
                ));
            }
        }
    }
    match answers.keys().next() {
        Some(first) if *first < node_of(own) => Next::Wait(format!("node {first} is to found the group")),
        _ => Next::Found(members),
    }
}

/// The same where others are in a group.
fn next_in(group: GroupId, own: NodeId, answers: &BTreeMap<u64, Result<Answer, String>>) -> Next {
    let mut words = format!("the group was founded as {group} without this directory");
    for (theirs, sought) in answers.values().flatten().filter(|(theirs, _)| theirs.group.is_some()) {
        let founders = decode_membership(&sought.founders);
        if let Ok((_, founders)) = founders
            && founders.nodes().any(|(id, _)| *id == own)
        {
            return Next::Adopt(group, sought.founders.clone());
        }
        if sought.is_member == Some(true) {
            return Next::Enter(group);
        }
        words = format!("{words}; node {}: {}", theirs.node(), sought.words);
    }
    Next::Wait(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = 1 << 20 | 1;
    const B: NodeId = 2 << 20 | 2;
    const C: NodeId = 3 << 20 | 3;
    const LIST: &str = "1=a,2=b,3=c";
    const GROUP: GroupId = GroupId::from_bytes([4; 16]);

    type Answers = BTreeMap<u64, Result<Answer, String>>;

    fn hello(id: NodeId, group: Option<GroupId>) -> Hello {
        Hello {
            cluster: "C".into(),
            broker_name: "b".into(),
            segment_bytes: 1 << 20,
            group,
            id,
            start: (1, 1),
            term: 0,
            last: None,
            raft: format!("at {}", node_of(id)),
            client: String::new(),
            admin: String::new(),
            reads: 1,
            level: 1,
        }
    }

    /// What one says that is to found a group as well.
    fn founder(id: NodeId, founding: &str) -> (u64, Result<Answer, String>) {
        let (founding, words) = (founding.to_owned(), "other lists".to_owned());
        (node_of(id), Ok((hello(id, None), Sought { founding, words, ..Sought::default() })))
    }

    fn member(
        id: NodeId,
        group: GroupId,
        is_member: Option<bool>,
        founders: &[NodeId],
    ) -> (u64, Result<Answer, String>) {
        let founders = match founders {
            [] => Vec::new(),
            ids => {
                let voters = BTreeSet::from_iter(ids.iter().copied());
                let nodes: BTreeMap<_, _> = ids.iter().map(|id| (*id, BasicNode::new("a"))).collect();
                encode_membership(group, &Membership::new(vec![voters], nodes).unwrap()).unwrap()
            }
        };
        let sought = Sought { founders, is_member, words: "no majority".into(), ..Sought::default() };
        (node_of(id), Ok((hello(id, Some(group)), sought)))
    }

    fn absent(node: u64) -> (u64, Result<Answer, String>) {
        (node, Err("refused".into()))
    }

    fn next_of(
        own: NodeId,
        founding: &str,
        answers: impl IntoIterator<Item = (u64, Result<Answer, String>)>,
    ) -> Next {
        next(own, "here", founding, &Answers::from_iter(answers))
    }

    fn words(next: Next) -> String {
        match next {
            Next::Wait(words) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_node_founds_a_group_once_every_node_is_there_and_was_told_the_same() {
        let all =
            |own: NodeId| [A, B, C].into_iter().filter(move |id| *id != own).map(|id| founder(id, LIST));
        let members = [(A, "here".to_owned()), (B, "at 2".to_owned()), (C, "at 3".to_owned())].into();
        assert_eq!(next_of(A, LIST, all(A)), Next::Found(members));
        assert!(words(next_of(B, LIST, all(B))).contains("node 1 is to found"));
        assert!(words(next_of(A, LIST, [founder(B, LIST), absent(3)])).contains("node 3: refused"));
        assert_eq!(words(next_of(A, LIST, [founder(B, "1=a,2=x"), founder(C, LIST)])), "other lists");
        assert!(
            words(next_of(A, LIST, [(2, founder(C, LIST).1), founder(C, LIST)])).contains("node 3 answers")
        );
        assert!(words(next_of(A, "", all(A))).contains("not told to found"));
        assert_eq!(next_of(A, "1=a", []), Next::Found([(A, "here".to_owned())].into()));
    }

    #[test]
    fn a_founding_member_is_one_that_the_group_was_founded_with() {
        let founders = [A, B, C];
        let Next::Adopt(group, _) = next_of(C, LIST, [member(A, GROUP, None, &founders), absent(2)]) else {
            panic!("it is one of them")
        };
        assert_eq!(group, GROUP);
        // The same node with another directory is not, whatever it was told.
        let emptied = C ^ 1 << 40;
        assert!(
            words(next_of(emptied, LIST, [member(A, GROUP, None, &founders), founder(B, LIST)]))
                .contains("no majority")
        );
    }

    #[test]
    fn others_enter_once_a_leader_says_that_they_are_members() {
        let leader = |is_member| [member(A, GROUP, is_member, &[]), absent(2)];
        assert_eq!(next_of(C, LIST, leader(Some(true))), Next::Enter(GROUP));
        for not_yet in [None, Some(false)] {
            assert!(words(next_of(C, LIST, leader(not_yet))).contains("no majority"));
        }
        let other = GroupId::from_bytes([5; 16]);
        let two = [member(A, GROUP, Some(true), &[]), member(B, other, None, &[])];
        assert!(words(next_of(C, LIST, two)).contains("several groups"));
    }
}
