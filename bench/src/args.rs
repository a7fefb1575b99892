//! Arguments that several loads have, and their bounds.

/// Most connections: a safeguard against a typing error.
pub(super) const CONNECTIONS_MAX: u32 = 10_000;

/// Reads a number of seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to 86400".to_owned()),
    }
}
