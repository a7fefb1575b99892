//! SQL92 expressions over message properties, as RocketMQ's consumers filter with them.
//!
//! ```
//! use raftmq_filter::Expression;
//!
//! let wanted = Expression::compile("colour IN ('red', 'blue') AND weight BETWEEN 2 AND 9.5")?;
//! let property = |name: &str| match name {
//!     "colour" => Some("red"),
//!     "weight" => Some("3.5"),
//!     _ => None,
//! };
//! // The weight is compared with an integer first, and 3.5 is none.
//! assert!(!wanted.matches(property));
//! assert!(Expression::compile("weight BETWEEN 2.0 AND 9.5")?.matches(property));
//! # Ok::<(), raftmq_filter::SqlError>(())
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`lexer`] | characters to tokens |
//! | [`parser`] | tokens to a program: the grammar, and what it refuses |
//! | [`program`] | the compiled form, and its evaluation |
//! | [`value`] | values, and how they compare |
//! | [`number`] | texts as numbers, as Java reads them |
//!
//! ## The language
//! From the loosest: `OR`; `AND`; `=`, `<>`, `IS [NOT] NULL`; `>`, `>=`, `<`, `<=`, `[NOT] BETWEEN x AND y`,
//! `[NOT] IN ('a', 'b')`, `[NOT] CONTAINS 'a'`, `[NOT] STARTSWITH 'a'`, `[NOT] ENDSWITH 'a'`; the prefixes `NOT`, `-`, `+`;
//! parentheses. Operands are properties, which are texts or NULL, and literals: `12`, `12L`, `1.5E3`, `'it''s'`, `TRUE`,
//! `FALSE`, `NULL`. Keywords are read in any case; comments are `-- to the line's end` and `/* these */`.
//!
//! What the Java broker (5.4.0) accepts is accepted and means the same, its peculiarities included: prefixes bind
//! tighter than comparisons, so `NOT a = 1` is `(NOT a) = 1`; a literal of value 0.0 is refused; what follows a complete
//! expression is ignored as long as its first token can be read; a property that cannot be read as the number that it is
//! compared with fails the whole expression, and a failed expression matches nothing.
//!
//! ## Bounds
//! An expression is bounded in length, nesting, and size ([`LENGTH_MAX`], [`NESTING_MAX`], [`NODES_MAX`],
//! [`PROPERTIES_MAX`]). It is compiled in one pass and evaluated without recursion, each part at most once.
//!
//! This crate knows nothing of messages: properties are asked for by name.

mod error;
mod lexer;
mod limits;
mod number;
mod parser;
mod program;
mod value;

pub use error::{MatchError, SqlError, SqlErrorKind};
pub use limits::{LENGTH_MAX, NESTING_MAX, NODES_MAX, PROPERTIES_MAX};
use program::Program;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression(Program);

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn compile(source: &str) -> Result<Self, SqlError> {
        parser::compile(source).map(Self)
    }

    /// The names of the properties that it reads, in no certain order.
    pub fn properties(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.names()
    }

    /// How many operations a match takes at most.
    pub fn operations(&self) -> usize {
        self.0.operations()
    }

    /// Bytes of memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }

    /// Whether a message with these properties is wanted: only if the expression is true, neither false, nor unknown,
    /// nor failed.
    pub fn matches<'a>(&self, property: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.evaluate(property) == Ok(Some(true))
    }

    /// The expression's value in three-valued logic; `None` is unknown.
    ///
    /// # Errors
    /// A property cannot be compared with what the expression compares it with.
    pub fn evaluate<'a>(
        &self,
        property: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Option<bool>, MatchError> {
        self.0.run(property)
    }
}
