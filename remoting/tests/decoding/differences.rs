//! Where ours is not Java's, and why.

use serde_json::Value;

use crate::Case;
use crate::outcome::Outcome;

/// A reason, and which cases it is for. The first that fits counts.
type Difference = (&'static str, fn(&Case<'_>) -> bool);

const KNOWN: &[Difference] = &[
    (
        "numbers are written in ASCII digits; no client writes others, and Java 5.4's own bodies refuse them",
        |case| case.is_refused() && case.input.contains(['\u{665}', '\u{ff15}']),
    ),
    (
        "a field that is no number is refused by name; Java logs it and works with 0 or null: queue 0, offset 0",
        |case| {
            case.is_refused()
                && case.place.starts_with("field ")
                && case.input != "(absent)"
                && case.java_took(|java| java.is_null() || *java == 0 || *java == -1)
        },
    ),
    ("a reset without a time is refused; Java goes back to 1970, which is the first message", |case| {
        case.is_refused() && case.is("field ResetOffsetRequestHeader timestamp", "(absent)")
    }),
    ("asking one consumer needs its client id; Java finds that null is not connected", |case| {
        case.is_refused() && case.is("field ConsumeMessageDirectlyResultRequestHeader clientId", "(absent)")
    }),
    ("what is mandatory in Java and not needed may be absent", |case| {
        case.is("field CreateTopicRequestHeader defaultTopic", "(absent)")
            || case.is("field RegisterBrokerRequestHeader haServerAddr", "(absent)")
    }),
    (
        "`committed` is read and not looked at: the answer is always the committed offset, Java's default",
        |case| case.is("field GetMaxOffsetRequestHeader committed", "(absent)"),
    ),
    (
        "a header's name for a language or an enumeration that nobody knows is OTHER, as nothing depends on it",
        |case| {
            case.place.ends_with("language") && case.is_text(|_| true)
                || case.place == "bytes RocketMq" && case.has_unknown_language()
        },
    ),
    ("enumerations that are only shown or passed on are kept as text", |case| {
        case.place.ends_with("consumeResult") || case.place.ends_with("groupRetryPolicy/type")
    }),
    ("numbers out of range are refused; Java 5.4 takes the nearest or what is left of the bits", |case| {
        let number = case.input.trim_matches(['[', ']', '"']);
        case.is_refused() && number.parse().is_ok_and(|number: f64| number.abs() > f64::from(i32::MAX))
    }),
    ("an object or a list is no number", |case| {
        case.place != "shape"
            && case.is_refused()
            && case.input.starts_with(['{', '['])
            && case.java_took(is_of_numbers)
    }),
    ("a list with one object is not that object", |case| {
        case.is_refused() && case.input.starts_with("[{") && case.java_took(Value::is_object)
    }),
    ("`@type` is a name like any other; nothing here makes classes of texts", |case| {
        case.input.contains("@type")
    }),
    (
        "numbers, words and objects without quotes are names in every object, for Java 4.9 only in some",
        |case| {
            ["{1:", "{a:", "{{", ",1:", ",{", ",-1:", ",1.5:"].iter().any(|mark| case.input.contains(mark))
        },
    ),
    ("commas too many do no harm, as in Java 4.9", |case| {
        case.input.contains("[,") || case.input.contains("{,")
    }),
    (
        "null is as good as absent; Java 5.4 makes 0 of some defaults, and keeps null members of texts and maps",
        |case| case.input == "null" && case.ours == case.absent || case.input == r#"{"a":null}"#,
    ),
    ("null in a list is left out, as nobody could use it", |case| case.input == "[null]"),
    ("a value alone is a list of one, for Java 5.4 only of some types", |case| {
        let is_one = |ours: &Value| ours.as_array().is_some_and(|all| all.len() == 1);
        match &case.ours {
            Outcome::Value(Value::Object(members)) => members.values().all(is_one),
            Outcome::Value(ours) => !case.input.starts_with('[') && is_one(ours),
            Outcome::Refused => false,
        }
    }),
    ("no text or an empty list is an object without members, which is how PHP writes one", |case| {
        matches!(case.input, "[]" | r#""""#) && matches!(case.ours, Outcome::Value(Value::Object(_)))
    }),
    ("a queue without a broker's name has an empty one", |case| {
        case.input.starts_with(r#"{"{\"topic\""#) && !case.is_refused()
    }),
    ("an empty remark is none", |case| case.is("header remark", r#""""#)),
    ("a number may begin with its point, as in Java 5.4", |case| case.input == ".5"),
    (
        "text of a number or a boolean is read alike wherever one is expected, as either version does somewhere",
        |case| {
            const TEXTS: [&str; 13] =
                ["", " 5", "null", "NULL", "1,000", "T", "F", "true", "false", "5.0", "5.9", "1e3", "5 "];
            !case.is_refused() && TEXTS.contains(&case.input.trim_matches('"'))
        },
    ),
    ("only 1 is true of numbers, as in Java 4.9", |case| {
        matches!(case.input, "-1" | "+5") && case.ours == Outcome::Value(Value::from(false))
    }),
    ("a number where text belongs stays as it is written", |case| case.is_text(|text| text == case.input)),
    ("undefined and NaN are null wherever a value may be, which Java 4.9 has for some types", |case| {
        matches!(case.input, "undefined" | "NaN")
    }),
    ("a minus is no number", |case| case.is_refused() && case.input == "-"),
    (
        "bytes behind a binary header's fields, or a negative length, are refused; Java takes them for the body",
        |case| case.is_refused() && case.place == "bytes RocketMq",
    ),
    ("sets, dates and bytes in fastjson's own notation are refused; no client writes them", |case| {
        case.is_refused() && ["Set[", "new Date", "x'", ";"].iter().any(|mark| case.input.contains(mark))
    }),
    ("an escape that is no number is refused; Java 5.4 makes some character of it", |case| {
        case.is_refused() && case.input.contains("\\u12G4")
    }),
];

/// Whether there are numbers and nulls in it alone.
fn is_of_numbers(java: &Value) -> bool {
    match java {
        Value::Array(elements) => elements.iter().all(is_of_numbers),
        Value::Object(members) => members.values().all(is_of_numbers),
        other => other.is_number() || other.is_null(),
    }
}

impl Case<'_> {
    fn is(&self, place: &str, input: &str) -> bool {
        self.place == place && self.input == input
    }

    fn is_refused(&self) -> bool {
        self.ours == Outcome::Refused
    }

    /// Whether every version that took the input made such a value of it.
    fn java_took(&self, such: impl Fn(&Value) -> bool) -> bool {
        self.java.iter().all(|java| match java {
            Outcome::Value(value) => such(value),
            Outcome::Refused => true,
        })
    }

    /// Whether ours is such a text, alone or as the one field of a header or element of a list.
    fn is_text(&self, such: impl Fn(&str) -> bool) -> bool {
        match &self.ours {
            Outcome::Value(Value::Object(fields)) => fields.get("k"),
            Outcome::Value(Value::Array(elements)) => elements.first(),
            Outcome::Value(value) => Some(value),
            Outcome::Refused => None,
        }
        .and_then(Value::as_str)
        .is_some_and(such)
    }

    fn has_unknown_language(&self) -> bool {
        matches!(&self.ours, Outcome::Value(header) if header["language"] == "OTHER")
    }
}

/// Checks cases one by one and tells of all at the end.
pub(crate) struct Differences {
    used: [bool; KNOWN.len()],
    unexplained: Vec<String>,
    cases: usize,
}

impl Differences {
    pub(crate) fn new() -> Self {
        Self { used: [false; KNOWN.len()], unexplained: Vec::new(), cases: 0 }
    }

    pub(crate) fn check(&mut self, case: Case<'_>) {
        self.cases += 1;
        let accepted = case.java.iter().any(|java| *java != Outcome::Refused);
        let mut same = case.java.iter().filter(|java| !accepted || **java != Outcome::Refused);
        if same.any(|java| case.ours.is(java, &case.absent)) {
            return;
        }
        match KNOWN.iter().position(|(_, fits)| fits(&case)) {
            Some(at) => self.used[at] = true,
            None => self.unexplained.push(format!("{case:?}")),
        }
    }

    /// Panics where a case has no reason, or a reason no case.
    pub(crate) fn finish(self) {
        let Self { used, unexplained, cases } = self;
        assert!(
            unexplained.is_empty(),
            "{} of {cases} cases:\n{}",
            unexplained.len(),
            unexplained.join("\n")
        );
        let idle = KNOWN.iter().zip(used).filter(|(_, used)| !used).map(|((reason, _), _)| *reason);
        assert_eq!(idle.collect::<Vec<_>>(), [""; 0], "reasons without a case");
        assert!(cases > 40_000, "{cases} cases: the record is cut off");
    }
}
