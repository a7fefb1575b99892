//! Which messages of a queue a consumer wants, decided by the tags codes that ConsumeQueue units carry.

use std::sync::Arc;

use raftmq_message::hash::tags_code;

use super::limits::{EXPRESSION_BYTES_MAX, TAGS_MAX};

/// The expression that wants everything.
const EVERYTHING: &str = "*";

/// A filter by tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Everything.
    All,
    /// Messages whose tags code is one of these, sorted. Codes are hashes: the client compares the tags once more.
    Codes(Arc<[i64]>),
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("The broker does not support consumer to filter message by SQL92")]
    Sql,
    #[error("expression of {0} bytes is longer than {EXPRESSION_BYTES_MAX}")]
    TooLong(usize),
    #[error("an expression of {0} tags; at most {TAGS_MAX} are allowed")]
    TooManyTags(usize),
    #[error("unknown expression type {0}")]
    UnknownType(String),
    #[error("the expression {0:?} names no tag")]
    NoTag(String),
}

impl Filter {
    /// Reads `A || B`; nothing and `*` want everything. An absent type is TAG.
    pub(crate) fn parse(expression: &str, expression_type: Option<&str>) -> Result<Self, FilterError> {
        match expression_type {
            None | Some("" | "TAG") => {}
            Some("SQL92") => return Err(FilterError::Sql),
            Some(other) => return Err(FilterError::UnknownType(other.chars().take(32).collect())),
        }
        if expression.len() > EXPRESSION_BYTES_MAX {
            return Err(FilterError::TooLong(expression.len()));
        }
        if expression.is_empty() || expression == EVERYTHING {
            return Ok(Self::All);
        }
        let tags: Vec<_> = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).collect();
        if tags.is_empty() {
            return Err(FilterError::NoTag(expression.chars().take(64).collect()));
        }
        if tags.len() > TAGS_MAX {
            return Err(FilterError::TooManyTags(tags.len()));
        }
        Ok(Self::codes(tags.into_iter().map(tags_code)))
    }

    /// A filter by codes.
    pub(crate) fn codes(codes: impl Iterator<Item = i64>) -> Self {
        let mut codes: Vec<_> = codes.collect();
        codes.sort_unstable();
        codes.dedup();
        Self::Codes(codes.into())
    }

    pub(crate) fn wants(&self, tags_code: i64) -> bool {
        match self {
            Self::All => true,
            Self::Codes(codes) => codes.binary_search(&tags_code).is_ok(),
        }
    }
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
        assert!(filter.wants(tags_code("TagA")) && filter.wants(tags_code("TagB")));
        assert!(!filter.wants(tags_code("TagC")) && !filter.wants(0));
        assert_eq!(Filter::parse("a > 1", Some("SQL92")), Err(FilterError::Sql));
        assert!(matches!(Filter::parse(" || ", None), Err(FilterError::NoTag(_))));
        assert!(matches!(Filter::parse("x", Some("LUA")), Err(FilterError::UnknownType(_))));
        let tags = |count| vec!["x"; count].join("||");
        assert!(Filter::parse(&tags(TAGS_MAX), None).is_ok());
        assert_eq!(Filter::parse(&tags(TAGS_MAX + 1), None), Err(FilterError::TooManyTags(TAGS_MAX + 1)));
        let long = "x".repeat(EXPRESSION_BYTES_MAX + 1);
        assert_eq!(Filter::parse(&long, None), Err(FilterError::TooLong(long.len())));
    }
}
