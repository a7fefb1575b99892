//! A pull: what it asks for, what it may see, its answer.
//!
//! What a pull may see is looked up when it comes and again whenever a held one is looked at, as all of it may have changed
//! in between: the topic, its queues and permission, the group's settings, its subscription, who leads.

use std::sync::Arc;
use std::time::Duration;

use raftmq_message::topic::is_system_group;
use raftmq_store::{LogSlice, Store};

use super::scan::{Found, Outcome, PullStatus};
use crate::clients::{Clients, Connection, Wants};
use crate::error::Error;
use crate::filter::{Filter, FilterError};
use crate::filter_cache::FilterCache;
use crate::limits::{PULL_BYTES_MAX, PULL_MESSAGES_MAX};
use crate::perm;
use crate::replica::{Reader, Replica};
use crate::state::{SubscriptionGroup, Topic};

/// What consumer groups want, as their members have said.
pub trait Subscriptions: Send + Sync {
    /// What a group wants of a topic; `None` where it has no members.
    fn wants(&self, group: &str, topic: &str) -> Option<Wants>;
}

impl<C: Connection> Subscriptions for Clients<C> {
    fn wants(&self, group: &str, topic: &str) -> Option<Wants> {
        self.wants(group, topic)
    }
}

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub struct Pull<'a> {
    /// Over which connection.
    pub connection: u64,
    /// Its group, see [`Pulls::group`](super::Pulls::group).
    pub group: Arc<SubscriptionGroup>,
    /// The topic.
    pub topic: &'a str,
    /// The queue.
    pub queue_id: i32,
    /// The first offset that it wants. Below 0 only if the client says so.
    pub offset: i64,
    /// Messages at most.
    pub max_messages: i32,
    /// Bytes of records at most, but for the first.
    pub max_bytes: Option<i32>,
    /// Which messages it wants.
    pub wanted: Wanted<'a>,
    /// The offset that it commits with it.
    pub commit_offset: Option<i64>,
    /// How long it may be held where there is nothing for it.
    pub hold: Duration,
}

/// Which messages a pull wants.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// What its group subscribes to, in this version at least.
    Subscribed {
        /// The version that the client knows of.
        version: i64,
    },
    /// What the pull says itself.
    Brought {
        /// The expression.
        expression: &'a str,
        /// `TAG` or `SQL92`.
        expression_type: Option<&'a str>,
    },
}

/// The answer to a pull.
#[derive(Debug)]
pub struct Pulled {
    /// What the client does next.
    pub outcome: Outcome,
    /// Why.
    pub status: PullStatus,
    /// The offset that was looked at first.
    pub asked: i64,
    /// Where the next pull goes on.
    pub next_offset: i64,
    /// The queue's first offset.
    pub min_offset: i64,
    /// The queue's end.
    pub max_offset: i64,
    /// The broker id that the group should pull from.
    pub suggested_reader: u64,
    /// System bits of the topic.
    pub topic_sys_flag: u32,
    /// System bits of the group.
    pub group_sys_flag: i32,
    /// How many messages.
    pub messages: u64,
    /// Their records, in order: slices of the log.
    pub records: Vec<LogSlice>,
}

/// A pull that was found to be allowed.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    pub(super) group: Arc<SubscriptionGroup>,
    pub(super) topic: Arc<Topic>,
    pub(super) queue_id: u32,
    pub(super) offset: i64,
    pub(super) max_messages: usize,
    pub(super) max_bytes: usize,
    pub(super) filter: Filter,
    /// The version of its subscription that the client knows of; `None` where the pull has brought its filter along.
    pub(super) version: Option<i64>,
}

/// What it takes to find out what a pull may see.
pub(super) struct Admission {
    pub(super) replica: Arc<Replica>,
    pub(super) subscriptions: Arc<dyn Subscriptions>,
    pub(super) filters: FilterCache,
    /// Whether a consumer may make its group.
    pub(super) makes_groups: bool,
}

impl Admission {
    /// The group's settings; tools' groups need no creation.
    pub(super) fn group(&self, name: &str) -> Option<Arc<SubscriptionGroup>> {
        let made_up = || is_system_group(name).then(|| Arc::new(SubscriptionGroup::new(name)));
        self.replica.state().groups.get(name).or_else(made_up)
    }

    /// The settings of a group whose pull is held. If it is gone and may be made, those that the client's next pull makes it
    /// with.
    pub(super) fn held_group(&self, name: &str) -> Result<Arc<SubscriptionGroup>, Error> {
        let made_anew = || self.makes_groups.then(|| Arc::new(SubscriptionGroup::new(name)));
        self.group(name).or_else(made_anew).ok_or_else(|| Error::NoGroup(name.to_owned()))
    }

    /// What a pull asks for, if that is allowed.
    pub(super) fn admit(&self, pull: &Pull<'_>) -> Result<Allowed, Error> {
        let group = pull.group.clone();
        let (topic, queue_id, filter) =
            self.check(&group, pull.topic, pull.queue_id, || match pull.wanted {
                Wanted::Subscribed { version } => self.subscribed(&group, pull.topic, version),
                Wanted::Brought { expression, expression_type } => {
                    Ok(self.filters.parse(expression, expression_type)?)
                }
            })?;
        let max_bytes =
            pull.max_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        Ok(Allowed {
            group,
            topic,
            queue_id,
            offset: pull.offset,
            max_messages: usize::try_from(pull.max_messages).unwrap_or(0).clamp(1, PULL_MESSAGES_MAX),
            max_bytes: max_bytes.map_or(PULL_BYTES_MAX, |bytes| bytes.min(PULL_BYTES_MAX)),
            filter,
            version: match pull.wanted {
                Wanted::Subscribed { version } => Some(version),
                Wanted::Brought { .. } => None,
            },
        })
    }

    /// Looks up anew what a pull that was held depends on. Returns as what it is served.
    pub(super) fn renew(&self, allowed: &mut Allowed) -> Result<Reader, Error> {
        let group = self.held_group(&allowed.group.name)?;
        let reader = self.replica.reader(&group)?;
        // Queue ids stay within 31 bits.
        let (name, queue_id) = (&allowed.topic.name, allowed.queue_id as i32);
        let (topic, _, filter) = self.check(&group, name, queue_id, || match allowed.version {
            Some(version) => self.subscribed(&group, name, version),
            None => Ok(allowed.filter.clone()),
        })?;
        (allowed.group, allowed.topic, allowed.filter) = (group, topic, filter);
        Ok(reader)
    }

    /// Checks what a pull asks for, in RocketMQ's order.
    fn check(
        &self,
        group: &SubscriptionGroup,
        name: &str,
        queue_id: i32,
        filter: impl FnOnce() -> Result<Filter, Error>,
    ) -> Result<(Arc<Topic>, u32, Filter), Error> {
        if !group.consume_enable {
            return Err(Error::GroupMayNotConsume(group.name.clone()));
        }
        let topic = self.replica.state().topics.existing(name)?;
        if topic.perm & perm::READ == 0 {
            return Err(Error::TopicNotReadable(name.to_owned()));
        }
        let queues = topic.read_queues;
        let queue = u32::try_from(queue_id).ok().filter(|id| *id < queues);
        let none = || Error::NoReadQueue { topic: name.to_owned(), queue_id, queues };
        Ok((topic, queue.ok_or_else(none)?, filter()?))
    }

    /// The filter that its group's heartbeats have brought, if that is as new as what the client knows of.
    fn subscribed(&self, group: &SubscriptionGroup, topic: &str, version: i64) -> Result<Filter, Error> {
        let known = self.subscriptions.wants(&group.name, topic).ok_or(Error::NoMembers)?;
        if known.broadcasting && !group.consume_broadcast_enable {
            return Err(Error::BroadcastForbidden(group.name.clone()));
        }
        let (latest, filter) = known.topic.ok_or(Error::NoSubscription)?;
        if latest < version {
            return Err(Error::SubscriptionNotLatest);
        }
        filter.map_err(FilterError::into)
    }

    /// What was found, as an answer.
    pub(super) fn answer(&self, allowed: &Allowed, found: &Found, reader: Reader) -> Pulled {
        let mut pulled = Pulled {
            outcome: found.outcome(allowed.offset),
            status: found.status,
            asked: allowed.offset,
            next_offset: found.next_offset,
            min_offset: found.min_offset,
            max_offset: found.max_offset,
            suggested_reader: self.replica.preferred_reader(&allowed.group),
            topic_sys_flag: allowed.topic.sys_flag,
            group_sys_flag: allowed.group.group_sys_flag,
            messages: found.messages,
            records: Vec::new(),
        };
        if reader == Reader::Follower && pulled.outcome == Outcome::Moved {
            // It may only lag: the leader knows the queue's ends.
            pulled.outcome = Outcome::AskAgain;
            (pulled.next_offset, pulled.suggested_reader) = (allowed.offset, 0);
        } else if found.status == PullStatus::Found {
            match records(self.replica.store(), found) {
                Some(records) => pulled.records = records,
                None => {
                    // Between the lookup and here retention has taken the records, or they were found to be broken.
                    (pulled.outcome, pulled.status) = (Outcome::AskAgain, PullStatus::MessageWasRemoving);
                    pulled.next_offset = allowed.offset;
                }
            }
        }
        pulled
    }
}

/// The found records as slices of the log; `None` if some cannot be read any more.
fn records(store: &Store, found: &Found) -> Option<Vec<LogSlice>> {
    found.runs.iter().map(|(offset, len)| store.record(*offset, *len).ok()?).collect()
}
