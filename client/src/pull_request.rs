//! One pull of one queue, from the leader or from the member that the leader has suggested.

use std::borrow::Cow;
use std::time::Duration;

use raftmq_remoting::Command;
use raftmq_remoting::body::{MessageQueue, SubscriptionData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{PullHeader, PullResponse, pull_flag};

use crate::client::{Client, refused};
use crate::consumer::PullStatus;
use crate::error::ClientError;
use crate::message::MessageExt;
use crate::subscription::TAG;

/// The broker id that leads.
pub(crate) const LEADER: i64 = 0;
/// How long an answer may take beyond the time for which a broker may hold the pull.
const GRACE: Duration = Duration::from_secs(2);
/// How often a name server is asked, while a pull is held, whether another member leads: a broker that hangs keeps its
/// connections. All pulls of a topic share the question.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to pull.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PullRequest<'a> {
    pub(crate) group: &'a str,
    pub(crate) queue: &'a MessageQueue,
    pub(crate) offset: i64,
    pub(crate) max_messages: usize,
    /// The group's offset, for the broker to keep. Only a leader gets it.
    pub(crate) commit_offset: Option<i64>,
    pub(crate) subscription: &'a SubscriptionData,
    /// Whether the subscription goes with the pull.
    pub(crate) post_subscription: bool,
    /// How long the broker may hold the pull.
    pub(crate) suspend: Duration,
    /// Broker id of the member to pull from, if the route has it.
    pub(crate) from: i64,
}

/// What a pull came to.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) status: PullStatus,
    pub(crate) next_offset: i64,
    /// Broker id to pull from next.
    pub(crate) suggested: i64,
    pub(crate) messages: Vec<MessageExt>,
}

/// A pull that failed, and the lookup its route came from: see [`crate::RouteTable::refresh`].
#[derive(Debug)]
pub(crate) struct PullFailure {
    pub(crate) error: ClientError,
    pub(crate) lookup: u64,
}

impl Client {
    /// Pulls once.
    pub(crate) async fn pull_once(&self, pull: PullRequest<'_>) -> Result<Pulled, PullFailure> {
        let queue = pull.queue;
        let routed = self.routes().get(&queue.topic).await;
        let routed = routed.map_err(|error| PullFailure { error, lookup: 0 })?;
        let failed = |error| PullFailure { error, lookup: routed.lookup };
        let members = routed.route.brokers.get(&queue.broker_name);
        let chosen =
            members.and_then(|members| members.get_key_value(&pull.from).or(members.get_key_value(&LEADER)));
        let Some((&id, addr)) = chosen else {
            let what = format!("leader for broker {}", queue.broker_name);
            return Err(failed(ClientError::Unroutable { topic: queue.topic.clone(), what }));
        };
        let request = Command::request(request::PULL_MESSAGE, pull.header(id == LEADER).to_ext());
        let called = self.call(addr, request, pull.suspend.saturating_add(GRACE));
        let moved = async {
            if id != LEADER {
                return std::future::pending().await;
            }
            self.leader_moved(&queue.topic, &queue.broker_name, addr, routed.lookup, false, LOOK_EVERY).await
        };
        let answer = tokio::select! {
            answer = called => answer.map_err(failed)?,
            moved = moved => return Err(failed(moved)),
        };
        read_answer(addr, &queue.broker_name, answer).map_err(failed)
    }
}

impl PullRequest<'_> {
    fn header(&self, to_leader: bool) -> PullHeader<'_> {
        let commit_offset = self.commit_offset.filter(|_| to_leader);
        let flag = |set: bool, flag: i32| if set { flag } else { 0 };
        let subscription =
            self.post_subscription.then_some(Cow::Borrowed(self.subscription.sub_string.as_str()));
        let expression_type = &self.subscription.expression_type;
        PullHeader {
            consumer_group: Cow::Borrowed(self.group),
            topic: Cow::Borrowed(&self.queue.topic),
            queue_id: self.queue.queue_id,
            queue_offset: self.offset,
            max_msg_nums: i32::try_from(self.max_messages).unwrap_or(i32::MAX),
            sys_flag: flag(commit_offset.is_some(), pull_flag::COMMIT_OFFSET)
                | flag(!self.suspend.is_zero(), pull_flag::SUSPEND)
                | flag(self.post_subscription, pull_flag::SUBSCRIPTION),
            commit_offset: commit_offset.unwrap_or(0),
            suspend_timeout_ms: i64::try_from(self.suspend.as_millis()).unwrap_or(i64::MAX),
            subscription,
            sub_version: self.subscription.sub_version,
            expression_type: Some(Cow::Borrowed(if expression_type.is_empty() {
                TAG
            } else {
                expression_type
            })),
            max_msg_bytes: None,
        }
    }
}

fn read_answer(addr: &str, broker_name: &str, answer: Command) -> Result<Pulled, ClientError> {
    let status = PullStatus::from_code(answer.code);
    let Some(status) = status else { return Err(refused(addr, answer)) };
    let fields = PullResponse::decode(&answer).map_err(|error| ClientError::header(addr, &error))?;
    let malformed = |reason| ClientError::Malformed { addr: addr.to_owned(), reason };
    if fields.next_begin_offset < 0 {
        return Err(malformed(format!("go on at offset {}", fields.next_begin_offset)));
    }
    let messages = match status {
        PullStatus::Found => {
            MessageExt::read_all(&answer.body, broker_name).map_err(|error| malformed(error.to_string()))?
        }
        _ => Vec::new(),
    };
    Ok(Pulled {
        status,
        next_offset: fields.next_begin_offset,
        suggested: fields.suggest_which_broker_id,
        messages,
    })
}

/// How long to wait after pulls that failed, one after the other.
#[derive(Debug, Default)]
pub(crate) struct PullPauses {
    pause: Duration,
}

/// The first pause after a failure that a new leader mends; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest of them.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// The pause after code 215, as the Java client has it.
const PAUSE_FLOW_CONTROL: Duration = Duration::from_millis(20);

impl PullPauses {
    /// A pull has succeeded.
    pub(crate) fn reset(&mut self) {
        self.pause = Duration::ZERO;
    }

    /// The pause after a failure; `refused` is the one after an answer that time alone seldom changes.
    pub(crate) fn after(&mut self, error: &ClientError, refused: Duration) -> Duration {
        match error {
            ClientError::Refused { code: response::FLOW_CONTROL, .. } => PAUSE_FLOW_CONTROL,
            ClientError::NoRoute { .. } => refused,
            error if error.is_retryable() && !error.is_stubborn() || is_unknown_subscription(error) => {
                self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                self.pause
            }
            _ => refused,
        }
    }
}

/// Whether the broker has not heard of the group's subscription yet, which a heartbeat changes.
pub(crate) fn is_unknown_subscription(error: &ClientError) -> bool {
    const CODES: [i32; 2] = [response::SUBSCRIPTION_NOT_EXIST, response::SUBSCRIPTION_NOT_LATEST];
    matches!(error, ClientError::Refused { code, .. } if CODES.contains(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_fit_the_failure() {
        let second = Duration::from_secs(1);
        let refused = |code| ClientError::Refused { addr: "a:1".into(), code, remark: "no".into() };
        let mut pauses = PullPauses::default();
        let mut after = |code| pauses.after(&refused(code), second).as_millis();
        assert_eq!([after(14), after(14), after(14)], [10, 20, 40]);
        assert_eq!([after(215), after(16), after(26), after(23), after(1)], [20, 1000, 1000, 1000, 1000]);
        assert_eq!([after(24), after(2), after(25), after(14), after(14)], [80, 160, 250, 250, 250]);
        pauses.reset();
        assert_eq!(pauses.after(&refused(14), second).as_millis(), 10);
    }
}
