//! Which messages of a queue a consumer wants: by the tags codes that ConsumeQueue units carry where it asks for tags,
//! then exactly by what stands in the record.

use std::sync::Arc;

use raftmq_filter::{Expression, PROPERTIES_MAX, SqlError};
use raftmq_message::RecordView;
use raftmq_message::hash::tags_code;
use raftmq_message::properties::{self, names::TAGS};

use crate::limits::{EXPRESSION_BYTES_MAX, EXPRESSION_OPERATIONS_MAX};

/// Work of reading a record, besides its properties.
const RECORD_WORK: usize = 64;
/// The expression that wants everything.
pub const EVERYTHING: &str = "*";

/// A filter, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Everything.
    All,
    Tags(Arc<Tags>),
    Sql(Arc<Sql>),
}

/// Tags that are wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Tags {
    /// Their codes, sorted. Different tags may have the same.
    codes: Box<[i64]>,
    /// The tags, sorted; none where only the codes are known.
    tags: Box<[Box<str>]>,
}

/// An expression over properties.
#[derive(Debug)]
pub struct Sql {
    text: Box<str>,
    compiled: Expression,
    /// Names of the properties that it reads, sorted.
    names: Box<[Box<str>]>,
}

impl Sql {
    fn compile(expression: &str) -> Result<Self, FilterError> {
        let compiled = Expression::compile(expression)?;
        let operations = compiled.operations();
        if operations > EXPRESSION_OPERATIONS_MAX {
            return Err(FilterError::TooManyOperations(operations));
        }
        let mut names: Vec<Box<str>> = compiled.properties().map(Box::from).collect();
        names.sort_unstable();
        Ok(Self { text: expression.into(), compiled, names: names.into() })
    }

    fn wants(&self, list: &str, work: &mut usize) -> bool {
        let mut values = [None; PROPERTIES_MAX];
        let values = &mut values[..self.names.len()];
        *work += look_up(list, &self.names, values);
        // A comparison is five operations, and may have to read the longest value at some 1 ns a byte.
        let longest = values.iter().flatten().map(|value| value.len()).max().unwrap_or(0);
        *work += self.compiled.operations() * (2 + longest / 16);
        self.compiled.matches(|name| {
            let at = self.names.binary_search_by(|known| (**known).cmp(name));
            at.ok().and_then(|at| values[at])
        })
    }

    fn memory_bytes(&self) -> usize {
        let names = self.names.iter().map(|name| size_of::<Box<str>>() + name.len()).sum::<usize>();
        size_of::<Self>() + self.text.len() + names + self.compiled.memory_bytes()
    }
}

/// Reads the values of sorted names from a property list; returns what that took, as [`Filter::wants`] counts it.
fn look_up<'a>(list: &'a str, names: &[impl AsRef<str>], values: &mut [Option<&'a str>]) -> usize {
    // Some 16 ns to find a piece and its name, and as much for each halving of the names.
    let steps = 4 * (1 + names.len().checked_ilog2().unwrap_or(0) as usize);
    list.len() / 32 + properties::get_all(list, names, values) * steps
}

impl PartialEq for Sql {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Sql {}

/// What a unit's tags code says about its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    Wanted,
    Unwanted,
    /// The record decides.
    Unsure,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("expression of {0} bytes is longer than {EXPRESSION_BYTES_MAX}")]
    TooLong(usize),
    #[error("expression of {0} operations, at most {EXPRESSION_OPERATIONS_MAX}")]
    TooManyOperations(usize),
    #[error("unknown expression type {0}")]
    UnknownType(String),
    #[error("the expression {0:?} names no tag")]
    NoTag(String),
}

/// Whether a type of expressions is that of tags. It is the default.
pub fn is_tag_type(expression_type: Option<&str>) -> bool {
    matches!(expression_type, None | Some("" | "TAG"))
}

impl Filter {
    /// Reads an expression. Of tags: `A || B`; nothing and `*` want everything.
    pub fn parse(expression: &str, expression_type: Option<&str>) -> Result<Self, FilterError> {
        if expression.len() > EXPRESSION_BYTES_MAX {
            return Err(FilterError::TooLong(expression.len()));
        }
        match expression_type {
            _ if is_tag_type(expression_type) => Self::of_tags(expression),
            Some("SQL92") => Ok(Self::Sql(Arc::new(Sql::compile(expression)?))),
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

    /// A filter by tags.
    pub fn tags<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        let mut tags: Vec<Box<str>> = tags.into_iter().map(Box::from).collect();
        tags.sort_unstable();
        tags.dedup();
        let codes = sorted(tags.iter().map(|tag| tags_code(tag)));
        Self::Tags(Arc::new(Tags { codes, tags: tags.into() }))
    }

    /// A filter by codes alone.
    pub fn codes(codes: impl Iterator<Item = i64>) -> Self {
        Self::Tags(Arc::new(Tags { codes: sorted(codes), tags: Box::default() }))
    }

    /// What a message's tags code tells.
    pub fn glance(&self, tags_code: i64) -> Glance {
        match self {
            Self::All => Glance::Wanted,
            Self::Tags(wanted) if wanted.codes.binary_search(&tags_code).is_err() => Glance::Unwanted,
            Self::Tags(wanted) if wanted.tags.is_empty() => Glance::Wanted,
            Self::Tags(_) | Self::Sql(_) => Glance::Unsure,
        }
    }

    /// Whether a record is wanted. Adds to `work` what it took to find out: a unit of it is some 4 ns.
    pub fn wants(&self, record: &[u8], work: &mut usize) -> bool {
        *work += RECORD_WORK;
        let Ok(record) = RecordView::parse(record) else { return false };
        let list = record.properties();
        match self {
            Self::All => true,
            Self::Tags(wanted) => {
                let mut tag = [None];
                *work += look_up(list, &[TAGS], &mut tag);
                let tag = tag[0].unwrap_or_default();
                wanted.tags.binary_search_by(|wanted| (**wanted).cmp(tag)).is_ok()
            }
            Self::Sql(wanted) => wanted.wants(list, work),
        }
    }

    /// Operations of its compiled expression, if it has one.
    pub fn operations(&self) -> usize {
        match self {
            Self::All | Self::Tags(_) => 0,
            Self::Sql(sql) => sql.compiled.operations(),
        }
    }

    /// Bytes of memory that it holds, roughly.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Tags(wanted) => {
                let tags = wanted.tags.iter().map(|tag| size_of::<Box<str>>() + tag.len()).sum::<usize>();
                size_of::<Tags>() + size_of_val(&*wanted.codes) + tags
            }
            Self::Sql(sql) => sql.memory_bytes(),
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
    use crate::tests::record_with;

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
    fn an_expression_sees_the_properties_and_pays_for_what_it_reads() {
        let filter = Filter::parse("a > 3 AND TAGS = 'x'", Some("SQL92")).unwrap();
        assert_eq!(filter.glance(0), Glance::Unsure);
        let mut work = 0;
        let mut wants = |properties: &str| filter.wants(&record_with(properties), &mut work);
        assert!(wants("a\u{1}4\u{2}TAGS\u{1}x\u{2}"));
        assert!(!wants("a\u{1}3\u{2}TAGS\u{1}x\u{2}") && !wants("TAGS\u{1}x\u{2}") && !wants(""));
        assert!(!filter.wants(b"no record", &mut work));
        let many = vec!["a = 'x'"; 100].join(" OR ");
        let many = Filter::parse(&many, Some("SQL92")).unwrap();
        let (mut cheap, mut dear) = (0, 0);
        filter.wants(&record_with("a\u{1}4\u{2}"), &mut cheap);
        many.wants(&record_with(&format!("a\u{1}{}\u{2}", "x".repeat(30_000))), &mut dear);
        assert!(dear > 1000 * cheap, "{dear} {cheap}");
    }

    #[test]
    fn what_looking_up_takes_is_paid_for_and_no_more_than_a_pass_over_the_list() {
        let hostile = [
            format!("z\u{1}{}\u{2}", "a".repeat(30_000)),
            "TAGS".repeat(7500),
            "a\u{2}".repeat(15_000),
            "\u{2}".repeat(30_000),
            "a\u{1}".repeat(15_000),
        ];
        for filter in [Filter::parse("a = 1", Some("SQL92")), Filter::parse("a", None)] {
            let filter = filter.unwrap();
            for (kind, list) in hostile.iter().enumerate() {
                let record = record_with(list);
                let mut work = 0;
                assert!(!filter.wants(&record, &mut work));
                let pieces = list.split('\u{2}').count();
                assert!((900 + 4 * pieces..12_000 + 5 * pieces).contains(&work), "{kind}: {work}");
            }
        }
        let absurd = vec!["a = 1"; 500].join(" OR ");
        let refused = Filter::parse(&absurd, Some("SQL92")).unwrap_err();
        assert!(matches!(refused, FilterError::TooManyOperations(_)), "{refused}");
    }
}
