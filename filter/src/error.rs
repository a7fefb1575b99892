//! What can be wrong with an expression, and with a message under it.

use super::{LENGTH_MAX, NESTING_MAX, NODES_MAX, PROPERTIES_MAX};

/// An expression that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {position} of the expression")]
pub struct SqlError {
    /// Byte of the expression where the trouble is.
    pub position: usize,
    /// What is wrong there.
    pub kind: SqlErrorKind,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SqlErrorKind {
    #[error("more than {LENGTH_MAX} bytes")]
    TooLong,
    #[error("more than {NESTING_MAX} parentheses and operators inside each other")]
    TooDeep,
    #[error("more than {NODES_MAX} operators and operands")]
    TooLarge,
    #[error("more than {PROPERTIES_MAX} different properties")]
    TooManyProperties,
    #[error("unexpected character {0:?}")]
    UnexpectedCharacter(char),
    #[error("a text without its closing quote")]
    OpenText,
    #[error("a comment without its end")]
    OpenComment,
    /// What was expected, and the beginning of what was found.
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: &'static str, found: String },
    #[error("an operand that is neither true nor false")]
    NotBoolean,
    #[error("an operand that cannot be compared by size")]
    NotOrdered,
    #[error("a comparison with NULL; IS NULL is meant")]
    ComparedWithNull,
    #[error("a comparison of TRUE or FALSE with what is neither")]
    BooleanWithOther,
    #[error("IN for something other than a property")]
    InWithoutProperty,
    #[error("BETWEEN with its lower limit above its upper limit")]
    EmptyRange,
    #[error("a number out of range")]
    NumberOutOfRange,
}

/// Why an expression has no value for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    #[error("a property is compared with a number and is none")]
    NotANumber,
    #[error("a truth value is compared with a text")]
    BooleanWithText,
}
