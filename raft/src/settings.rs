//! What a member's configuration means to the parts of it: to openraft, to the store, to the other members.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use raftmq_store::Identity;

use crate::api::{GroupConfig, Member, StartError};
use crate::hello::Introduction;
use crate::lease::Times;
use crate::standing::NODE_MAX;
use crate::table::FeatureLevel;
use crate::wire::HELLO_TEXT_MAX;

/// The largest configured timeout, in ms: a typing error should not make a group that never elects.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// How long a vote, or taking leadership over, may take.
const VOTE_MS_MAX: u64 = 10_000;

/// Whose a directory is.
pub(crate) fn identity(config: &GroupConfig) -> Identity {
    Identity {
        cluster: config.cluster.clone(),
        broker_name: config.broker_name.clone(),
        node_id: config.node_id,
        segment_bytes: config.segment_bytes,
    }
}

/// Nodes in the order of their ids, as `1=127.0.0.1:10912,2=...`.
pub(crate) fn members_text(members: &[Member]) -> String {
    let mut members: Vec<_> = members.iter().map(|member| (member.id, &member.raft)).collect();
    members.sort_unstable();
    members.iter().map(|(id, raft)| format!("{id}={raft}")).collect::<Vec<_>>().join(",")
}

/// What a member says of itself.
pub(crate) fn introduction(config: &GroupConfig, own: &Member, reads: FeatureLevel) -> Introduction {
    Introduction {
        cluster: config.cluster.clone(),
        broker_name: config.broker_name.clone(),
        segment_bytes: config.segment_bytes,
        raft: own.raft.clone(),
        client: config.client.to_string(),
        admin: config.admin.to_string(),
        reads,
    }
}

/// How long leases are: nobody is elected as long as a majority has heard the leader within the longer timeout.
pub(crate) fn lease_times(config: &GroupConfig) -> Times {
    let (min, max) = config.election_timeout_ms;
    let ms = Duration::from_millis;
    Times { lease: ms(max), spread: ms(max.saturating_sub(min)) }
}

/// This node among the configured ones.
pub(crate) fn own_member(config: &GroupConfig) -> Result<&Member, StartError> {
    let refused = |what: String| Err(StartError::Config(what));
    for member in &config.members {
        if !(1..=NODE_MAX).contains(&member.id) {
            return refused(format!("node {}: nodes are numbered from 1 to {NODE_MAX}", member.id));
        }
        if config.members.iter().filter(|other| other.id == member.id).count() > 1 {
            return refused(format!("node {} is there twice", member.id));
        }
    }
    let text = members_text(&config.members);
    if text.len() > HELLO_TEXT_MAX {
        return refused(format!(
            "the members take {} bytes, at most {HELLO_TEXT_MAX} do: {text}",
            text.len()
        ));
    }
    let own = config.members.iter().find(|member| member.id == config.node_id);
    own.ok_or_else(|| StartError::Config(format!("node {} is not among the members", config.node_id)))
}

/// openraft's settings.
pub(crate) fn raft_config(config: &GroupConfig) -> Result<Config, StartError> {
    let (election_min, election_max) = config.election_timeout_ms;
    let is_range = election_min < election_max && election_max <= TIMEOUT_MS_MAX;
    if config.heartbeat_ms == 0 || !is_range || election_min < 2 * config.heartbeat_ms {
        return Err(StartError::Config(format!(
            "heartbeat of {} ms, election timeout of {election_min} to {election_max} ms: the timeout must be at least \
             two heartbeats and at most {TIMEOUT_MS_MAX} ms, and the second of the two longer",
            config.heartbeat_ms
        )));
    }
    Config {
        cluster_name: format!("{}/{}", config.cluster, config.broker_name),
        heartbeat_interval: config.heartbeat_ms,
        // Who stands, and when, is decided by `election` and `lease`. What is left of these: a vote is waited for as long as
        // the first, which a slow disk may take, and the leases of openraft's own are as long as the second.
        enable_elect: false,
        enable_pre_vote: Some(false),
        election_timeout_min: VOTE_MS_MAX,
        election_timeout_max: 2 * VOTE_MS_MAX,
        // A leader that was killed has to be elected again like any other.
        enable_leader_restore: Some(false),
        // An entry goes to the followers while the leader's own disk still works on it.
        broadcast_submitted_on_append: Some(true),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        // Nothing is purged, so a follower that lags gets entries however far back it is.
        replication_lag_threshold: u64::MAX,
        // One whose log has gone back is found when it connects (`hello.rs`). Were it not, it gets what it lacks.
        allow_log_reversion: Some(true),
        max_payload_entries: 256,
        backoff: "50ms".into(),
        ..Config::default()
    }
    .validate()
    .map_err(|e| StartError::Config(e.to_string()))
}
