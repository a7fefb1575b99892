//! The compiled form of an expression: operations on a stack of values, in the order of evaluation.
//!
//! Jumps lead forward only, so each operation runs at most once.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::value::Value;
use super::{MatchError, NODES_MAX, PROPERTIES_MAX, SqlErrorKind};

/// Values, and properties, that a match keeps without allocating.
const INLINE: usize = 16;

/// Compares by size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Relation {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
        }
    }
}

/// Where a text is looked for in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Anywhere,
    Start,
    End,
}

/// One step. The comments give the stack before and after it.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// ` -> value`
    Null,
    Boolean(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Box<str>),
    /// The property with this number. ` -> value`
    Property(usize),
    /// `value -> condition`
    Condition,
    Not,
    IsNull,
    /// Whether a property is one of the texts, which are sorted. `value -> condition`
    In {
        texts: Box<[Box<str>]>,
        not: bool,
    },
    Find {
        text: Box<str>,
        place: Place,
        not: bool,
    },
    /// `value -> value`
    Negate,
    /// Goes on elsewhere if the top is this; it stays.
    JumpIfNull(usize),
    JumpIf(bool, usize),
    /// `condition condition -> condition`
    And,
    Or,
    /// `left right -> condition`
    Equal,
    Compare(Relation),
    /// Compares with the lower limit of a range: `value limit -> condition` with a jump if that settles it, else
    /// `value limit -> value condition`.
    Low {
        not: bool,
        end: usize,
    },
    /// Compares with the upper limit: `value condition limit -> condition`.
    High {
        not: bool,
    },
}

impl Op {
    /// By how much it changes the stack's height.
    fn growth(&self) -> isize {
        match self {
            Self::Null | Self::Boolean(_) | Self::Int(_) | Self::Long(_) | Self::Double(_) => 1,
            Self::Text(_) | Self::Property(_) => 1,
            Self::Condition
            | Self::Not
            | Self::IsNull
            | Self::In { .. }
            | Self::Find { .. }
            | Self::Negate => 0,
            Self::JumpIfNull(_) | Self::JumpIf(..) | Self::Low { .. } => 0,
            Self::And | Self::Or | Self::Equal | Self::Compare(_) => -1,
            Self::High { .. } => -2,
        }
    }

    fn jump_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::JumpIfNull(end) | Self::JumpIf(_, end) | Self::Low { end, .. } => Some(end),
            _ => None,
        }
    }
}

/// A program under construction.
#[derive(Debug, Default)]
pub(crate) struct Builder<'a> {
    ops: Vec<Op>,
    properties: BTreeMap<&'a str, usize>,
    names: Vec<Box<str>>,
    height: usize,
    height_max: usize,
}

impl<'a> Builder<'a> {
    /// Appends an operation and returns its index.
    pub(crate) fn push(&mut self, op: Op) -> Result<usize, SqlErrorKind> {
        if self.ops.len() == NODES_MAX {
            return Err(SqlErrorKind::TooLarge);
        }
        self.height = self.height.saturating_add_signed(op.growth());
        self.height_max = self.height_max.max(self.height);
        self.ops.push(op);
        Ok(self.ops.len() - 1)
    }

    /// The number of a property.
    pub(crate) fn property(&mut self, name: &'a str) -> Result<usize, SqlErrorKind> {
        let next = self.names.len();
        let number = *self.properties.entry(name).or_insert(next);
        if number == next {
            if next == PROPERTIES_MAX {
                return Err(SqlErrorKind::TooManyProperties);
            }
            self.names.push(name.into());
        }
        Ok(number)
    }

    /// Takes back the operations of the operand on top of the stack, from its first one on.
    pub(crate) fn take_back(&mut self, start: usize) {
        self.ops.truncate(start);
        self.height -= 1;
    }

    /// Makes the jump of an operation lead to what comes next.
    pub(crate) fn land(&mut self, op: usize) {
        let here = self.ops.len();
        if let Some(end) = self.ops[op].jump_mut() {
            *end = here;
        }
    }

    pub(crate) fn finish(self) -> Program {
        Program { ops: self.ops.into(), names: self.names.into(), height_max: self.height_max }
    }
}

/// A program that leaves one condition on the stack.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    ops: Box<[Op]>,
    /// Names of the properties, by number.
    names: Box<[Box<str>]>,
    height_max: usize,
}

impl Program {
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }

    pub(crate) fn operations(&self) -> usize {
        self.ops.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let texts_bytes =
            |texts: &[Box<str>]| size_of_val(texts) + texts.iter().map(|text| text.len()).sum::<usize>();
        let texts = self.ops.iter().map(|op| match op {
            Op::Text(text) | Op::Find { text, .. } => text.len(),
            Op::In { texts, .. } => texts_bytes(texts),
            _ => 0,
        });
        size_of_val(&*self.ops) + texts_bytes(&self.names) + texts.sum::<usize>()
    }

    pub(crate) fn run<'a>(
        &self,
        lookup: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Option<bool>, MatchError> {
        let mut few_values = [Value::Null; INLINE];
        let mut many_values = Vec::new();
        let mut few_properties = [None; INLINE];
        let mut many_properties = Vec::new();
        let mut machine = Machine {
            names: &self.names,
            lookup: &|name: &str| lookup(name),
            values: room(&mut few_values, &mut many_values, self.height_max, Value::Null),
            height: 0,
            properties: room(&mut few_properties, &mut many_properties, self.names.len(), None),
        };
        let mut at = 0;
        while let Some(op) = self.ops.get(at) {
            at = machine.step(op)?.unwrap_or(at + 1);
        }
        Ok(machine.pop().truth())
    }
}

/// Room for `len` items, on the heap if they are many.
fn room<'r, T: Copy>(few: &'r mut [T; INLINE], many: &'r mut Vec<T>, len: usize, item: T) -> &'r mut [T] {
    if len <= INLINE {
        return few;
    }
    many.resize(len, item);
    many
}

/// The state of an evaluation.
struct Machine<'m, 'v> {
    names: &'m [Box<str>],
    lookup: &'m dyn Fn(&str) -> Option<&'v str>,
    values: &'m mut [Value<'v>],
    height: usize,
    /// Properties that were looked up, by number.
    properties: &'m mut [Option<Value<'v>>],
}

impl<'v> Machine<'_, 'v> {
    fn push(&mut self, value: Value<'v>) {
        self.values[self.height] = value;
        self.height += 1;
    }

    fn pop(&mut self) -> Value<'v> {
        self.height -= 1;
        self.values[self.height]
    }

    fn top(&self) -> Value<'v> {
        self.values[self.height - 1]
    }

    fn property(&mut self, number: usize) -> Value<'v> {
        let lookup = || (self.lookup)(&self.names[number]).map_or(Value::Null, Value::Text);
        *self.properties[number].get_or_insert_with(lookup)
    }

    /// Takes a step; where it jumps to, if it does.
    fn step<'p: 'v>(&mut self, op: &'p Op) -> Result<Option<usize>, MatchError> {
        let result = match op {
            Op::Property(number) => self.property(*number),
            Op::Null => Value::Null,
            Op::Boolean(value) => Value::Boolean(*value),
            Op::Int(value) => Value::Int(*value),
            Op::Long(value) => Value::Long(*value),
            Op::Double(value) => Value::Double(*value),
            Op::Text(text) => Value::Text(text),
            Op::Condition => self.pop().as_condition().into(),
            Op::Not => self.pop().truth().map(|value| !value).into(),
            Op::IsNull => Value::Boolean(self.pop() == Value::Null),
            Op::In { texts, not } => contains(texts, self.pop()).map(|found| found != *not).into(),
            Op::Find { text, place, not } => Value::Boolean(find(self.pop(), text, *place, *not)),
            Op::Negate => self.pop().negated(),
            Op::JumpIfNull(end) => return Ok((self.top() == Value::Null).then_some(*end)),
            Op::JumpIf(value, end) => return Ok((self.top().truth() == Some(*value)).then_some(*end)),
            Op::And => and(self.pop().truth(), self.pop().truth()).into(),
            Op::Or => or(self.pop().truth(), self.pop().truth()).into(),
            Op::Equal => {
                let right = self.pop();
                self.pop().equals(right)?.into()
            }
            Op::Compare(relation) => {
                let right = self.pop();
                self.pop().order(right)?.map(|order| relation.holds(order)).into()
            }
            Op::Low { not, end } => {
                let limit = self.pop();
                let relation = if *not { Relation::Less } else { Relation::GreaterOrEqual };
                let condition = self.top().order(limit)?.map(|order| relation.holds(order));
                if condition == Some(*not) {
                    self.pop();
                    self.push(condition.into());
                    return Ok(Some(*end));
                }
                condition.into()
            }
            Op::High { not } => {
                let limit = self.pop();
                let low = self.pop().truth();
                let relation = if *not { Relation::Greater } else { Relation::LessOrEqual };
                let high = self.pop().order(limit)?.map(|order| relation.holds(order));
                if *not { or(low, high) } else { and(low, high) }.into()
            }
        };
        self.push(result);
        Ok(None)
    }
}

fn and(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn or(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    and(left.map(|value| !value), right.map(|value| !value)).map(|value| !value)
}

fn contains(texts: &[Box<str>], value: Value<'_>) -> Option<bool> {
    match value {
        Value::Text(value) => Some(texts.binary_search_by(|text| text.as_ref().cmp(value)).is_ok()),
        _ => None,
    }
}

/// Whether the value has the text there, or has it not. False for what is no text.
fn find(value: Value<'_>, text: &str, place: Place, not: bool) -> bool {
    let Value::Text(value) = value else { return false };
    let found = match place {
        Place::Anywhere => value.contains(text),
        Place::Start => value.starts_with(text),
        Place::End => value.ends_with(text),
    };
    found != not
}
