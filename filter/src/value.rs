//! Values that an expression computes with, and how they compare.

use std::cmp::Ordering;

use super::MatchError;
use super::number::{double, int, long};

/// A value. Properties are texts; the numbers' types are those of literals, and decide how a property is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Boolean(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'a str),
}

impl From<Option<bool>> for Value<'_> {
    fn from(value: Option<bool>) -> Self {
        value.map_or(Self::Null, Self::Boolean)
    }
}

impl Value<'_> {
    /// Truth; unknown for what is no truth value.
    pub(crate) fn truth(self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// A property standing alone as a condition is never true, since it is a text.
    pub(crate) fn as_condition(self) -> Option<bool> {
        match self {
            Self::Null => None,
            Self::Boolean(value) => Some(value),
            _ => Some(false),
        }
    }

    /// The number with the other sign; NULL for what is no number.
    pub(crate) fn negated(self) -> Self {
        match self {
            Self::Int(value) => Self::Int(value.wrapping_neg()),
            Self::Long(value) => Self::Long(value.wrapping_neg()),
            Self::Double(value) => Self::Double(-value),
            Self::Null | Self::Boolean(_) | Self::Text(_) => Self::Null,
        }
    }

    /// Equality: unknown if only the left is NULL.
    pub(crate) fn equals(self, other: Self) -> Result<Option<bool>, MatchError> {
        match (self, other) {
            (Self::Null, Self::Null) => Ok(Some(true)),
            (Self::Null, _) => Ok(None),
            (_, Self::Null) => Ok(Some(false)),
            (Self::Text(left), Self::Text(right)) => Ok(Some(left == right)),
            _ => self.compare(other).map(|order| Some(order.is_eq())),
        }
    }

    /// Order by size: two texts are read as numbers.
    pub(crate) fn order(self, other: Self) -> Result<Option<Ordering>, MatchError> {
        match (self, other) {
            (Self::Null, _) | (_, Self::Null) => Ok(None),
            (Self::Text(left), Self::Text(right)) => Ok(Some(order_doubles(double(left)?, double(right)?))),
            _ => self.compare(other).map(Some),
        }
    }

    /// Compares values that are not NULL, reading a text as what the other one is. A truth value and a number differ,
    /// the left being the smaller one.
    pub(crate) fn compare(self, other: Self) -> Result<Ordering, MatchError> {
        use Value::{Boolean, Double, Int, Long, Null, Text};
        Ok(match (self, other) {
            (Boolean(left), Boolean(right)) => left.cmp(&right),
            (Int(left), Int(right)) => left.cmp(&right),
            (Long(left), Long(right)) => left.cmp(&right),
            (Int(left), Long(right)) => i64::from(left).cmp(&right),
            (Long(left), Int(right)) => left.cmp(&i64::from(right)),
            (Double(left), Double(right)) => order_doubles(left, right),
            (Int(left), Double(right)) => order_doubles(f64::from(left), right),
            (Double(left), Int(right)) => order_doubles(left, f64::from(right)),
            (Long(left), Double(right)) => order_doubles(left as f64, right),
            (Double(left), Long(right)) => order_doubles(left, right as f64),
            (Text(left), Text(right)) => left.cmp(right),
            (Text(left), Int(right)) => int(left)?.cmp(&right),
            (Int(left), Text(right)) => left.cmp(&int(right)?),
            (Text(left), Long(right)) => long(left)?.cmp(&right),
            (Long(left), Text(right)) => left.cmp(&long(right)?),
            (Text(left), Double(right)) => order_doubles(double(left)?, right),
            (Double(left), Text(right)) => order_doubles(left, double(right)?),
            (Text(left), Boolean(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
            // Only this way round: so it is in Java.
            (Boolean(_), Text(_)) => return Err(MatchError::BooleanWithText),
            (Boolean(_), Int(_) | Long(_) | Double(_))
            | (Int(_) | Long(_) | Double(_), Boolean(_))
            | (Null, _)
            | (_, Null) => Ordering::Less,
        })
    }
}

/// As `Double.compareTo`: -0.0 is below 0.0, and NaN equals itself and is above all else.
fn order_doubles(left: f64, right: f64) -> Ordering {
    let canonical = |value: f64| if value.is_nan() { f64::NAN.copysign(1.0) } else { value };
    canonical(left).total_cmp(&canonical(right))
}
