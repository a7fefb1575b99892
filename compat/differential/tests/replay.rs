//! A real group against the recorded answers of the Java broker.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use raftmq_cluster_tests::harness::{Group, GroupOptions, PortKind};
use raftmq_differential::catalog::Catalog;
use raftmq_differential::compare::{Accepted, Difference};
use raftmq_differential::record::{Recorded, from_text};
use raftmq_differential::run::each;
use raftmq_differential::script::Names;
use raftmq_differential::session::{Session, Target};

/// Cases at once. Most of a case is waiting for effects.
const WORKERS: usize = 16;
/// How much longer effects are waited for when a case that differed runs again: others may use the machine.
const SLOWNESS_AGAIN: u32 = 5;

struct Replay {
    catalog: Catalog,
    target: [Target; 1],
    accepted: Vec<Accepted>,
    next: AtomicU32,
}

impl Replay {
    fn differences(&self, record: &Recorded, slowness: u32) -> Result<Vec<Difference>> {
        let names = Names::new(0, self.next.fetch_add(1, Ordering::Relaxed));
        let case = record.case(&self.catalog)?;
        let asked = Session::new(&self.catalog, &self.target, names.clone()).run(&case, slowness)?;
        Ok(record.differences(&case, &asked, &names, &self.accepted))
    }
}

#[test]
fn a_group_answers_as_the_java_broker_did() {
    let mut group = Group::start(&GroupOptions { flush: "async".into(), ..GroupOptions::default() }).unwrap();
    let leader = group.wait_ready(Duration::from_secs(30)).unwrap().node_id;
    let node = group.node(leader);
    let (broker, name_server) = (node.addr(PortKind::Client), node.addr(PortKind::NameServer));
    let replay = Replay {
        catalog: Catalog::load().unwrap(),
        target: [Target { name: "ours".into(), broker, name_server }],
        accepted: serde_json::from_str(include_str!("../data/accepted.json")).unwrap(),
        next: AtomicU32::new(1),
    };
    let records = from_text(include_str!("../data/recorded.jsonl")).unwrap();
    assert!(records.len() > 300, "{} records", records.len());

    let failed = Mutex::new(Vec::new());
    each(WORKERS, records.len(), |at| {
        if !replay.differences(&records[at], 1).unwrap().is_empty() {
            failed.lock().unwrap().push(&records[at]);
        }
    });

    let mut told = String::new();
    for record in failed.into_inner().unwrap() {
        for difference in replay.differences(record, SLOWNESS_AGAIN).unwrap() {
            let Difference { request, at, java, ours, .. } = difference;
            told += &format!("{}\n  {request}: {at}: java {java}, ours {ours}\n", record.id);
        }
    }
    assert!(told.is_empty(), "{told}");
}
