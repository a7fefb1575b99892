//! Cases with the Java broker's answers, kept in a file, so that tests can compare without it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cases::{Case, Role};
use crate::catalog::Catalog;
use crate::compare::{Accepted, Difference, is_ill, judge_normalised};
use crate::normal::normalise;
use crate::run::{Runner, each, lock};
use crate::script::Names;
use crate::session::Asked;

/// Of a request and a state together every so many are recorded.
const STATES_APART: usize = 6;
/// Which of a field's values is recorded.
const VALUE: usize = 16;
/// Sequences that are recorded.
pub const SEQUENCES: u64 = 60;

/// A case and what the Java brokers answer.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The probe that it is about.
    pub id: String,
    /// The steps up to and with it.
    pub script: String,
    /// The reads behind it.
    pub reads: String,
    /// Normalised answers by request, those of the cleanup left out; one for each Java broker unless they agree.
    pub answers: Vec<Vec<Value>>,
}

impl Recorded {
    /// Keeps a case that has one probe, or is a sequence. The first target is not the Java broker's.
    pub fn of(case: &Case, asked: &[Asked], names: &Names) -> Self {
        let answers = compared(asked).map(|asked| {
            let java = asked.answers.iter().skip(1).map(|answer| normalise(asked.ask.code, answer, names));
            let mut java: Vec<_> = java.collect();
            java.dedup();
            java
        });
        Self {
            id: case.id.clone(),
            script: case.script(|_| true),
            reads: case.reads.clone(),
            answers: answers.collect(),
        }
    }

    /// The case as it can be run.
    pub fn case(&self, catalog: &Catalog) -> Result<Case> {
        let reads = self.reads.clone();
        Ok(Case { reads, ..Case::from_script(catalog, &self.id, &self.script)? })
    }

    /// How the first target's answers to the case differ from what is recorded, accepted differences left out, and what any
    /// Java broker has the same.
    pub fn differences(
        &self,
        case: &Case,
        asked: &[Asked],
        names: &Names,
        accepted: &[Accepted],
    ) -> Vec<Difference> {
        let answered = compared(asked).zip(&self.answers).filter_map(|(asked, java)| {
            let ours = normalise(asked.ask.code, asked.answers.first()?, names);
            Some((asked, std::iter::once(ours).chain(java.iter().cloned()).collect()))
        });
        judge_normalised(case, answered, accepted).faults
    }
}

fn compared(asked: &[Asked]) -> impl Iterator<Item = &Asked> {
    asked.iter().filter(|asked| asked.role != Role::Cleanup)
}

/// What was found once, one value of each field and member, and some of the requests in some of the states.
pub fn chosen(cases: Vec<Case>) -> Vec<Case> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut states = 0;
    let mut chosen = Vec::new();
    for case in cases {
        if case.id.starts_with("found/") {
            chosen.push(case);
            continue;
        }
        for probe in &case.probes {
            let count = seen.entry(probe.about.clone()).or_default();
            *count += 1;
            let in_state = probe.id.starts_with("state/");
            states += usize::from(in_state && *count == 1);
            let is_chosen = match in_state {
                true => *count == 1 && states.is_multiple_of(STATES_APART),
                false => *count == VALUE,
            };
            if is_chosen {
                let (id, probes) = (probe.id.clone(), vec![probe.clone()]);
                chosen.push(Case { id, probes, ..case.clone() });
            }
        }
    }
    chosen
}

/// Records cases, those left out that cannot be carried out, or are answered otherwise the second time.
pub fn record(runner: &Runner<'_>, cases: &[Case], workers: usize) -> Vec<Recorded> {
    let once = |case: &Case| {
        let (names, asked) = runner.run(case, 2).ok()?;
        Some(Recorded::of(case, &asked, &names)).filter(|_| !is_ill(&asked))
    };
    let records = Mutex::new(BTreeMap::new());
    each(workers, cases.len(), |at| {
        let (first, second) = (once(&cases[at]), once(&cases[at]));
        if let Some(record) =
            first.filter(|first| second.is_some_and(|second| second.answers == first.answers))
        {
            lock(&records).insert(at, record);
        }
    });
    std::mem::take(&mut *lock(&records)).into_values().collect()
}

/// A record as it is kept: what many have in common is kept once, and named here by its number.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    script: String,
    reads: usize,
    answers: Vec<Vec<usize>>,
}

/// Writes records, one a line behind two lines with what they have in common: reads, and answers.
pub fn to_text(records: &[Recorded]) -> Result<String> {
    let (mut reads, mut answers, mut lines) = (Numbered::default(), Numbered::default(), Vec::new());
    for record in records {
        let kept = Kept {
            id: record.id.clone(),
            script: record.script.clone(),
            reads: reads.number(record.reads.clone()),
            answers: record
                .answers
                .iter()
                .map(|java| java.iter().map(|answer| answers.number(answer.to_string())).collect())
                .collect(),
        };
        lines.push(serde_json::to_string(&kept).context("write a record")?);
    }
    let answers = answers.all.join(",");
    let reads = serde_json::to_string(&reads.all).context("write reads")?;
    Ok(format!("{reads}\n[{answers}]\n{}\n", lines.join("\n")))
}

/// Texts in the order in which they were first met.
#[derive(Default)]
struct Numbered {
    all: Vec<String>,
    numbers: BTreeMap<String, usize>,
}

impl Numbered {
    fn number(&mut self, text: String) -> usize {
        let all = &mut self.all;
        *self.numbers.entry(text).or_insert_with_key(|text| {
            all.push(text.clone());
            all.len() - 1
        })
    }
}

/// Reads what [`to_text`] wrote.
pub fn from_text(text: &str) -> Result<Vec<Recorded>> {
    let mut lines = text.lines();
    let mut head = || lines.next().context("two lines are wanted before the records");
    let reads: Vec<String> = serde_json::from_str(head()?).context("reads")?;
    let answers: Vec<Value> = serde_json::from_str(head()?).context("answers")?;
    let record = |line: &str| -> Result<Recorded> {
        let kept: Kept = serde_json::from_str(line)?;
        let answer =
            |number: &usize| answers.get(*number).cloned().with_context(|| format!("no answer {number}"));
        let of_request = |java: &Vec<usize>| java.iter().map(answer).collect::<Result<Vec<_>>>();
        Ok(Recorded {
            id: kept.id,
            script: kept.script,
            reads: reads.get(kept.reads).cloned().with_context(|| format!("no reads {}", kept.reads))?,
            answers: kept.answers.iter().map(of_request).collect::<Result<_>>()?,
        })
    };
    lines.map(|line| record(line).with_context(|| format!("record {line:.80}"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let answers = vec![vec![json!({"code": 0})], vec![json!({"code": 1}), json!({"code": 0})]];
        let record = Recorded { id: "a".into(), script: "17\n215".into(), reads: "351".into(), answers };
        let read = from_text(&to_text(&[record.clone(), record.clone()]).unwrap()).unwrap();
        assert_eq!((read.len(), &read[1].script, &read[1].answers), (2, &record.script, &record.answers));
    }
}
