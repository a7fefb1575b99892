//! Texts as numbers, read as `Integer.valueOf`, `Long.valueOf` and `Double.valueOf` read them in Java.

use super::MatchError;

/// The zeros of the decimal digits that Java reads beside `0` to `9`, one for each script of Unicode's first plane; the
/// other nine follow each of them. From `Character.digit` of Java 17.
const ZEROS: [u32; 37] = [
    0x0030, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66,
    0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50,
    0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
];

/// The exponent of 2 that one step of the smallest double has.
const SMALLEST_EXPONENT: i64 = -1074;

/// A sign, if there is one, and digits: nothing else, blanks neither.
pub(crate) fn long(text: &str) -> Result<i64, MatchError> {
    let (negative, digits) = sign(text);
    if digits.is_empty() {
        return Err(MatchError::NotANumber);
    }
    let add = |value: i64, digit: char| {
        let (shifted, digit) = (value.checked_mul(10)?, i64::from(digit_value(digit)?));
        if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
    };
    digits.chars().try_fold(0, add).ok_or(MatchError::NotANumber)
}

/// As [`long`], of 32 bits.
pub(crate) fn int(text: &str) -> Result<i32, MatchError> {
    long(text)?.try_into().map_err(|_| MatchError::NotANumber)
}

/// A decimal or hexadecimal number, `NaN` or `Infinity`, with blanks around and one of `fFdD` behind it.
pub(crate) fn double(text: &str) -> Result<f64, MatchError> {
    let (negative, unsigned) = sign(text.trim_matches(|c| c <= ' '));
    let magnitude = match unsigned {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        _ => {
            let number = unsigned.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(unsigned);
            let hexadecimal = number.strip_prefix("0x").or_else(|| number.strip_prefix("0X"));
            hexadecimal.map_or_else(|| decimal(number), hexadecimal_value).ok_or(MatchError::NotANumber)?
        }
    };
    Ok(if negative { -magnitude } else { magnitude })
}

/// Splits a sign off; whether it is a minus.
fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    }
}

fn digit_value(digit: char) -> Option<u32> {
    if digit.is_ascii() {
        return digit.to_digit(10);
    }
    let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= u32::from(digit))].last()?;
    Some(u32::from(digit) - zero).filter(|value| *value < 10)
}

/// Digits with a point and an exponent. What the language's own reading takes besides is a word or a second sign.
fn decimal(number: &str) -> Option<f64> {
    let first = number.bytes().next()?;
    (first.is_ascii_digit() || first == b'.').then(|| number.parse().ok())?
}

/// `digits.digits` and the mandatory `p` with an exponent of 2, rounded half to even.
fn hexadecimal_value(number: &str) -> Option<f64> {
    let (digits, power) = number.split_once(['p', 'P'])?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (down, power) = sign(power);
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || power.is_empty() || !all_digits(power) {
        return None;
    }
    // What has more digits is out of any double's range, unless as many digits stand before it.
    let power: i64 = power.parse().unwrap_or(i64::MAX / 2);
    let mut exponent = (if down { -power } else { power }).saturating_sub(fraction.len() as i64 * 4);
    let mut mantissa = 0_u64;
    for digit in whole.chars().chain(fraction.chars()) {
        let digit = u64::from(digit.to_digit(16)?);
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | digit;
        } else {
            // Beyond what a double tells apart; it only breaks ties.
            mantissa |= u64::from(digit != 0);
            exponent = exponent.saturating_add(4);
        }
    }
    Some(scaled(mantissa, exponent))
}

/// `mantissa * 2^exponent`, rounded once. The lowest bit of a long mantissa stands for all that is below it.
fn scaled(mantissa: u64, exponent: i64) -> f64 {
    if mantissa == 0 {
        return 0.0;
    }
    // Steps of the smallest double that the mantissa's own steps lie below.
    let below = SMALLEST_EXPONENT.saturating_sub(exponent);
    if below > 0 {
        // Rounded where the result's last bit is, if that is above the 53rd of the mantissa.
        let kept = 64 - i64::from(mantissa.leading_zeros()) - below;
        if kept < 0 {
            return 0.0;
        }
        if kept <= 53 {
            let (wide, below) = (u128::from(mantissa), below as u32);
            let (steps, half) = (wide >> below, 1_u128 << (below - 1));
            let dropped = wide & ((1 << below) - 1);
            let up = dropped > half || (dropped == half && steps & 1 == 1);
            return f64::from_bits((steps + u128::from(up)) as u64);
        }
    }
    if exponent > 1024 {
        return f64::INFINITY;
    }
    // Exact from here on, as the mantissa has been rounded to 53 bits and the result is not below the normal range.
    let half = exponent / 2;
    mantissa as f64 * power_of_two(half) * power_of_two(exponent - half)
}

/// A power within the normal range.
fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_signs_and_digits() {
        assert_eq!([long("+7"), long("-0012"), long("٤٢"), long("７")], [Ok(7), Ok(-12), Ok(42), Ok(7)]);
        assert_eq!(long("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!((int("-2147483648"), int("2147483647")), (Ok(i32::MIN), Ok(i32::MAX)));
        for text in ["", "+", "-", " 1", "1 ", "1.0", "1L", "0x1", "--1", "9223372036854775808", "²", "𝟏"]
        {
            assert_eq!(long(text), Err(MatchError::NotANumber), "{text:?}");
        }
        assert_eq!(int("2147483648"), Err(MatchError::NotANumber));
    }

    #[test]
    fn doubles_are_decimal_or_hexadecimal() {
        let numbers = [
            ("\t 1.5 \n", 1.5),
            ("-.5e-1f", -0.05),
            ("5.D", 5.0),
            ("+1e400", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("0x1p3", 8.0),
            ("0X.8P1d", 1.0),
            ("0x1.8p-1074", f64::from_bits(2)),
            ("0x0.8p-1074", 0.0),
            ("0x0.80000000000000000000000000001p-1074", f64::from_bits(1)),
            ("0x1.fffffffffffff7p1023", f64::MAX),
            ("0x1.fffffffffffff8p1023", f64::INFINITY),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000000000000000001p0", 1.0 + f64::EPSILON),
            ("0x1p-1022", f64::MIN_POSITIVE),
            ("0x1p99999999999999999999", f64::INFINITY),
            ("0x1p-99999999999999999999", 0.0),
            ("0x0p99999999999999999999", 0.0),
        ];
        for (text, value) in numbers {
            assert_eq!(double(text), Ok(value), "{text:?}");
        }
        assert!(double("NaN").unwrap().is_nan());
        let none = "| |+|.|e1|1e|1e+|nan|inf|infinity|INF|1_0|++1|+-1|1ff|0x1|0x|0xp1|0x.p1|0x1p|0x1pf|0xgp1|0x1.2.3p1|1 2|١";
        for text in none.split('|') {
            assert_eq!(double(text), Err(MatchError::NotANumber), "{text:?}");
        }
    }
}
