//! Attributes of topics and groups: which there are, the values they take, and how a request changes them.
//!
//! Keys, values and checks are RocketMQ 5.4.0's. What it knows and this broker cannot do is refused by name, rather than
//! kept as if it had an effect.

use std::collections::{BTreeMap, BTreeSet};

use crate::reply::Refusal;

/// Attributes by name; in a request, each name has a sign in front: + sets it, - removes it.
pub(crate) type Attributes = BTreeMap<String, String>;

/// An attribute that RocketMQ knows.
pub(crate) struct Attribute {
    name: &'static str,
    /// Whether it can change once there is a topic, or a group, without it or with another value.
    changeable: bool,
    values: Values,
}

enum Values {
    /// Words: those that mean something here, and those that only RocketMQ can do.
    Words { built: &'static [&'static str], absent: &'static [&'static str] },
    /// A number from `min` to `max`, of which only one value means something here.
    Number { min: i64, max: i64, built: &'static str },
}

/// Those of topics.
pub(crate) const OF_TOPICS: &[Attribute] = &[
    Attribute {
        name: "message.type",
        changeable: true,
        values: Values::Words {
            built: &["UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION"],
            // Brokers of RocketMQ take MIXED only where they are told to.
            absent: &["PRIORITY", "MIXED"],
        },
    },
    Attribute {
        name: "queue.type",
        changeable: false,
        values: Values::Words { built: &["SimpleCQ"], absent: &["BatchCQ"] },
    },
    Attribute {
        name: "cleanup.policy",
        changeable: false,
        values: Values::Words { built: &["DELETE"], absent: &["COMPACTION"] },
    },
    Attribute {
        name: "reserve.time",
        changeable: true,
        values: Values::Number { min: -1, max: i64::MAX, built: "-1" },
    },
];

/// Those of subscription groups.
pub(crate) const OF_GROUPS: &[Attribute] = &[Attribute {
    name: "priority.factor",
    changeable: true,
    values: Values::Number { min: 0, max: 100, built: "100" },
}];

/// Reads `+key=value,-key`, the form in which request 17 carries changes, into changes by signed name.
pub(crate) fn parse(text: &str) -> Result<Attributes, Refusal> {
    let mut changes = Attributes::new();
    let listed = text.trim_end_matches(',');
    for change in listed.split(',').filter(|_| !listed.is_empty()) {
        let (name, value) = match change.split_once('=') {
            // What follows a second sign is passed over, as Java's parser does.
            Some((name, rest)) if name.starts_with('+') => (name, rest.split('=').next().unwrap_or_default()),
            None if change.starts_with('-') => (change, ""),
            _ => return Err(Refusal::error(format!("attribute {change:?} is neither +key=value nor -key"))),
        };
        if changes.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Refusal::error(format!("key duplication: {name}")));
        }
    }
    Ok(changes)
}

/// What becomes of attributes by changes of signed names. What is new (`before` is none) can only get some.
pub(crate) fn alter(
    known: &[Attribute],
    before: Option<&Attributes>,
    changes: &Attributes,
) -> Result<Attributes, Refusal> {
    let mut after = before.cloned().unwrap_or_default();
    let mut named = BTreeSet::new();
    for (signed, value) in changes {
        let name = signed.strip_prefix(['+', '-']).unwrap_or_default();
        if name.is_empty() || name.contains(['+', '-']) {
            return Err(Refusal::error(format!("attribute {signed:?} is neither +key nor -key")));
        }
        if !named.insert(name) {
            return Err(Refusal::error(format!("alter duplication key. key: {name}")));
        }
        let attribute = known.iter().find(|attribute| attribute.name == name);
        if signed.starts_with('+') {
            let attribute = attribute.ok_or_else(|| Refusal::error(format!("unsupported key: {name}")))?;
            attribute.check_change(before.is_some())?;
            attribute.check_value(value)?;
            after.insert(name.to_owned(), value.clone());
        } else {
            remove(&mut after, name, before.is_some())?;
            // One that is not known may have been kept when nothing was checked.
            attribute.map_or(Ok(()), |attribute| attribute.check_change(true))?;
        }
    }
    Ok(after)
}

fn remove(attributes: &mut Attributes, name: &str, exists: bool) -> Result<(), Refusal> {
    if !exists {
        let remark = format!("only add attribute is supported while creating topic. key: {name}");
        return Err(Refusal::error(remark));
    }
    match attributes.remove(name) {
        Some(_) => Ok(()),
        None => Err(Refusal::error(format!("attempt to delete a nonexistent key: {name}"))),
    }
}

impl Attribute {
    fn check_change(&self, exists: bool) -> Result<(), Refusal> {
        if exists && !self.changeable {
            let remark = format!("attempt to update an unchangeable attribute. key: {}", self.name);
            return Err(Refusal::error(remark));
        }
        Ok(())
    }

    /// Whether the value is one that RocketMQ takes, and one that this broker can do.
    fn check_value(&self, value: &str) -> Result<(), Refusal> {
        match self.values {
            Values::Words { built, .. } if built.contains(&value) => Ok(()),
            Values::Words { built, absent } if absent.contains(&value) => Err(self.not_built(value, built)),
            Values::Words { built, .. } => {
                let remark = format!("attribute {}: value {value:?} is not in set: {built:?}", self.name);
                Err(Refusal::error(remark))
            }
            Values::Number { built, .. } if built == value => Ok(()),
            Values::Number { min, max, built } => {
                match value.parse::<i64>().ok().filter(|number| (min..=max).contains(number)) {
                    Some(_) => Err(self.not_built(value, &[built])),
                    None => {
                        let name = self.name;
                        let remark = format!("attribute {name}: {value:?} is not in range({min}, {max})");
                        Err(Refusal::error(remark))
                    }
                }
            }
        }
    }

    fn not_built(&self, value: &str, built: &[&str]) -> Refusal {
        let (name, built) = (self.name, built.join(", "));
        Refusal::illegal(format!("attribute {name}: {value} is not supported by this broker, only {built}"))
    }
}

#[cfg(test)]
mod tests {
    use raftmq_remoting::codes::response::{INVALID_PARAMETER, SYSTEM_ERROR};

    use super::*;

    fn changed(known: &[Attribute], before: Option<&[(&str, &str)]>, text: &str) -> Result<Attributes, i32> {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let before: Option<Attributes> = before.map(of);
        parse(text)
            .and_then(|changes| alter(known, before.as_ref(), &changes))
            .map_err(|refusal| refusal.code)
    }

    fn of_new_topic(text: &str) -> Result<Vec<String>, i32> {
        let attributes = changed(OF_TOPICS, None, text)?;
        Ok(attributes.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
    }

    /// Each with the code that a broker of RocketMQ 5.4.0 answers.
    #[test]
    fn a_new_topic_gets_what_rocketmq_gives_it() {
        for (text, taken) in [
            ("", Ok(vec![])),
            (",", Ok(vec![])),
            ("+message.type=FIFO", Ok(vec!["message.type=FIFO".to_owned()])),
            ("+message.type=FIFO,,", Ok(vec!["message.type=FIFO".to_owned()])),
            ("+message.type=FIFO=x", Ok(vec!["message.type=FIFO".to_owned()])),
            ("+message.type=MIXED", Err(INVALID_PARAMETER)),
            ("+message.type=FOO", Err(SYSTEM_ERROR)),
            ("+message.type=fifo", Err(SYSTEM_ERROR)),
            ("+message.type=", Err(SYSTEM_ERROR)),
            ("+message.type==FIFO", Err(SYSTEM_ERROR)),
            (" +message.type=FIFO", Err(SYSTEM_ERROR)),
            ("message.type=FIFO", Err(SYSTEM_ERROR)),
            ("-message.type", Err(SYSTEM_ERROR)),
            ("-message.type=FIFO", Err(SYSTEM_ERROR)),
            ("+message.type=DELAY,+message.type=FIFO", Err(SYSTEM_ERROR)),
            ("+message.type=DELAY,-message.type", Err(SYSTEM_ERROR)),
            ("+message.type=FIFO,,+queue.type=SimpleCQ", Err(SYSTEM_ERROR)),
            ("+foo=bar", Err(SYSTEM_ERROR)),
            ("+lite.topic.expiration=5", Err(SYSTEM_ERROR)),
            ("+reserve.time=-2", Err(SYSTEM_ERROR)),
            ("+reserve.time=x", Err(SYSTEM_ERROR)),
            ("=", Err(SYSTEM_ERROR)),
            ("+", Err(SYSTEM_ERROR)),
            ("-", Err(SYSTEM_ERROR)),
            ("+=x", Err(SYSTEM_ERROR)),
            ("++message.type=FIFO", Err(SYSTEM_ERROR)),
        ] {
            assert_eq!(of_new_topic(text), taken, "{text}");
        }
        for kind in ["UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION"] {
            assert!(of_new_topic(&format!("+message.type={kind}")).is_ok(), "{kind}");
        }
        let defaults = "+queue.type=SimpleCQ,+cleanup.policy=DELETE,+reserve.time=-1";
        assert_eq!(of_new_topic(defaults).map(|attributes| attributes.len()), Ok(3));
    }

    #[test]
    fn what_only_rocketmq_can_do_is_refused_by_name() {
        for (known, text) in [
            (OF_TOPICS, "+queue.type=BatchCQ"),
            (OF_TOPICS, "+cleanup.policy=COMPACTION"),
            (OF_TOPICS, "+message.type=PRIORITY"),
            (OF_TOPICS, "+reserve.time=3600"),
            (OF_GROUPS, "+priority.factor=50"),
        ] {
            let refusal = alter(known, None, &parse(text).unwrap()).unwrap_err();
            let (name, value) = text[1..].split_once('=').unwrap();
            assert_eq!(refusal.code, INVALID_PARAMETER, "{text}");
            assert!(refusal.remark.contains(name) && refusal.remark.contains(value), "{refusal:?}");
        }
        assert!(changed(OF_GROUPS, None, "+priority.factor=100").is_ok());
        assert_eq!(changed(OF_GROUPS, None, "+priority.factor=101"), Err(SYSTEM_ERROR));
    }

    #[test]
    fn a_topic_that_is_there_is_altered() {
        let fifo: &[_] = &[("message.type", "FIFO"), ("queue.type", "SimpleCQ"), ("kept", "before")];
        for (text, left) in [
            ("", Ok(3)),
            ("+message.type=DELAY", Ok(3)),
            ("-message.type", Ok(2)),
            ("-kept", Ok(2)),
            ("-cleanup.policy", Err(SYSTEM_ERROR)),
            ("-foo", Err(SYSTEM_ERROR)),
            ("-queue.type", Err(SYSTEM_ERROR)),
            ("+queue.type=SimpleCQ", Err(SYSTEM_ERROR)),
            ("+cleanup.policy=DELETE", Err(SYSTEM_ERROR)),
            ("+message.type=DELAY,-message.type", Err(SYSTEM_ERROR)),
        ] {
            let altered = changed(OF_TOPICS, Some(fifo), text).map(|attributes| attributes.len());
            assert_eq!(altered, left, "{text}");
        }
        let altered = changed(OF_TOPICS, Some(fifo), "+message.type=DELAY").unwrap();
        assert_eq!(altered["message.type"], "DELAY");
    }

    /// A group's come as a map, so names without a sign can come in.
    #[test]
    fn a_name_without_a_sign_is_refused() {
        for name in ["priority.factor", "", "+", "*priority.factor"] {
            let changes = [(name.to_owned(), "100".to_owned())].into();
            for before in [None, Some(&Attributes::new())] {
                assert_eq!(alter(OF_GROUPS, before, &changes).unwrap_err().code, SYSTEM_ERROR, "{name}");
            }
        }
    }
}
