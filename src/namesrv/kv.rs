//! Settings that administrators keep at a name server: values by namespace and key, in memory.

use std::collections::BTreeMap;

/// The namespace of orders of queues, by topic; see [`raftmq_remoting::body::TopicRouteData::order_topic_conf`].
pub(crate) const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";
/// Keys in all namespaces.
const KEYS_MAX: usize = 10_000;
/// Bytes of a namespace, a key and its value together.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// Values by namespace and key.
#[derive(Debug, Default)]
pub(crate) struct KvConfig {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl KvConfig {
    /// Sets a value; says what is wrong if it does not fit.
    pub(crate) fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), String> {
        let bytes = namespace.len() + key.len() + value.len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(format!("an entry of {bytes} bytes is over the limit of {ENTRY_BYTES_MAX}"));
        }
        let keys: usize = self.namespaces.values().map(BTreeMap::len).sum();
        if self.get(namespace, key).is_none() && keys >= KEYS_MAX {
            return Err(format!("no room for another key: {KEYS_MAX} are the limit"));
        }
        self.namespaces.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.get(key).map(String::as_str)
    }

    pub(crate) fn delete(&mut self, namespace: &str, key: &str) {
        if let Some(entries) = self.namespaces.get_mut(namespace) {
            entries.remove(key);
            if entries.is_empty() {
                self.namespaces.remove(namespace);
            }
        }
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_replaced_and_deleted_within_bounds() {
        let mut kv = KvConfig::default();
        kv.put("n", "k", "1").unwrap();
        kv.put("n", "k", "2").unwrap();
        assert_eq!((kv.get("n", "k"), kv.get("n", "x"), kv.get("x", "k")), (Some("2"), None, None));
        for n in 1..KEYS_MAX {
            kv.put("n", &n.to_string(), "").unwrap();
        }
        assert!(kv.put("m", "one more", "").unwrap_err().contains("limit"));
        kv.put("n", "k", "3").unwrap();
        assert!(kv.put("n", "k", &"x".repeat(ENTRY_BYTES_MAX)).unwrap_err().contains("limit"));
        kv.put("n", "k", "4").unwrap();
        kv.delete("n", "1");
        kv.put("m", "k", "").unwrap();
        kv.delete("m", "k");
        assert_eq!(kv.namespace("m"), None);
    }
}
