//! One pull of one queue, from the leader or from the member that the leader has suggested.

use std::borrow::Cow;
use std::time::Duration;

use raftmq_remoting::Command;
use raftmq_remoting::body::{MessageQueue, SubscriptionData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::header::{PullHeader, PullResponse, pull_flag};

use crate::client::Client;
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
    /// Offsets of the queue's first message, and behind its last one, as the member knows them.
    bounds: (i64, i64),
    /// Broker id of the member that has answered.
    served_by: i64,
    /// Broker id that it suggests to pull from next.
    suggested: i64,
    pub(crate) messages: Vec<MessageExt>,
}

/// Where a pull leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// To the next offset.
    On,
    /// To the next offset, and what was pulled before does not count: the group's offset was set, or there is no such
    /// offset any more.
    Reset,
    /// Nowhere here; another member may know more.
    Elsewhere,
    /// Nowhere.
    Stalled,
}

impl Pulled {
    /// Where it leads from the offset that was pulled.
    pub(crate) fn progress(&self, offset: i64) -> Progress {
        let next = self.next_offset;
        match self.status {
            PullStatus::OffsetIllegal if self.served_by != LEADER => Progress::Elsewhere,
            PullStatus::OffsetIllegal if next == offset => Progress::Stalled,
            PullStatus::OffsetIllegal if next < offset || self.has(offset) => Progress::Reset,
            PullStatus::Found | PullStatus::NoMatchedMsg if next <= offset => {
                if self.pull_from() == self.served_by { Progress::Stalled } else { Progress::Elsewhere }
            }
            _ => Progress::On,
        }
    }

    /// Broker id to pull from next. What a follower does not have is for the leader to judge.
    pub(crate) fn pull_from(&self) -> i64 {
        if self.status == PullStatus::OffsetIllegal { LEADER } else { self.suggested }
    }

    /// Whether an offset could have been pulled.
    fn has(&self, offset: i64) -> bool {
        (self.bounds.0..=self.bounds.1).contains(&offset)
    }
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
        read_answer(addr, id, &queue.broker_name, answer).map_err(failed)
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

pub(crate) fn read_answer(
    addr: &str,
    id: i64,
    broker_name: &str,
    answer: Command,
) -> Result<Pulled, ClientError> {
    let status = PullStatus::from_code(answer.code);
    let Some(status) = status else { return Err(ClientError::refused(addr, answer)) };
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
        bounds: (fields.min_offset, fields.max_offset),
        served_by: id,
        suggested: fields.suggest_which_broker_id,
        messages,
    })
}

/// How long to wait after pulls that failed or led nowhere, one after the other.
#[derive(Debug, Default)]
pub(crate) struct PullPauses {
    pause: Duration,
    /// Another member was asked without a pause.
    turned: bool,
}

/// The first pause after a failure that a new leader mends, or a pull that leads nowhere; each further one is twice as
/// long.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest of them.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// The pause after code 215, as the Java client has it.
const PAUSE_FLOW_CONTROL: Duration = Duration::from_millis(20);

impl PullPauses {
    /// A pull has led on.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The pause after a pull that led nowhere: none where another member is asked, unless that was done just before.
    pub(crate) fn after_nothing(&mut self, elsewhere: bool) -> Duration {
        if elsewhere && !std::mem::replace(&mut self.turned, true) { Duration::ZERO } else { self.longer() }
    }

    fn longer(&mut self) -> Duration {
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.pause
    }

    /// The pause after a failure; `refused` is the one after an answer that time alone seldom changes.
    pub(crate) fn after(&mut self, error: &ClientError, refused: Duration) -> Duration {
        match error {
            ClientError::Refused { code: response::FLOW_CONTROL, .. } => PAUSE_FLOW_CONTROL,
            ClientError::NoRoute { .. } => refused,
            error if error.is_retryable() && !error.is_stubborn() || is_unknown_subscription(error) => {
                self.longer()
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

    #[test]
    fn members_that_send_a_pull_to_and_fro_are_not_asked_without_a_pause() {
        let mut pauses = PullPauses::default();
        let mut after = |elsewhere| pauses.after_nothing(elsewhere).as_millis();
        assert_eq!([after(true), after(true), after(false), after(true)], [0, 10, 20, 40]);
        pauses.reset();
        assert_eq!(pauses.after_nothing(true).as_millis(), 0);
    }

    #[test]
    fn where_a_pull_leads_depends_on_who_says_so() {
        use PullStatus::{Found, NoMatchedMsg, NoNewMsg, OffsetIllegal};
        let pulled = |status, served_by, suggested, next_offset| Pulled {
            status,
            next_offset,
            bounds: (10, 20),
            served_by,
            suggested,
            messages: Vec::new(),
        };
        for (status, served_by, suggested, offset, next, progress) in [
            (Found, 0, 0, 12, 14, Progress::On),
            (NoNewMsg, 0, 0, 20, 20, Progress::On),
            (NoMatchedMsg, 0, 0, 12, 12, Progress::Stalled),
            (NoMatchedMsg, 2, 2, 12, 12, Progress::Stalled),
            (NoMatchedMsg, 0, 2, 12, 12, Progress::Elsewhere),
            (NoMatchedMsg, 2, 0, 12, 12, Progress::Elsewhere),
            // Removed since; nothing that was pulled is touched by that.
            (OffsetIllegal, 0, 0, 5, 10, Progress::On),
            // Beyond the end.
            (OffsetIllegal, 0, 0, 25, 20, Progress::Reset),
            // Set by somebody.
            (OffsetIllegal, 0, 0, 15, 11, Progress::Reset),
            (OffsetIllegal, 0, 0, 15, 18, Progress::Reset),
            (OffsetIllegal, 0, 0, 15, 15, Progress::Stalled),
            // A follower that is behind, whatever it suggests.
            (OffsetIllegal, 2, 2, 25, 20, Progress::Elsewhere),
            (OffsetIllegal, 2, 2, 5, 10, Progress::Elsewhere),
        ] {
            let pulled = pulled(status, served_by, suggested, next);
            assert_eq!(pulled.progress(offset), progress, "{pulled:?} from {offset}");
        }
        assert_eq!(pulled(OffsetIllegal, 2, 2, 20).pull_from(), LEADER);
        assert_eq!(pulled(NoNewMsg, 0, 2, 20).pull_from(), 2);
    }
}
