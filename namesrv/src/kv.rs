//! Settings that administrators keep at a name server: values by namespace and key, in memory.

use std::collections::BTreeMap;

/// The namespace of orders of queues, by topic; see [`raftmq_remoting::body::TopicRouteData::order_topic_conf`].
pub(crate) const ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";
/// Keys in all namespaces.
const KEYS_MAX: usize = 10_000;
/// Bytes of all namespaces, keys and values together, as JSON. Every registration is answered with a namespace, in a frame.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a namespace, a key and its value together, as JSON.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// Values by namespace and key.
#[derive(Debug, Default)]
pub(crate) struct KvConfig {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Of all entries, each with its namespace.
    bytes: usize,
}

impl KvConfig {
    /// Sets a value; says what is wrong if it does not fit.
    pub(crate) fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), String> {
        let bytes = json_len(namespace) + json_len(key) + json_len(value);
        if bytes > ENTRY_BYTES_MAX {
            return Err(format!("an entry of {bytes} bytes is over the limit of {ENTRY_BYTES_MAX}"));
        }
        let keys: usize = self.namespaces.values().map(BTreeMap::len).sum();
        if self.get(namespace, key).is_none() && keys >= KEYS_MAX {
            return Err(format!("no room for another key: {KEYS_MAX} are the limit"));
        }
        let others = self.bytes - self.entry_bytes(namespace, key);
        if others + bytes > BYTES_MAX {
            return Err(format!("no room for {bytes} bytes: {BYTES_MAX} in all are the limit"));
        }
        self.bytes = others + bytes;
        self.namespaces.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.get(key).map(String::as_str)
    }

    /// What an entry takes; 0 if there is none.
    fn entry_bytes(&self, namespace: &str, key: &str) -> usize {
        self.get(namespace, key).map_or(0, |value| json_len(namespace) + json_len(key) + json_len(value))
    }

    pub(crate) fn delete(&mut self, namespace: &str, key: &str) {
        self.bytes -= self.entry_bytes(namespace, key);
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

/// Bytes of a text as answers carry it.
fn json_len(text: &str) -> usize {
    let len = |byte| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(len).sum()
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
        assert!(kv.put("n", "k", &"\u{1}".repeat(ENTRY_BYTES_MAX / 6 + 1)).unwrap_err().contains("limit"));
        kv.put("n", "k", "4").unwrap();
        kv.delete("n", "1");
        kv.put("m", "k", "").unwrap();
        kv.delete("m", "k");
        assert_eq!(kv.namespace("m"), None);
    }

    #[test]
    fn all_entries_together_are_bounded() {
        let mut kv = KvConfig::default();
        let value = "x".repeat(ENTRY_BYTES_MAX - 4);
        for n in 0..BYTES_MAX / ENTRY_BYTES_MAX {
            kv.put("n", &format!("{n:03}"), &value).unwrap();
        }
        assert!(kv.put("n", "", "").unwrap_err().contains("limit"));
        kv.put("n", "007", &value).unwrap();
        kv.delete("n", "007");
        kv.delete("n", "007");
        kv.put("n", "", "").unwrap();
        for n in 0..BYTES_MAX / ENTRY_BYTES_MAX {
            kv.delete("n", &format!("{n:03}"));
        }
        kv.delete("n", "");
        assert_eq!(kv.bytes, 0);
    }
}
