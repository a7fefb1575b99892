//! The delay levels: how long each of them is.

/// RocketMQ's levels.
pub const DEFAULT_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
/// Levels that there can be, each with a queue of its own.
pub(super) const LEVELS_MAX: u32 = 64;

/// The delay of each level, which count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayLevels {
    text: String,
    /// Not empty. In ms.
    delays: Vec<i64>,
}

impl Default for DelayLevels {
    fn default() -> Self {
        Self::parse(DEFAULT_LEVELS).expect("the default levels are well formed")
    }
}

impl DelayLevels {
    /// Reads levels as RocketMQ's `messageDelayLevel` has them: numbers with a unit of s, m, h or d, separated by spaces.
    pub fn parse(text: &str) -> Result<Self, String> {
        let delays = text.split_whitespace().map(delay_ms).collect::<Result<Vec<_>, _>>()?;
        if delays.is_empty() || delays.len() > LEVELS_MAX as usize {
            return Err(format!("{} delay levels: there can be 1 to {LEVELS_MAX}", delays.len()));
        }
        Ok(Self { text: text.to_owned(), delays })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        // At most LEVELS_MAX.
        self.delays.len() as u32
    }

    /// How long a message of a level waits, in ms. Levels past the last are as long as that one: messages of a table that
    /// was longer once are delivered all the same.
    pub fn delay_ms(&self, level: u32) -> i64 {
        let last = self.delays.len() - 1;
        self.delays[(level.saturating_sub(1) as usize).min(last)]
    }
}

impl std::fmt::Display for DelayLevels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn delay_ms(level: &str) -> Result<i64, String> {
    let wrong = || format!("the delay level {level:?} is not a number of s, m, h or d, like 30s");
    let number = level.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds = match &level[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: i64 = number.parse().map_err(|_| wrong())?;
    count.checked_mul(seconds * 1000).ok_or_else(|| format!("the delay level {level:?} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_levels_are_those_of_rocketmq() {
        let levels = DelayLevels::default();
        assert_eq!(levels.count(), 18);
        let delay = |level| levels.delay_ms(level) / 1000;
        assert_eq!([1, 2, 5, 14, 17, 18].map(delay), [1, 5, 60, 600, 3600, 7200]);
        assert_eq!([0, 19, u32::MAX].map(delay), [1, 7200, 7200]);
        assert_eq!(DelayLevels::parse(" 2d\t0s ").unwrap().delays, [172_800_000, 0]);
    }

    #[test]
    fn what_is_no_list_of_levels_is_refused() {
        for (text, why) in [
            ("", "0 delay levels"),
            ("1s s", "\"s\" is not"),
            ("1s 5", "\"5\" is not"),
            ("1s,5s", "is not"),
            ("-1s", "is not"),
            ("+1s", "is not"),
            ("1ms", "is not"),
            ("1é", "is not"),
            ("99999999999999999999s", "is not"),
            ("9999999999999999d", "too long"),
        ] {
            let error = DelayLevels::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(DelayLevels::parse(&"1s ".repeat(64)).is_ok());
        assert!(DelayLevels::parse(&"1s ".repeat(65)).unwrap_err().contains("65"));
    }
}
