//! Something for each queue of each consumer group.

use std::collections::BTreeMap;
use std::sync::Arc;

use raftmq_world::hash::HashMap;

/// By group, then topic, then queue. A clone shares every group's part until one of the two changes it.
#[derive(Clone, Debug)]
pub(crate) struct ByQueue<V>(HashMap<String, Arc<Topics<V>>>);

/// The same of one group.
type Topics<V> = HashMap<String, BTreeMap<u32, V>>;

impl<V> Default for ByQueue<V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<V: Clone> ByQueue<V> {
    pub(crate) fn get(&self, group: &str, topic: &str, queue_id: u32) -> Option<&V> {
        self.0.get(group)?.get(topic)?.get(&queue_id)
    }

    /// Allocates names only where they are new.
    pub(crate) fn insert(&mut self, group: &str, topic: &str, queue_id: u32, value: V) {
        if !self.0.contains_key(group) {
            self.0.insert(group.to_owned(), Arc::default());
        }
        let topics = Arc::make_mut(self.0.get_mut(group).expect("inserted above"));
        match topics.get_mut(topic) {
            Some(queues) => drop(queues.insert(queue_id, value)),
            None => drop(topics.insert(topic.to_owned(), [(queue_id, value)].into())),
        }
    }

    /// Removes a queue's value if it is meant, and with it what holds nothing more.
    pub(crate) fn remove_if(
        &mut self,
        group: &str,
        topic: &str,
        queue_id: u32,
        is_meant: impl FnOnce(&V) -> bool,
    ) {
        let Some(shared) = self.0.get_mut(group) else { return };
        let found = shared.get(topic).and_then(|queues| queues.get(&queue_id));
        if !found.is_some_and(is_meant) {
            return;
        }
        let topics = Arc::make_mut(shared);
        if let Some(queues) = topics.get_mut(topic) {
            queues.remove(&queue_id);
            if queues.is_empty() {
                topics.remove(topic);
            }
        }
        if topics.is_empty() {
            self.0.remove(group);
        }
    }

    pub(crate) fn remove_topic(&mut self, topic: &str) {
        self.0.retain(|_, topics| {
            if topics.contains_key(topic) {
                Arc::make_mut(topics).remove(topic);
            }
            !topics.is_empty()
        });
    }

    pub(crate) fn remove_group(&mut self, group: &str) {
        self.0.remove(group);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().flat_map(|topics| topics.values()).map(BTreeMap::len).sum()
    }

    /// Groups that have something for a topic.
    pub(crate) fn groups_with(&self, topic: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(_, topics)| topics.contains_key(topic)).map(|(group, _)| group.as_str())
    }

    /// All of a group: topic, queue, value; sorted.
    pub(crate) fn of_group(&self, group: &str) -> Vec<(&str, u32, &V)> {
        self.0.get(group).map(|topics| sorted(topics)).unwrap_or_default()
    }

    /// All of them: group, topic, queue, value; sorted.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, u32, &V)> {
        let mut groups: Vec<_> = self.0.iter().collect();
        groups.sort_by_key(|(group, _)| *group);
        groups.into_iter().flat_map(|(group, topics)| {
            sorted(topics).into_iter().map(|(topic, queue, value)| (group.as_str(), topic, queue, value))
        })
    }
}

fn sorted<V>(topics: &Topics<V>) -> Vec<(&str, u32, &V)> {
    let mut topics: Vec<_> = topics.iter().collect();
    topics.sort_by_key(|(topic, _)| *topic);
    let queues = topics.into_iter().flat_map(|(topic, queues)| {
        queues.iter().map(|(queue_id, value)| (topic.as_str(), *queue_id, value))
    });
    queues.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_of_its_moment_and_nothing_empty_is_kept() {
        let mut offsets = ByQueue::default();
        for (group, topic, queue) in [("h", "t", 1), ("g", "u", 0), ("g", "t", 2), ("g", "t", 1)] {
            offsets.insert(group, topic, queue, queue * 10);
        }
        let before = offsets.clone();
        offsets.insert("g", "t", 1, 11);
        offsets.remove_if("g", "u", 0, |value| *value == 1);
        offsets.remove_if("h", "t", 1, |value| *value == 10);
        let all =
            |of: &ByQueue<u32>| of.all().map(|(g, t, q, v)| format!("{g} {t} {q} {v}")).collect::<Vec<_>>();
        assert_eq!(all(&before), ["g t 1 10", "g t 2 20", "g u 0 0", "h t 1 10"]);
        assert_eq!(all(&offsets), ["g t 1 11", "g t 2 20", "g u 0 0"]);
        assert_eq!((offsets.len(), offsets.of_group("h").len(), offsets.0.len()), (3, 0, 1));
        assert_eq!(before.groups_with("t").count(), 2);
        offsets.remove_topic("t");
        assert_eq!(all(&offsets), ["g u 0 0"]);
        offsets.remove_topic("u");
        assert!(offsets.0.is_empty());
    }
}
