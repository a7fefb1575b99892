//! Expressions made to hurt: refused with a reason and a place, or compiled and evaluated in bounded room and time.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests reach for the system")]
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::HashMap;

use proptest::prelude::*;
use raftmq_filter::{
    Expression, LENGTH_MAX, MatchError, NESTING_MAX, NODES_MAX, PROPERTIES_MAX, SqlError, SqlErrorKind,
};

fn refusal(source: &str) -> SqlError {
    Expression::compile(source).unwrap_err()
}

#[test]
fn a_longer_expression_is_refused_unread() {
    let long = "'".repeat(1 << 20);
    assert_eq!(refusal(&long), SqlError { position: LENGTH_MAX, kind: SqlErrorKind::TooLong });
    let fits = format!("a = '{}'", "x".repeat(LENGTH_MAX - 6));
    assert_eq!(fits.len(), LENGTH_MAX);
    assert!(Expression::compile(&fits).is_ok());
    assert_eq!(refusal(&(fits + " ")).kind, SqlErrorKind::TooLong);
}

#[test]
fn nesting_is_bounded() {
    // What opens a level, what closes it, and how many operators wait in it.
    let levels = [
        ("(", ")", 1),
        ("NOT ", "", 1),
        ("NOT (", ")", 2),
        ("a = (", ")", 2),
        ("a = 1 OR b = 2 AND (", ")", 3),
        ("x BETWEEN - (", ") AND 2 IS NULL", 3),
    ];
    for (open, close, waiting) in levels {
        let nested = |depth| format!("{}- - - a{}", open.repeat(depth), close.repeat(depth));
        let deepest = (NESTING_MAX - 3) / waiting;
        let kind = |depth| Expression::compile(&nested(depth)).err().map(|error| error.kind);
        assert_ne!(kind(deepest), Some(SqlErrorKind::TooDeep), "{open}");
        assert_eq!(kind(deepest + 3), Some(SqlErrorKind::TooDeep), "{open}");
    }
    let minuses = |count| format!("a = {}1", "- ".repeat(count));
    let deepest = Expression::compile(&minuses(NESTING_MAX - 1)).unwrap();
    assert!(deepest.matches(|_| Some("-1")));
    let deeper = refusal(&minuses(NESTING_MAX));
    assert_eq!((deeper.kind, deeper.position), (SqlErrorKind::TooDeep, 4 + 2 * (NESTING_MAX - 1)));
    let heights = NESTING_MAX / 2 - 1;
    let high = format!("{}a = 2{}", "a = 1 OR (".repeat(heights), ")".repeat(heights));
    let high = Expression::compile(&high).unwrap();
    assert!(high.matches(|_| Some("2")) && !high.matches(|_| Some("3")));
    assert!(Expression::compile(&format!("{}TRUE", "+".repeat(LENGTH_MAX - 4))).is_ok());
}

#[test]
fn chains_are_bounded() {
    let part = "a = 1 OR ";
    // Two operands, the comparison, and the jump; one more to join it to the parts before.
    let parts = (NODES_MAX - 3) / 5;
    let chain = Expression::compile(&(part.repeat(parts) + "a = 2")).unwrap();
    assert!(chain.matches(|_| Some("2")) && !chain.matches(|_| Some("3")));
    assert_eq!(refusal(&(part.repeat(parts + 1) + "a = 2")).kind, SqlErrorKind::TooLarge);
}

/// Java evaluates the value of a BETWEEN for each of its limits, so that these take it 2^90 steps.
#[test]
fn nested_ranges_are_evaluated_once() {
    let depth = 90;
    let source = format!("{}a{} IS NULL", "-(".repeat(depth), " BETWEEN 1 AND 2)".repeat(depth));
    let expression = Expression::compile(&source).unwrap();
    assert_eq!(expression.evaluate(|_| Some("1")), Ok(Some(true)));
    assert_eq!(expression.evaluate(|_| Some("x")), Err(MatchError::NotANumber));
}

#[test]
fn properties_are_counted_and_looked_up_once() {
    let distinct = |count: usize| (0..count).map(|n| format!("p{n} = 'x'")).collect::<Vec<_>>().join(" AND ");
    assert_eq!(refusal(&distinct(PROPERTIES_MAX + 1)).kind, SqlErrorKind::TooManyProperties);
    let twice = format!("{} AND ({})", distinct(PROPERTIES_MAX), distinct(PROPERTIES_MAX));
    let lookups = RefCell::new(HashMap::<String, u32>::new());
    let property = |name: &str| {
        *lookups.borrow_mut().entry(name.to_owned()).or_default() += 1;
        Some("x")
    };
    assert!(Expression::compile(&twice).unwrap().matches(property));
    let lookups = lookups.into_inner();
    assert!(lookups.len() == PROPERTIES_MAX && lookups.values().all(|count| *count == 1));
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    let errors = [
        ("a > ", "expected an operand, found the end at byte 4 of the expression"),
        ("a = 1 AND b > 'x'", "an operand that cannot be compared by size at byte 14 of the expression"),
        ("a IN (1)", "expected a text in quotes, found \"1)\" at byte 6 of the expression"),
        ("a = 1 OR b = NULL", "a comparison with NULL; IS NULL is meant at byte 13 of the expression"),
        ("a = 1 ; b", "unexpected character ';' at byte 6 of the expression"),
        (
            "a BETWEEN 5 AND 1",
            "BETWEEN with its lower limit above its upper limit at byte 10 of the expression",
        ),
        ("price", ""),
        ("a = 0.0", "a number out of range at byte 4 of the expression"),
        ("1 OR TRUE", "an operand that is neither true nor false at byte 0 of the expression"),
        ("TRUE = 1", "a comparison of TRUE or FALSE with what is neither at byte 7 of the expression"),
        ("(a = 1) IN ('x')", "IN for something other than a property at byte 1 of the expression"),
        ("a = 'x", "a text without its closing quote at byte 4 of the expression"),
        ("a /* = 1", "a comment without its end at byte 2 of the expression"),
    ];
    for (source, message) in errors {
        let said = Expression::compile(source).map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(said, message, "{source}");
    }
    let found = refusal(&format!("a IN ({}", "é".repeat(1000)));
    assert_eq!(found.kind, SqlErrorKind::UnexpectedCharacter('é'));
    assert!(refusal(&format!("a IN ({}", "b".repeat(60_000))).to_string().len() < 200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_characters_and_no_properties_cause_a_panic(source in any::<String>(), value in any::<String>()) {
        if let Ok(expression) = Expression::compile(&source) {
            let _ = expression.evaluate(|_| Some(&value));
        }
    }

    #[test]
    fn no_tokens_cause_a_panic(
        tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..40),
        value in prop::option::of("[-+0-9.eExXpPa-f]{0,24}"),
    ) {
        if let Ok(expression) = Expression::compile(&tokens.join(" ")) {
            let _ = expression.evaluate(|_| value.as_deref());
        }
    }
}

const TOKENS: &[&str] = &[
    "a",
    "b",
    "1",
    "2.5",
    "3000000000",
    "'x'",
    "''",
    "'",
    "(",
    ")",
    ",",
    "=",
    "<>",
    "<",
    ">=",
    "+",
    "-",
    "--",
    "\n",
    "/*",
    "*/",
    "TRUE",
    "NULL",
    "NOT",
    "AND",
    "OR",
    "IS",
    "IN",
    "BETWEEN",
    "CONTAINS",
    "ENDSWITH",
    "('x')",
    "a = 1",
    "b > 2",
];
