//! The admin API: JSON over HTTP, read only, on every member.
//!
//! | module | what it is |
//! |---|---|
//! | `view` | the JSON bodies, made from a member's state |
//! | `listener` | connections with bounds on their number and their time |
//! | `client` | the few lines of HTTP that `raftmq admin` needs |
//!
//! | path | what it answers |
//! |---|---|
//! | `/cluster` | the group as this member sees it |
//! | `/members` | its members alone |
//! | `/topics?after=NAME` | topics with the offsets of their queues, a page at a time |
//! | `/groups?after=NAME` | subscription groups with their offsets, likewise |
//! | `/groups/NAME` | one of them: members, subscriptions, lag, locks, resets |
//! | `/delay` | how far delayed messages are delivered |
//! | `/stats` | counters of the broker |
//! | `/health` | 200 while the member runs, else 503 and why |
//! | `/health/ready` | 200 while it serves, else 503 and why |
//!
//! Nothing here waits for the group: every answer is made from what this member knows now, during an election too.

pub(crate) mod client;
mod listener;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use raftmq_message::topic::{SCHEDULE_TOPIC, TIMER_TOPIC};
use raftmq_raft::{Group, GroupStatus};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use listener::BoundedListener;
use view::{ClusterView, DelayView, GroupView, LevelView, MemberView, Page, TopicView};

/// Where the answers come from.
trait Source: Send + Sync + 'static {
    fn status(&self) -> GroupStatus;
    /// Topics behind `after` in the order of their names.
    fn topics(&self, after: &str) -> Page<TopicView>;
    fn groups(&self, after: &str) -> Page<GroupView>;
    /// A group in full, `None` where there is none of that name.
    fn group(&self, name: &str) -> Option<serde_json::Value>;
    fn delay(&self) -> DelayView;
    fn stats(&self) -> serde_json::Value;
}

/// A member and its broker.
struct Member {
    group: Group,
    broker: Broker,
}

impl Source for Member {
    fn status(&self) -> GroupStatus {
        self.group.status()
    }

    fn topics(&self, after: &str) -> Page<TopicView> {
        let store = self.group.store();
        let ends = |topic: &str, queue_id| {
            store.queue(topic, queue_id).map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()))
        };
        let topics = self.group.metadata().topics();
        Page::of(topics.iter().filter(|topic| topic.name.as_str() > after), |topic| {
            TopicView::new(topic, &ends)
        })
    }

    fn groups(&self, after: &str) -> Page<GroupView> {
        let metadata = self.group.metadata();
        let groups = metadata.groups();
        let view = |group: &Arc<_>| GroupView::new(group, metadata.offsets_of_group(&group.name));
        Page::of(groups.iter().filter(|group| group.name.as_str() > after), view)
    }

    fn group(&self, name: &str) -> Option<serde_json::Value> {
        self.broker.group_report(name).map(|report| json!(report))
    }

    fn delay(&self) -> DelayView {
        let (store, metadata) = (self.group.store(), self.group.metadata());
        let stored =
            |topic: &str, queue_id| store.queue(topic, queue_id).map_or(0, |queue| queue.max_offset());
        let levels = metadata.topic(SCHEDULE_TOPIC).map_or(0, |topic| topic.read_queues);
        let levels = (1..=levels).map(|level| {
            LevelView::new(level, metadata.delay_level(level), stored(SCHEDULE_TOPIC, level - 1))
        });
        DelayView::new(levels.collect(), metadata.timer_progress(), stored(TIMER_TOPIC, 0))
    }

    fn stats(&self) -> serde_json::Value {
        json!(self.broker.stats())
    }
}

/// What every handler needs.
struct Shared {
    cluster: String,
    broker_name: String,
    source: Box<dyn Source>,
}

type Api = State<Arc<Shared>>;

/// A bound address of the admin API, not served yet.
pub(crate) struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

/// The running admin API. Dropping it stops it.
pub(crate) struct Admin {
    task: JoinHandle<()>,
}

/// Takes the address, so that a port in use is found out before anything else is started.
pub(crate) async fn bind(addr: SocketAddr) -> anyhow::Result<Bound> {
    let listener =
        TcpListener::bind(addr).await.with_context(|| format!("listen on {addr} for the admin API"))?;
    let addr = listener.local_addr().context("the admin API's address")?;
    Ok(Bound { listener, addr })
}

impl Bound {
    /// The address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves a member's state.
    pub(crate) fn serve(self, cluster: String, broker_name: String, group: Group, broker: Broker) -> Admin {
        self.serve_source(Shared { cluster, broker_name, source: Box::new(Member { group, broker }) })
    }

    fn serve_source(self, shared: Shared) -> Admin {
        let router = Router::new()
            .route("/cluster", get(cluster))
            .route("/members", get(members))
            .route("/topics", get(topics))
            .route("/groups", get(groups))
            .route("/groups/{name}", get(one_group))
            .route("/delay", get(delay))
            .route("/stats", get(stats))
            .route("/health", get(health))
            .route("/health/ready", get(ready))
            .with_state(Arc::new(shared));
        let listener = BoundedListener::new(self.listener);
        let task = tokio::spawn(async move {
            // Never returns: accepting goes on after errors.
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin API ended");
            }
        });
        Admin { task }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a page begins.
#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: String,
}

async fn cluster(State(shared): Api) -> Json<ClusterView> {
    Json(ClusterView::new(&shared.cluster, &shared.broker_name, shared.source.status()))
}

async fn members(State(shared): Api) -> Json<Vec<MemberView>> {
    Json(shared.source.status().members.into_iter().map(MemberView::from).collect())
}

async fn topics(State(shared): Api, Query(page): Query<After>) -> Json<Page<TopicView>> {
    Json(shared.source.topics(&page.after))
}

async fn groups(State(shared): Api, Query(page): Query<After>) -> Json<Page<GroupView>> {
    Json(shared.source.groups(&page.after))
}

async fn one_group(State(shared): Api, Path(name): Path<String>) -> Response {
    // It may look at tens of thousands of queues: not on the network thread.
    let asked = name.clone();
    let group = tokio::task::spawn_blocking(move || shared.source.group(&asked)).await;
    match group {
        Ok(Some(group)) => Json(group).into_response(),
        Err(error) => {
            let body = Json(json!({ "status": "failed", "reason": error.to_string() }));
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
        Ok(None) => {
            let body = Json(json!({ "status": "not found", "reason": format!("no group {name:?}") }));
            (StatusCode::NOT_FOUND, body).into_response()
        }
    }
}

async fn delay(State(shared): Api) -> Json<DelayView> {
    Json(shared.source.delay())
}

async fn stats(State(shared): Api) -> Json<serde_json::Value> {
    Json(shared.source.stats())
}

async fn health(State(shared): Api) -> Response {
    answer(shared.source.status().stopped, "stopped")
}

async fn ready(State(shared): Api) -> Response {
    answer(view::not_ready(&shared.source.status()), "not ready")
}

/// 200, or 503 with what is wrong.
fn answer(reason: Option<String>, what: &str) -> Response {
    match reason {
        None => Json(json!({ "status": "ok" })).into_response(),
        Some(reason) => {
            let body = Json(json!({ "status": what, "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
