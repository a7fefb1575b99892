//! Three members in one process.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
// Clippy lets tests unwrap, but not the functions they share.
#![allow(clippy::unwrap_used)]

mod doubt;
mod full_disk;
mod members;
mod mending;
mod run;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use raftmq_message::builder::RecordParts;
use raftmq_raft::{
    Change, Completion, FeatureLevel, Group, GroupConfig, Member, MessageBatch, Placed, ProposeError, Role,
    StartError, Table, Tables,
};
use raftmq_store::StoreError;
use raftmq_testkit::{ToldDisk, free_address, group_config};
use raftmq_world::{Clock, SystemClock, World};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn members() -> Vec<Member> {
    (1..=3).map(|id| Member { id, raft: free_address().to_string() }).collect()
}

/// Adds up numbers.
#[derive(Default)]
struct Sum<const ID_: u8>(AtomicU64);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum SumCommand {
    Add(u64),
    /// Of level 2.
    Double,
}

/// Its changes come alone.
type Plain = Sum<1>;
/// Its changes belong to messages.
type Steps = Sum<2>;

impl<const ID_: u8> Sum<ID_> {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn change(command: &SumCommand) -> Change {
        Change::new::<Self>(command).unwrap()
    }
}

impl<const ID_: u8> Table for Sum<ID_> {
    const ID: u8 = ID_;
    const NAME: &'static str = "sum";
    const IMAGE_VERSION: u8 = 1;
    const WITH_MESSAGES: bool = ID_ == 2;
    type Command = SumCommand;
    type Outcome = u64;
    type Image = u64;

    fn level(command: &SumCommand) -> FeatureLevel {
        if matches!(command, SumCommand::Double) { 2 } else { 1 }
    }

    fn apply(&self, command: SumCommand) -> Result<u64, StoreError> {
        let sum = match command {
            SumCommand::Add(n) => self.get() + n,
            SumCommand::Double => self.get() * 2,
        };
        self.0.store(sum, Ordering::Relaxed);
        Ok(sum)
    }

    fn freeze(&self) -> impl FnOnce() -> u64 + Send + Sync + 'static {
        let sum = self.get();
        move || sum
    }

    fn restore(&self, image: u64) -> Result<(), StoreError> {
        self.0.store(image, Ordering::Relaxed);
        Ok(())
    }
}

/// A running member with its tables.
#[derive(Clone)]
struct Running {
    group: Group,
    plain: Arc<Plain>,
    steps: Arc<Steps>,
}

impl std::ops::Deref for Running {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

fn node_dir(dir: &Path, id: u64) -> std::path::PathBuf {
    dir.join(id.to_string())
}

fn empty(dir: &Path, id: u64) {
    std::fs::remove_dir_all(node_dir(dir, id)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn others<'a>(groups: &'a [Running], than: &Running) -> Vec<&'a Running> {
    let own = than.status().node_id;
    groups.iter().filter(|group| group.status().node_id != own).collect()
}

/// Keeps what a member has on its disk while it runs: what it would leave if it were killed now.
fn image(dir: &Path, node: u64) {
    copy(&node_dir(dir, node), &dir.join(format!("image-{node}")));
}

/// Has a member that has ended find that.
fn restore(dir: &Path, node: u64) {
    empty(dir, node);
    copy(&dir.join(format!("image-{node}")), &node_dir(dir, node));
}

async fn try_start(config: GroupConfig, reads: FeatureLevel, world: World) -> Result<Running, StartError> {
    let (plain, steps) = (Arc::<Plain>::default(), Arc::<Steps>::default());
    let tables = Tables::new(reads).with(plain.clone()).with(steps.clone());
    Ok(Running { group: Group::start(config, tables, world).await?, plain, steps })
}

async fn start(id: u64, members: &[Member], dir: &Path) -> Running {
    try_start(group_config(id, members, dir), 1, World::system()).await.unwrap()
}

/// Every member, in the order of their ids.
async fn start_all(members: &[Member], dir: &Path) -> Vec<Running> {
    let mut groups = Vec::new();
    for member in members {
        groups.push(start(member.id, members, dir).await);
    }
    groups
}

async fn stop_all(groups: &[Running]) {
    for group in groups {
        group.shutdown().await;
    }
}

async fn leader(groups: &[Running]) -> Running {
    let mut roles: Vec<_> = groups.iter().map(|group| group.watch_role()).collect();
    timeout(PATIENCE, async {
        loop {
            if let Some(at) = roles.iter().position(|r| r.borrow().ready) {
                return groups[at].clone();
            }
            let changes = roles.iter_mut().map(|r| Box::pin(r.changed()));
            let _ = futures_util::future::select_all(changes).await;
        }
    })
    .await
    .expect("a leader is elected")
}

struct Tell(oneshot::Sender<Result<Vec<Placed>, ProposeError>>);

impl Completion for Tell {
    fn complete(self: Box<Self>, outcome: Result<&[Placed], &ProposeError>) {
        let _ = self.0.send(outcome.map(<[_]>::to_vec).map_err(Clone::clone));
    }
}

/// A batch, and what it is told.
type Open = (MessageBatch, oneshot::Receiver<Result<Vec<Placed>, ProposeError>>);

fn batch(queue_id: i32, bodies: &[String]) -> Open {
    let mut records = BytesMut::new();
    for body in bodies {
        let parts = RecordParts {
            topic: "topic",
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: "127.0.0.1:1".parse().unwrap(),
            store_host: "127.0.0.1:2".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: body.as_bytes(),
            properties: &["TAGS\u{1}a\u{2}KEYS\u{1}k\u{2}"],
        };
        parts.encode_into(&mut records).unwrap();
    }
    let (sender, outcome) = oneshot::channel();
    (
        MessageBatch {
            records,
            count: bodies.len() as u32,
            change: None,
            term: None,
            completion: Box::new(Tell(sender)),
        },
        outcome,
    )
}

/// Whether a member does not take a batch, because it does not lead.
async fn is_not_taken(member: &Group, (batch, told): Open) -> bool {
    member.submit(batch);
    matches!(told.await.unwrap(), Err(ProposeError::NotLeader { .. }))
}

async fn send(leader: &Group, queue_id: i32, bodies: &[String]) -> Vec<Placed> {
    let (batch, outcome) = batch(queue_id, bodies);
    leader.submit(batch);
    timeout(PATIENCE, outcome).await.unwrap().unwrap().unwrap()
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come about"));
}

fn bodies(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}-{}", "x".repeat(n % 1000))).collect()
}

/// Every body in a queue, read through the ConsumeQueue.
fn read_all(group: &Running, queue_id: u32) -> Vec<String> {
    let Some(queue) = group.store().queue("topic", queue_id) else { return Vec::new() };
    let units = queue.read(0, usize::MAX);
    units
        .iter()
        .map(|unit| {
            let bytes = group.store().record(unit.physical_offset, unit.size).unwrap().unwrap();
            let record = raftmq_message::RecordView::parse(&bytes).unwrap();
            String::from_utf8(record.body().to_vec()).unwrap()
        })
        .collect()
}
