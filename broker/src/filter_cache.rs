//! Filters of pulls that bring their expression along, kept so that it is not read again with each of them.

use raftmq_world::hash::HashMap;

use parking_lot::Mutex;

use crate::filter::{Filter, FilterError};
use crate::limits::{FILTER_BYTES_KEPT, FILTERS_KEPT};

/// Keeps what was used lately: once the younger generation is full, the older one is forgotten and it takes its place.
#[derive(Default)]
pub struct FilterCache {
    generations: Mutex<[Generation; 2]>,
}

#[derive(Default)]
struct Generation {
    /// By type, then expression.
    filters: HashMap<String, HashMap<String, Filter>>,
    len: usize,
    bytes: usize,
}

impl Generation {
    fn get(&self, expression_type: &str, expression: &str) -> Option<&Filter> {
        self.filters.get(expression_type)?.get(expression)
    }
}

impl FilterCache {
    /// What [`Filter::parse`] gives.
    pub fn parse(&self, expression: &str, expression_type: Option<&str>) -> Result<Filter, FilterError> {
        let key = expression_type.unwrap_or_default();
        {
            let mut generations = self.generations.lock();
            if let Some(filter) = generations[0].get(key, expression) {
                return Ok(filter.clone());
            }
            if let Some(filter) = generations[1].get(key, expression).cloned() {
                keep(&mut generations, key, expression, &filter);
                return Ok(filter);
            }
        }
        let filter = Filter::parse(expression, expression_type)?;
        if filter != Filter::All {
            keep(&mut self.generations.lock(), key, expression, &filter);
        }
        Ok(filter)
    }
}

fn keep(generations: &mut [Generation; 2], key: &str, expression: &str, filter: &Filter) {
    let [young, old] = generations;
    if young.len >= FILTERS_KEPT || young.bytes + expression.len() > FILTER_BYTES_KEPT {
        *old = std::mem::take(young);
    }
    let replaced =
        young.filters.entry(key.to_owned()).or_default().insert(expression.to_owned(), filter.clone());
    if replaced.is_none() {
        young.len += 1;
        young.bytes += expression.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl FilterCache {
        /// Whether an expression of tags is kept, and in all how many.
        fn knows(&self, expression: &str) -> (bool, usize) {
            let generations = self.generations.lock();
            let kept = generations.iter().any(|generation| generation.get("", expression).is_some());
            (kept, generations.iter().map(|generation| generation.len).sum())
        }
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let cache = FilterCache::default();
        let used = cache.parse("used", None);
        assert_eq!(used, Filter::parse("used", None));
        for n in 0..10 * FILTERS_KEPT {
            cache.parse(&format!("tag{n}"), None).unwrap();
            if n % 100 == 0 {
                assert_eq!(cache.parse("used", None), used);
            }
        }
        let (kept, count) = cache.knows("used");
        assert!(kept && count <= 2 * FILTERS_KEPT, "{count}");
        assert!(!cache.knows("tag0").0);
    }

    #[test]
    fn long_expressions_take_no_more_than_their_bytes_and_bad_ones_nothing() {
        let cache = FilterCache::default();
        for n in 0..100 {
            cache.parse(&format!("{n}{}", "x".repeat(16_000)), None).unwrap();
        }
        let bytes: usize = cache.generations.lock().iter().map(|generation| generation.bytes).sum();
        assert!(bytes <= 2 * FILTER_BYTES_KEPT, "{bytes}");
        for bad in ["||", &"x".repeat(1 << 20)] {
            assert!(cache.parse(bad, None).is_err());
            assert!(!cache.knows(bad).0);
        }
        assert_eq!(cache.parse("*", None), Ok(Filter::All));
        assert!(!cache.knows("*").0);
    }
}
