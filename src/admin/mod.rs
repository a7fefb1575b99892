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
//! | `/` | these paths |
//! | `/cluster` | the group as this member sees it |
//! | `/members` | its members alone |
//! | `/topics?after=NAME` | topics with the offsets of their queues, a page at a time; with `system=true` the system's own |
//! | `/groups?after=NAME` | subscription groups with their offsets, likewise |
//! | `/groups/NAME` | one of them: members, subscriptions, lag, locks, resets |
//! | `/delay` | how far delayed messages are delivered |
//! | `/stats` | counters of the broker |
//! | `/health` | 200 while the member runs, else 503 and why |
//! | `/health/ready` | 200 while it serves, else 503 and why |
//!
//! Lists are under `items`. What goes wrong is said as `status` and `reason`, with a status code that fits.
//!
//! Nothing here waits for the group: every answer is made from what this member knows now, during an election too.

pub(crate) mod client;
mod listener;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use raftmq_message::topic::{SCHEDULE_TOPIC, TIMER_TOPIC};
use raftmq_raft::{Group, GroupStatus};
use raftmq_world::{Listener, Threads, World};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;

use listener::BoundedListener;
use raftmq_front::Front;
use view::{ClusterView, DelayView, GroupView, LevelView, MemberView, Page, TopicView};

/// Where the answers come from.
trait Source: Send + Sync + 'static {
    fn status(&self) -> GroupStatus;
    /// Topics behind `after` in the order of their names: the system's, or the others.
    fn topics(&self, after: &str, system: bool) -> Page<TopicView>;
    fn groups(&self, after: &str) -> Page<GroupView>;
    /// A group in full, `None` where there is none of that name.
    fn group(&self, name: &str) -> Option<serde_json::Value>;
    fn delay(&self) -> DelayView;
    fn stats(&self) -> serde_json::Value;
}

/// A member and its broker.
struct Member {
    group: Group,
    front: Front,
}

impl Source for Member {
    fn status(&self) -> GroupStatus {
        self.group.status()
    }

    fn topics(&self, after: &str, system: bool) -> Page<TopicView> {
        let store = self.group.store();
        let ends = |topic: &str, queue_id| {
            store.queue(topic, queue_id).map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()))
        };
        let topics = self.front.state().topics.all();
        let listed = topics.iter().filter(|topic| topic.name.as_str() > after);
        let listed = listed.filter(|topic| self.front.is_system_topic(&topic.name) == system);
        Page::of(listed, |topic| TopicView::new(topic, &ends))
    }

    fn groups(&self, after: &str) -> Page<GroupView> {
        let state = self.front.state();
        let groups = state.groups.all();
        let view = |group: &Arc<_>| GroupView::new(group, state.offsets.of_group(&group.name));
        Page::of(groups.iter().filter(|group| group.name.as_str() > after), view)
    }

    fn group(&self, name: &str) -> Option<serde_json::Value> {
        self.front.group_report(name).map(|report| json!(report))
    }

    fn delay(&self) -> DelayView {
        let (store, state) = (self.group.store(), self.front.state());
        let stored =
            |topic: &str, queue_id| store.queue(topic, queue_id).map_or(0, |queue| queue.max_offset());
        let levels = state.topics.get(SCHEDULE_TOPIC).map_or(0, |topic| topic.read_queues);
        let levels = (1..=levels)
            .map(|level| LevelView::new(level, state.delay.level(level), stored(SCHEDULE_TOPIC, level - 1)));
        DelayView::new(levels.collect(), state.delay.timers(), stored(TIMER_TOPIC, 0))
    }

    fn stats(&self) -> serde_json::Value {
        json!(self.front.stats())
    }
}

/// What every handler needs.
struct Shared {
    cluster: String,
    broker_name: String,
    source: Box<dyn Source>,
    threads: Arc<dyn Threads>,
}

type Api = State<Arc<Shared>>;

/// A bound address of the admin API, not served yet.
pub(crate) struct Bound {
    listener: Listener,
    addr: SocketAddr,
    world: World,
}

/// The running admin API. Dropping it stops it.
pub(crate) struct Admin {
    task: JoinHandle<()>,
}

/// Takes the address, so that a port in use is found out before anything else is started.
pub(crate) fn bind(addr: SocketAddr, world: World) -> anyhow::Result<Bound> {
    let listener =
        world.network.listen(addr).with_context(|| format!("listen on {addr} for the admin API"))?;
    let addr = listener.local_addr().context("the admin API's address")?;
    Ok(Bound { listener, addr, world })
}

impl Bound {
    /// The address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves a member's state.
    pub(crate) fn serve(self, cluster: String, broker_name: String, group: Group, front: Front) -> Admin {
        let (source, threads) = (Box::new(Member { group, front }), self.world.threads.clone());
        self.serve_source(Shared { cluster, broker_name, source, threads })
    }

    fn serve_source(self, shared: Shared) -> Admin {
        let router = Router::new()
            .route("/", get(paths))
            .route("/cluster", get(cluster))
            .route("/members", get(members))
            .route("/topics", get(topics))
            .route("/groups", get(groups))
            .route("/groups/{name}", get(one_group))
            .route("/delay", get(delay))
            .route("/stats", get(stats))
            .route("/health", get(health))
            .route("/health/ready", get(ready))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
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

/// What is to be listed of the topics, and where a page begins. A parameter that is none is refused, not passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicPage {
    #[serde(default)]
    after: String,
    #[serde(default)]
    system: bool,
}

/// Where a page of groups begins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupPage {
    #[serde(default)]
    after: String,
}

/// The paths, with what they say.
const PATHS: [(&str, &str); 10] = [
    ("/cluster", "this node's role, the leader, the term, positions in the log, every member"),
    ("/members", "the members alone"),
    (
        "/topics",
        "topics with their queues and offsets; ?system=true the system's own; ?after=NAME the next page",
    ),
    ("/groups", "subscription groups with their committed offsets; ?after=NAME the next page"),
    (
        "/groups/NAME",
        "one group: members, subscriptions, lag, locks, pending resets, retries and dead letters",
    ),
    ("/delay", "how far delayed messages are delivered"),
    ("/stats", "counters since the start and rates a second"),
    ("/health", "200 while the node runs, else 503 and why"),
    ("/health/ready", "200 while it serves, else 503 and why"),
    ("/", "this list"),
];

async fn paths() -> Json<Page<serde_json::Value>> {
    Json(Page::all(PATHS.iter().map(|(path, says)| json!({ "path": path, "says": says })).collect()))
}

async fn unknown_path(uri: Uri) -> Response {
    let reason = format!("there is nothing at {}; / lists what there is", uri.path());
    failed(StatusCode::NOT_FOUND, "not found", reason)
}

async fn unknown_method(method: Method, uri: Uri) -> Response {
    let reason = format!("{} can only be read: GET, not {method}", uri.path());
    failed(StatusCode::METHOD_NOT_ALLOWED, "not allowed", reason)
}

/// What went wrong, in the one form that it has.
fn failed(code: StatusCode, status: &str, reason: String) -> Response {
    (code, Json(json!({ "status": status, "reason": reason }))).into_response()
}

fn bad_request(reason: String) -> Response {
    failed(StatusCode::BAD_REQUEST, "bad request", reason)
}

async fn cluster(State(shared): Api) -> Json<ClusterView> {
    Json(ClusterView::new(&shared.cluster, &shared.broker_name, shared.source.status()))
}

async fn members(State(shared): Api) -> Json<Page<MemberView>> {
    Json(Page::all(shared.source.status().members.into_iter().map(MemberView::from).collect()))
}

async fn topics(State(shared): Api, page: Result<Query<TopicPage>, QueryRejection>) -> Response {
    match page {
        Ok(Query(page)) => Json(shared.source.topics(&page.after, page.system)).into_response(),
        Err(error) => bad_request(error.body_text()),
    }
}

async fn groups(State(shared): Api, page: Result<Query<GroupPage>, QueryRejection>) -> Response {
    match page {
        Ok(Query(page)) => Json(shared.source.groups(&page.after)).into_response(),
        Err(error) => bad_request(error.body_text()),
    }
}

async fn one_group(State(shared): Api, name: Result<Path<String>, PathRejection>) -> Response {
    let name = match name {
        Ok(Path(name)) => name,
        Err(error) => return bad_request(error.body_text()),
    };
    // It may look at tens of thousands of queues: not on the network thread.
    let asked = name.clone();
    let threads = shared.threads.clone();
    let group = threads.run(move || shared.source.group(&asked)).await;
    match group {
        Some(Some(group)) => Json(group).into_response(),
        None => failed(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the report failed".to_owned()),
        Some(None) => failed(StatusCode::NOT_FOUND, "not found", format!("no group {name:?}")),
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
        Some(reason) => failed(StatusCode::SERVICE_UNAVAILABLE, what, reason),
    }
}

#[cfg(test)]
mod tests;
