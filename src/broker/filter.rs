//! Which messages of a queue a consumer wants: by the tags codes that ConsumeQueue units carry where it asks for tags,
//! then exactly by what stands in the record.

use std::sync::Arc;

use raftmq_filter::{Expression, SqlError};
use raftmq_message::RecordView;
use raftmq_message::hash::tags_code;
use raftmq_message::properties::names::TAGS;
use raftmq_remoting::body::SubscriptionData;

use super::limits::EXPRESSION_BYTES_MAX;

/// Work of reading a record, besides its properties.
const RECORD_WORK: usize = 64;
/// The expression that wants everything.
const EVERYTHING: &str = "*";

/// A filter, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Everything.
    All,
    Tags(Arc<Tags>),
    Sql(Arc<Sql>),
}

/// Tags that are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tags {
    /// Their codes, sorted. Different tags may have the same.
    codes: Box<[i64]>,
    /// The tags, sorted; none where only the codes are known.
    tags: Box<[Box<str>]>,
}

/// An expression over properties.
#[derive(Debug)]
pub(crate) struct Sql {
    text: Box<str>,
    compiled: Expression,
}

impl PartialEq for Sql {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Sql {}

/// What a unit's tags code says about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glance {
    Wanted,
    Unwanted,
    /// The record decides.
    Unsure,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("expression of {0} bytes is longer than {EXPRESSION_BYTES_MAX}")]
    TooLong(usize),
    #[error("unknown expression type {0}")]
    UnknownType(String),
    #[error("the expression {0:?} names no tag")]
    NoTag(String),
}

/// Whether a type of expressions is that of tags. It is the default.
pub(crate) fn is_tag_type(expression_type: Option<&str>) -> bool {
    matches!(expression_type, None | Some("" | "TAG"))
}

impl Filter {
    /// Reads an expression. Of tags: `A || B`; nothing and `*` want everything.
    pub(crate) fn parse(expression: &str, expression_type: Option<&str>) -> Result<Self, FilterError> {
        if expression.len() > EXPRESSION_BYTES_MAX {
            return Err(FilterError::TooLong(expression.len()));
        }
        match expression_type {
            _ if is_tag_type(expression_type) => Self::of_tags(expression),
            Some("SQL92") => {
                let compiled = Expression::compile(expression)?;
                Ok(Self::Sql(Arc::new(Sql { text: expression.into(), compiled })))
            }
            other => Err(FilterError::UnknownType(other.unwrap_or_default().chars().take(32).collect())),
        }
    }

    fn of_tags(expression: &str) -> Result<Self, FilterError> {
        if expression.is_empty() || expression == EVERYTHING {
            return Ok(Self::All);
        }
        let tags: Vec<_> = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).collect();
        if tags.is_empty() {
            return Err(FilterError::NoTag(expression.chars().take(64).collect()));
        }
        Ok(Self::tags(tags))
    }

    /// The filter of a subscription in a heartbeat. Clients read a tag expression themselves and send what they found.
    pub(crate) fn subscription(data: &SubscriptionData) -> Result<Self, FilterError> {
        if data.class_filter_mode {
            return Ok(Self::All);
        }
        let is_read = is_tag_type(Some(&data.expression_type))
            && data.sub_string != EVERYTHING
            && !(data.tags_set.is_empty() && data.code_set.is_empty());
        if !is_read {
            return Self::parse(&data.sub_string, Some(&data.expression_type));
        }
        if data.tags_set.is_empty() {
            return Ok(Self::codes(data.code_set.iter().map(|code| i64::from(*code))));
        }
        Ok(Self::tags(data.tags_set.iter().map(String::as_str)))
    }

    fn tags<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        let mut tags: Vec<Box<str>> = tags.into_iter().map(Box::from).collect();
        tags.sort_unstable();
        tags.dedup();
        let codes = sorted(tags.iter().map(|tag| tags_code(tag)));
        Self::Tags(Arc::new(Tags { codes, tags: tags.into() }))
    }

    /// A filter by codes alone.
    fn codes(codes: impl Iterator<Item = i64>) -> Self {
        Self::Tags(Arc::new(Tags { codes: sorted(codes), tags: Box::default() }))
    }

    /// What a message's tags code tells.
    pub(crate) fn glance(&self, tags_code: i64) -> Glance {
        match self {
            Self::All => Glance::Wanted,
            Self::Tags(wanted) if wanted.codes.binary_search(&tags_code).is_err() => Glance::Unwanted,
            Self::Tags(wanted) if wanted.tags.is_empty() => Glance::Wanted,
            Self::Tags(_) | Self::Sql(_) => Glance::Unsure,
        }
    }

    /// Whether a record is wanted. Adds to `work` what it took to find out: a unit of it is some 4 ns.
    pub(crate) fn wants(&self, record: &[u8], work: &mut usize) -> bool {
        *work += RECORD_WORK;
        let Ok(record) = RecordView::parse(record) else { return false };
        let len = record.properties().len();
        *work += len / 32;
        match self {
            Self::All => true,
            Self::Tags(wanted) => {
                let tag = record.property(TAGS).unwrap_or_default();
                wanted.tags.binary_search_by(|wanted| (**wanted).cmp(tag)).is_ok()
            }
            Self::Sql(wanted) => {
                // Each operand may have to go through all properties.
                *work += wanted.text.len() * (1 + len / 1024);
                wanted.compiled.matches(|name| record.property(name))
            }
        }
    }
}

fn sorted(codes: impl Iterator<Item = i64>) -> Box<[i64]> {
    let mut codes: Vec<_> = codes.collect();
    codes.sort_unstable();
    codes.dedup();
    codes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_rocketmq_reads_them() {
        for all in ["", "*"] {
            assert_eq!(Filter::parse(all, None), Ok(Filter::All));
        }
        let filter = Filter::parse(" TagA||  TagB ||", Some("TAG")).unwrap();
        let glance = |tag: &str| filter.glance(tags_code(tag));
        assert_eq!((glance("TagA"), glance("TagB")), (Glance::Unsure, Glance::Unsure));
        assert_eq!((glance("TagC"), filter.glance(0)), (Glance::Unwanted, Glance::Unwanted));
        assert!(matches!(Filter::parse(" || ", None), Err(FilterError::NoTag(_))));
        assert!(matches!(Filter::parse("x", Some("LUA")), Err(FilterError::UnknownType(_))));
        let long = "x".repeat(EXPRESSION_BYTES_MAX + 1);
        assert_eq!(Filter::parse(&long, None), Err(FilterError::TooLong(long.len())));
    }

    #[test]
    fn a_subscription_is_taken_as_its_client_has_read_it() {
        let read = |sub_string: &str, tags: &[&str], codes: &[i32]| {
            let data = SubscriptionData {
                sub_string: sub_string.into(),
                tags_set: tags.iter().map(ToString::to_string).collect(),
                code_set: codes.to_vec(),
                ..SubscriptionData::default()
            };
            (Filter::subscription(&data).unwrap(), data)
        };
        assert_eq!(read("B||A", &["A", "B"], &[65, 66]).0, Filter::parse("A||B", None).unwrap());
        assert_eq!(read("B||A", &[], &[]).0, Filter::parse("A||B", None).unwrap());
        assert_eq!(read("*", &[], &[]).0, Filter::All);
        let (codes, data) = read("A", &[], &[65]);
        assert_eq!((codes.glance(65), codes.glance(66)), (Glance::Wanted, Glance::Unwanted));
        let sql =
            SubscriptionData { expression_type: "SQL92".into(), sub_string: "a >".into(), ..data.clone() };
        assert!(matches!(Filter::subscription(&sql), Err(FilterError::Sql(_))));
        let class = SubscriptionData { class_filter_mode: true, ..data };
        assert_eq!(
            Filter::subscription(&class),
            Ok(Filter::All),
            "classes filtered on servers that are no more"
        );
    }

    #[test]
    fn an_expression_sees_the_properties_and_pays_for_what_it_reads() {
        let record = |properties: &str| {
            let parts = raftmq_message::RecordParts {
                topic: "t",
                queue_id: 0,
                flag: 0,
                sys_flag: 0,
                born_timestamp_ms: 1,
                born_host: ([127, 0, 0, 1], 1).into(),
                store_host: ([127, 0, 0, 1], 2).into(),
                reconsume_times: 0,
                prepared_transaction_offset: 0,
                body: b"",
                properties: &[properties],
            };
            let mut record = Vec::new();
            parts.encode_into(&mut record).unwrap();
            record
        };
        let filter = Filter::parse("a > 3 AND TAGS = 'x'", Some("SQL92")).unwrap();
        assert_eq!(filter.glance(0), Glance::Unsure);
        let mut work = 0;
        let mut wants = |properties: &str| filter.wants(&record(properties), &mut work);
        assert!(wants("a\u{1}4\u{2}TAGS\u{1}x\u{2}"));
        assert!(!wants("a\u{1}3\u{2}TAGS\u{1}x\u{2}") && !wants("TAGS\u{1}x\u{2}") && !wants(""));
        assert!(!filter.wants(b"no record", &mut work));
        let long = format!("a = '{}'", "x".repeat(10_000));
        let long = Filter::parse(&long, Some("SQL92")).unwrap();
        let (mut cheap, mut dear) = (0, 0);
        filter.wants(&record("a\u{1}4\u{2}"), &mut cheap);
        long.wants(&record(&format!("a\u{1}{}\u{2}", "x".repeat(30_000))), &mut dear);
        assert!(dear > 1000 * cheap, "{dear} {cheap}");
    }
}
