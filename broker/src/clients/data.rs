//! What clients say of themselves in heartbeats.

use std::net::SocketAddr;
use std::sync::Arc;

use raftmq_message::topic::validate_topic;

use crate::error::Error;
use crate::filter::{EVERYTHING, Filter, FilterError, is_tag_type};
use crate::limits::{EXPRESSION_BYTES_MAX, SUBSCRIPTION_BYTES_PER_GROUP_MAX, SUBSCRIPTIONS_PER_GROUP_MAX};
use crate::names::check_group_name;

/// A client's connection, as far as it matters here.
pub trait Connection: Send + Sync + 'static {
    /// Tells it apart from every other connection of the process: the newer, the greater.
    fn id(&self) -> u64;
    /// The client's address.
    fn address(&self) -> SocketAddr;
    /// Whether it has ended: nobody can be reached over it any more.
    fn is_closed(&self) -> bool;
}

/// Who sends a heartbeat.
#[derive(Debug)]
pub struct Client<C> {
    /// The name that it goes by.
    pub id: Arc<str>,
    /// Where it is reached.
    pub connection: Arc<C>,
    /// The language that it is written in.
    pub language: &'static str,
    /// The number of its version.
    pub version: i32,
}

impl<C> Clone for Client<C> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), connection: self.connection.clone(), ..*self }
    }
}

/// Where a group without offsets starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeFromWhere {
    /// At the queue's end.
    #[default]
    LastOffset,
    /// At its start.
    FirstOffset,
    /// At a time.
    Timestamp,
    /// Obsolete.
    MinOffset,
    /// Obsolete.
    MaxOffset,
    /// Obsolete.
    LastOffsetAndFromMinWhenBootFirst,
}

impl ConsumeFromWhere {
    /// RocketMQ's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastOffset => "CONSUME_FROM_LAST_OFFSET",
            Self::FirstOffset => "CONSUME_FROM_FIRST_OFFSET",
            Self::Timestamp => "CONSUME_FROM_TIMESTAMP",
            Self::MinOffset => "CONSUME_FROM_MIN_OFFSET",
            Self::MaxOffset => "CONSUME_FROM_MAX_OFFSET",
            Self::LastOffsetAndFromMinWhenBootFirst => {
                "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST"
            }
        }
    }
}

/// How a consumer gets its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeType {
    /// They are pushed to its listener.
    #[default]
    Passively,
    /// It asks for them.
    Actively,
    /// It pops them.
    Pop,
}

impl ConsumeType {
    /// RocketMQ's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passively => "CONSUME_PASSIVELY",
            Self::Actively => "CONSUME_ACTIVELY",
            Self::Pop => "CONSUME_POP",
        }
    }
}

/// Whether a group shares messages or each member gets all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageModel {
    /// It shares them.
    #[default]
    Clustering,
    /// Each gets all.
    Broadcasting,
}

impl MessageModel {
    /// RocketMQ's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clustering => "CLUSTERING",
            Self::Broadcasting => "BROADCASTING",
        }
    }
}

/// How a group consumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumption {
    /// Where it starts.
    pub from_where: ConsumeFromWhere,
    /// How it gets its messages.
    pub kind: ConsumeType,
    /// Whether its members share them.
    pub model: MessageModel,
}

/// What a consumer wants of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// What it wants, such as `A || B`, or an expression over properties.
    pub expression: String,
    /// `TAG` or `SQL92`.
    pub expression_type: String,
    /// The tags that the client has read in the expression.
    pub tags: Vec<String>,
    /// Their Java hashes.
    pub codes: Vec<i32>,
    /// Whether it was filtered by a class on a filter server, which are no more.
    pub is_class_filter: bool,
    /// Grows with each change.
    pub version: i64,
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            topic: String::new(),
            expression: String::new(),
            expression_type: "TAG".to_owned(),
            tags: Vec::new(),
            codes: Vec::new(),
            is_class_filter: false,
            version: 0,
        }
    }
}

/// A consumer group as a member's heartbeat describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerData {
    /// The group.
    pub group: String,
    /// How it consumes.
    pub consumption: Consumption,
    /// What it subscribes to.
    pub subscriptions: Vec<Subscription>,
}

impl ConsumerData {
    /// Checks names and bounds.
    ///
    /// # Errors
    /// A name is none, or there is more than a group may have.
    pub fn check(&self) -> Result<(), Error> {
        check_group_name(&self.group)?;
        let count = self.subscriptions.len();
        if count > SUBSCRIPTIONS_PER_GROUP_MAX {
            return Err(Error::TooManySubscriptions(count));
        }
        for Subscription { topic, expression, .. } in &self.subscriptions {
            validate_topic(topic)?;
            if expression.len() > EXPRESSION_BYTES_MAX {
                return Err(Error::ExpressionTooLong(topic.clone()));
            }
        }
        let bytes = self.subscriptions.iter().map(Subscription::bytes).sum();
        if bytes > SUBSCRIPTION_BYTES_PER_GROUP_MAX {
            return Err(Error::SubscriptionsTooLong(bytes));
        }
        Ok(())
    }
}

impl Subscription {
    /// Which messages it wants. Clients read a tag expression themselves and send what they found.
    ///
    /// # Errors
    /// Its expression cannot be used.
    pub fn filter(&self) -> Result<Filter, FilterError> {
        if self.is_class_filter {
            return Ok(Filter::All);
        }
        let is_read = is_tag_type(Some(&self.expression_type))
            && self.expression != EVERYTHING
            && !(self.tags.is_empty() && self.codes.is_empty());
        if !is_read {
            return Filter::parse(&self.expression, Some(&self.expression_type));
        }
        if self.tags.is_empty() {
            return Ok(Filter::codes(self.codes.iter().map(|code| i64::from(*code))));
        }
        Ok(Filter::tags(self.tags.iter().map(String::as_str)))
    }

    /// What it holds in text and numbers.
    fn bytes(&self) -> usize {
        let tags = self.tags.iter().map(|tag| size_of::<String>() + tag.len()).sum::<usize>();
        let texts = self.topic.len() + self.expression.len() + self.expression_type.len();
        texts + tags + size_of_val(self.codes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Glance;

    #[test]
    fn what_is_more_than_a_group_may_have_is_refused() {
        let one = || Subscription { topic: "t".into(), ..Subscription::default() };
        let good = ConsumerData { group: "g".into(), subscriptions: vec![one()], ..ConsumerData::default() };
        assert_eq!(good.check(), Ok(()));
        let with = |subscription: Subscription| {
            ConsumerData { subscriptions: vec![subscription], ..good.clone() }.check()
        };
        assert!(matches!(ConsumerData { group: "a b".into(), ..good.clone() }.check(), Err(Error::Name(_))));
        let many = ConsumerData { subscriptions: vec![one(); 1025], ..good.clone() };
        assert_eq!(many.check(), Err(Error::TooManySubscriptions(1025)));
        assert!(matches!(with(Subscription { topic: "a b".into(), ..one() }), Err(Error::Name(_))));
        let long = "x".repeat(EXPRESSION_BYTES_MAX + 1);
        let long = with(Subscription { expression: long, ..one() });
        assert_eq!(long, Err(Error::ExpressionTooLong("t".into())));
        for heavy in [
            Subscription { codes: vec![7; 16 * 1024], ..one() },
            Subscription { tags: vec![String::new(); 4096], ..one() },
        ] {
            assert!(matches!(with(heavy), Err(Error::SubscriptionsTooLong(_))));
        }
    }

    #[test]
    fn a_subscription_is_taken_as_its_client_has_read_it() {
        let read = |sub_string: &str, tags: &[&str], codes: &[i32]| {
            let data = Subscription {
                expression: sub_string.into(),
                tags: tags.iter().map(ToString::to_string).collect(),
                codes: codes.to_vec(),
                ..Subscription::default()
            };
            (data.filter().unwrap(), data)
        };
        assert_eq!(read("B||A", &["A", "B"], &[65, 66]).0, Filter::parse("A||B", None).unwrap());
        assert_eq!(read("B||A", &[], &[]).0, Filter::parse("A||B", None).unwrap());
        assert_eq!(read("*", &[], &[]).0, Filter::All);
        let (codes, data) = read("A", &[], &[65]);
        assert_eq!((codes.glance(65), codes.glance(66)), (Glance::Wanted, Glance::Unwanted));
        let sql = Subscription { expression_type: "SQL92".into(), expression: "a >".into(), ..data.clone() };
        assert!(matches!(sql.filter(), Err(FilterError::Sql(_))));
        let class = Subscription { is_class_filter: true, ..data };
        assert_eq!(class.filter(), Ok(Filter::All), "classes filtered on servers that are no more");
    }
}
