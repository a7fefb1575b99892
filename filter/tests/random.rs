//! Random expressions: printed, compiled and evaluated, against an evaluator that walks the tree and knows no shortcut
//! but those that decide whether a failing part is reached.

use std::cmp::Ordering;

use proptest::prelude::*;
use raftmq_filter::Expression;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Values of [`NAMES`].
type Properties = [Option<&'static str>; 3];

#[derive(Clone, Debug)]
enum Operand {
    Property(usize),
    Number(i32),
    Minus(Box<Operand>),
}

#[derive(Clone, Debug)]
enum Condition {
    Literal(Option<bool>),
    Compare(Operand, &'static str, Operand),
    Between(Operand, bool, Operand, Operand),
    In(usize, bool, Vec<&'static str>),
    Find(usize, bool, &'static str, &'static str),
    IsNull(Operand, bool),
    Unknown(Box<Condition>),
    Not(Box<Condition>),
    Join(Box<Condition>, bool, Box<Condition>),
}

fn operand() -> impl Strategy<Value = Operand> {
    let leaf = prop_oneof![(0..3_usize).prop_map(Operand::Property), (0..5).prop_map(Operand::Number)];
    leaf.prop_recursive(2, 3, 1, |inner| inner.prop_map(|operand| Operand::Minus(Box::new(operand))))
}

fn texts() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["x", "xy", "it's", "2", "-1"][..])
}

fn condition() -> impl Strategy<Value = Condition> {
    let relation = prop::sample::select(&["=", "<>", "<", "<=", ">", ">="][..]);
    let place = prop::sample::select(&["CONTAINS", "STARTSWITH", "ENDSWITH"][..]);
    let list = prop::collection::vec(texts(), 1..7);
    let leaf = prop_oneof![
        1 => any::<Option<bool>>().prop_map(Condition::Literal),
        6 => (operand(), relation, operand()).prop_map(|(l, relation, r)| Condition::Compare(l, relation, r)),
        3 => (operand(), any::<bool>(), operand(), operand())
            .prop_filter("an empty range is refused", |(_, not, low, high)| {
                !matches!((low, high), (Operand::Number(low), Operand::Number(high)) if low > high && !not)
            })
            .prop_map(|(value, not, low, high)| Condition::Between(value, not, low, high)),
        2 => (0..3_usize, any::<bool>(), list).prop_map(|(name, not, list)| Condition::In(name, not, list)),
        2 => (0..3_usize, any::<bool>(), place, texts())
            .prop_map(|(name, not, place, text)| Condition::Find(name, not, place, text)),
        2 => (operand(), any::<bool>()).prop_map(|(operand, not)| Condition::IsNull(operand, not)),
    ];
    leaf.prop_recursive(6, 60, 2, |inner| {
        let boxed = inner.prop_map(Box::new);
        prop_oneof![
            1 => boxed.clone().prop_map(Condition::Unknown),
            2 => boxed.clone().prop_map(Condition::Not),
            6 => (boxed.clone(), any::<bool>(), boxed).prop_map(|(l, all, r)| Condition::Join(l, all, r)),
        ]
    })
}

fn properties() -> impl Strategy<Value = Properties> {
    let value = prop::sample::select(&["0", "1", "2", "3", "-1", "-2", "x", "xyx", "it's", "1.5", ""][..]);
    // A value that is no number fails most expressions, so half of the sets are numbers and absent ones.
    let number = prop::sample::select(&["0", "1", "2", "3", "-1", "-2"][..]);
    prop_oneof![
        prop::array::uniform3(prop::option::of(value)),
        prop::array::uniform3(prop::option::weighted(0.8, number)),
    ]
}

fn not_word(not: bool) -> &'static str {
    if not { "NOT " } else { "" }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Operand {
    fn print(&self) -> String {
        match self {
            Self::Property(name) => NAMES[*name].to_owned(),
            Self::Number(value) => value.to_string(),
            Self::Minus(inner) => format!("- {}", inner.print()),
        }
    }
}

impl Condition {
    /// With parentheses where the tree differs from what the precedences make of it.
    fn print(&self) -> String {
        match self {
            Self::Literal(value) => value.map_or("NULL".to_owned(), |value| value.to_string()),
            Self::Compare(left, relation, right) => format!("{} {relation} {}", left.print(), right.print()),
            Self::Between(value, not, low, high) => {
                let (value, low, high) = (value.print(), low.print(), high.print());
                format!("{value} {}BETWEEN {low} AND {high}", not_word(*not))
            }
            Self::In(name, not, list) => {
                let list = list.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
                format!("{} {}IN ({list})", NAMES[*name], not_word(*not))
            }
            Self::Find(name, not, place, text) => {
                format!("{} {}{place} {}", NAMES[*name], not_word(*not), quoted(text))
            }
            Self::IsNull(operand, not) => format!("{} IS {}NULL", operand.print(), not_word(*not)),
            Self::Unknown(inner) => format!("({}) IS NULL", inner.print()),
            Self::Not(inner) => format!("NOT ({})", inner.print()),
            Self::Join(left, all, right) => {
                let part = |part: &Self, right: bool| match part {
                    Self::Join(_, inner, _) if (*all && !inner) || (right && all == inner) => {
                        format!("({})", part.print())
                    }
                    _ => part.print(),
                };
                format!("{} {} {}", part(left, false), if *all { "AND" } else { "OR" }, part(right, true))
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Value {
    Null,
    Number(i32),
    Text(&'static str),
}

/// A property that is compared with a number and is none.
#[derive(Debug, PartialEq)]
struct Failed;

fn value(operand: &Operand, properties: &Properties) -> Value {
    match operand {
        Operand::Property(name) => properties[*name].map_or(Value::Null, Value::Text),
        Operand::Number(value) => Value::Number(*value),
        Operand::Minus(inner) => match value(inner, properties) {
            Value::Number(value) => Value::Number(-value),
            Value::Null | Value::Text(_) => Value::Null,
        },
    }
}

fn order(left: Value, right: Value) -> Result<Ordering, Failed> {
    let double = |text: &str| text.parse::<f64>().map_err(|_| Failed);
    let int = |text: &str| text.parse::<i32>().map_err(|_| Failed);
    Ok(match (left, right) {
        (Value::Text(left), Value::Text(right)) => double(left)?.total_cmp(&double(right)?),
        (Value::Text(left), Value::Number(right)) => int(left)?.cmp(&right),
        (Value::Number(left), Value::Text(right)) => left.cmp(&int(right)?),
        (Value::Number(left), Value::Number(right)) => left.cmp(&right),
        (Value::Null, _) | (_, Value::Null) => unreachable!("asked for values that are not NULL"),
    })
}

fn compare(left: Value, relation: &str, right: Value) -> Result<Option<bool>, Failed> {
    let equality = matches!(relation, "=" | "<>");
    let equal = match (left, right) {
        (Value::Null, Value::Null) if equality => true,
        (_, Value::Null) if equality && left != Value::Null => false,
        (Value::Null, _) | (_, Value::Null) => return Ok(None),
        (Value::Text(left), Value::Text(right)) if equality => left == right,
        _ => {
            let order = order(left, right)?;
            match relation {
                "<" => return Ok(Some(order.is_lt())),
                "<=" => return Ok(Some(order.is_le())),
                ">" => return Ok(Some(order.is_gt())),
                ">=" => return Ok(Some(order.is_ge())),
                _ => order.is_eq(),
            }
        }
    };
    Ok(Some(equal == (relation == "=")))
}

type Outcome = Result<Option<bool>, Failed>;

/// AND if `all`, else OR.
fn join(left: Outcome, all: bool, right: impl FnOnce() -> Outcome) -> Outcome {
    let left = left?;
    if left == Some(!all) {
        return Ok(left);
    }
    let right = right()?;
    Ok(if right == Some(!all) { right } else { left.and(right) })
}

fn evaluate(condition: &Condition, properties: &Properties) -> Outcome {
    let of = |operand: &Operand| value(operand, properties);
    match condition {
        Condition::Literal(value) => Ok(*value),
        Condition::Compare(left, relation, right) => compare(of(left), relation, of(right)),
        Condition::Between(value, false, low, high) => {
            join(compare(of(value), ">=", of(low)), true, || compare(of(value), "<=", of(high)))
        }
        Condition::Between(value, true, low, high) => {
            join(compare(of(value), "<", of(low)), false, || compare(of(value), ">", of(high)))
        }
        Condition::In(name, not, list) => Ok(properties[*name].map(|value| list.contains(&value) != *not)),
        Condition::Find(name, not, place, text) => Ok(Some(properties[*name].is_some_and(|value| {
            let found = match *place {
                "CONTAINS" => value.contains(text),
                "STARTSWITH" => value.starts_with(text),
                _ => value.ends_with(text),
            };
            found != *not
        }))),
        Condition::IsNull(operand, not) => Ok(Some((of(operand) == Value::Null) != *not)),
        Condition::Unknown(inner) => Ok(Some(evaluate(inner, properties)?.is_none())),
        Condition::Not(inner) => Ok(evaluate(inner, properties)?.map(|value| !value)),
        Condition::Join(left, all, right) => {
            join(evaluate(left, properties), *all, || evaluate(right, properties))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_compiled_expression_means_what_its_tree_means(
        condition in condition(),
        sets in prop::collection::vec(properties(), 8),
    ) {
        let source = condition.print();
        let expression = Expression::compile(&source).map_err(|error| TestCaseError::fail(format!("{error}: {source}")))?;
        for properties in sets {
            let property = |name: &str| properties[NAMES.iter().position(|known| *known == name).unwrap()];
            let compiled = expression.evaluate(property).map_err(|_| Failed);
            prop_assert_eq!(compiled, evaluate(&condition, &properties), "{} with {:?}", source, properties);
        }
    }
}
