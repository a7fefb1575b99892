//! Registration: telling every name server who this member is and which topics the group has.
//!
//! Each name server has a task of its own, so that one that is down delays neither the others nor the broker. A member
//! registers when it starts, when its role or a topic changes, and every few seconds. What changes while a registration is
//! on its way is told with the next one.

use raftmq_broker::state::Topics;
use tokio::time::{Instant, sleep_until};

use crate::limits::{REGISTRATION_PERIOD, REGISTRATION_RETRY};
use crate::name_server::{NameServer, Session};
use crate::node::Node;
use crate::peer::PeerError;
use crate::registered::Told;

/// How long after the start it is not worth a warning that a name server has not answered yet: members with name servers
/// inside start one after the other.
const START_PATIENCE_MS: u64 = 10_000;

/// Registers at one name server, again and again. Runs until the task is ended.
pub(crate) async fn run(node: &Node, index: usize) {
    let name_server = NameServer { node, address: &node.config.namesrv[index] };
    let mut role = node.replica.watch_role();
    let mut topics = node.state.topics.subscribe();
    let mut session = None;
    loop {
        role.mark_unchanged();
        topics.mark_unchanged();
        let next = match tell(&name_server, &node.state.topics, &mut session).await {
            Ok(version) => {
                report(node, index, Told { version, ..Told::default() });
                session.as_ref().map_or_else(|| Instant::now() + REGISTRATION_PERIOD, Session::due)
            }
            Err(error) => {
                tracing::debug!(name_server = name_server.address, %error, "not registered");
                report(node, index, Told { failing: true, ..Told::default() });
                Instant::now() + REGISTRATION_RETRY
            }
        };
        tokio::select! {
            changed = role.changed() => if changed.is_err() { return },
            changed = topics.changed() => if changed.is_err() { return },
            () = sleep_until(next) => {}
        }
    }
}

/// Tells a name server what it does not know yet, and returns which version of the topics it knows then.
async fn tell(
    name_server: &NameServer<'_>,
    topics: &Topics,
    session: &mut Option<Session>,
) -> Result<u64, PeerError> {
    let before = session.take();
    // Read first: where there is nobody to register, nobody waits for it.
    let version = topics.version();
    let Some(identity) = name_server.identity() else { return Ok(version) };
    let told = name_server.tell(identity, before).await?;
    Ok(session.insert(told).version)
}

/// Notes how an attempt went. A name server that has never answered may be about to start.
fn report(node: &Node, index: usize, mut told: Told) {
    let before = *node.registered.told[index].borrow();
    let patient = before.version == 0 && node.process.now_ms() < START_PATIENCE_MS;
    told.warned = told.failing && (before.warned || !patient);
    node.registered.told[index].send_replace(told);
    let name_server = &node.config.namesrv[index];
    match (before.warned, told.warned) {
        (false, true) => tracing::warn!(name_server, "name server does not answer"),
        (true, false) => tracing::info!(name_server, "name server answers again"),
        _ => {}
    }
}

/// Tells every name server that this member leaves.
pub(crate) async fn unregister(node: &Node) {
    let leave = |address: &String| {
        let address = address.clone();
        async move {
            let name_server = NameServer { node, address: &address };
            let Some(identity) = name_server.identity() else { return };
            if let Err(error) = name_server.leave(identity).await {
                tracing::debug!(name_server = address, %error, "not unregistered");
            }
        }
    };
    futures_util::future::join_all(node.config.namesrv.iter().map(leave)).await;
}
