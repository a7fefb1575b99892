//! What a run found, grouped: a line for each kind of difference, with one example that can be replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::cases::{Case, Role};
use crate::compare::{Accepted, Difference};

/// Probes named in a line besides the example.
const PROBES_NAMED: usize = 12;

/// Differences of one kind have this in common.
pub type Group = (String, Role, i64, String, String, String);

/// One kind of difference.
#[derive(Debug, Clone)]
pub struct Found {
    /// How often it was seen.
    pub count: usize,
    /// One of them.
    pub example: Difference,
    /// The case it is in.
    pub case: Case,
    /// Which probes showed it.
    pub probes: Vec<String>,
    /// Whether it was seen again when the case ran by itself.
    pub confirmed: bool,
}

/// All differences of a run, by kind.
#[derive(Debug, Default)]
pub struct Findings {
    /// By what they have in common.
    pub groups: BTreeMap<Group, Found>,
}

/// What a difference has in common with those of its kind. Numbers of queues and of members of lists make no kinds, nor do
/// values other than codes.
pub fn group(difference: &Difference) -> Group {
    let Difference { about, role, code, at, java, ours, .. } = difference.clone();
    let (java, ours) = if at == "code" { (java, ours) } else { (String::new(), String::new()) };
    (about, role, code, without_numbers(&at), java, ours)
}

fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            other => out.push(other),
        }
    }
    out
}

impl Findings {
    /// Adds a difference of a case.
    pub fn add(&mut self, case: &Case, difference: &Difference) {
        let found = self.groups.entry(group(difference)).or_insert_with(|| Found {
            count: 0,
            example: difference.clone(),
            case: case.clone(),
            probes: Vec::new(),
            confirmed: false,
        });
        found.count += 1;
        if found.probes.len() < PROBES_NAMED && !found.probes.contains(&difference.probe) {
            found.probes.push(difference.probe.clone());
        }
        if difference.case.len() < found.example.case.len() {
            (found.example, found.case) = (difference.clone(), case.clone());
        }
    }

    /// A line for each kind, in columns separated by tabs.
    pub fn tsv(&self) -> String {
        let mut out =
            "about\tpart\tcode\tat\tjava\tours\tother java\tcount\tseen again\texample\tprobes\tscript\trequest\n"
                .to_owned();
        for ((about, role, code, ..), found) in &self.groups {
            let Difference { at, java, ours, .. } = &found.example;
            let (others, example) = (found.example.others.join(","), &found.example.probe);
            let (count, again, probes) = (found.count, found.confirmed, found.probes.join(" , "));
            let role = format!("{role:?}").to_lowercase();
            let columns = [
                about,
                &role,
                &code.to_string(),
                at,
                java,
                ours,
                &others,
                &count.to_string(),
                &again.to_string(),
                example,
                &probes,
                &found.example.case,
                &found.example.request,
            ];
            let columns: Vec<_> = columns.iter().map(|column| column.replace(['\t', '\n'], " ")).collect();
            out.push_str(&columns.join("\t"));
            out.push('\n');
        }
        out
    }

    /// The same for people, the confirmed ones only: what differs alike after many kinds of requests stands once, the most
    /// frequent first.
    pub fn text(&self) -> String {
        let mut alike = BTreeMap::<_, Vec<(&String, &Found)>>::new();
        for ((about, role, code, at, java, ours), found) in
            self.groups.iter().filter(|(_, found)| found.confirmed)
        {
            alike.entry((role, code, at, java, ours)).or_default().push((about, found));
        }
        let mut alike: Vec<_> = alike.into_iter().collect();
        alike.sort_by_key(|(_, all)| {
            std::cmp::Reverse(all.iter().map(|(_, found)| found.count).sum::<usize>())
        });
        let mut out = String::new();
        for ((role, code, at, ..), all) in alike {
            let count: usize = all.iter().map(|(_, found)| found.count).sum();
            let Some((about, found)) = all.iter().min_by_key(|(_, found)| found.example.case.len()) else {
                continue;
            };
            let more = if all.len() > 1 { format!(" and {} more", all.len() - 1) } else { String::new() };
            let Difference { java, ours, others, .. } = &found.example;
            let (role, others) = (format!("{role:?}").to_lowercase(), others.join(", "));
            let _ = writeln!(
                out,
                "{role} {code} {at}: java {java} (others: {others}), ours {ours}; {count} times, {about}{more}"
            );
            let _ = writeln!(out, "    --only '{}'", found.example.probe);
            let _ = writeln!(out, "    {} -> {}", found.example.case, found.example.request);
        }
        out
    }
}

/// The accepted differences as a table for people.
pub fn accepted_table(accepted: &[Accepted]) -> String {
    let mut rows = Vec::<(BTreeSet<Option<i64>>, &Accepted)>::new();
    for entry in accepted {
        let mut codes: BTreeSet<_> = entry.codes.iter().copied().map(Some).collect();
        if codes.is_empty() {
            codes.insert(None);
        }
        match rows.iter_mut().find(|(_, row)| row.what == entry.what && row.why == entry.why) {
            Some((all, _)) => all.append(&mut codes),
            None => rows.push((codes, entry)),
        }
    }
    let mut out = "| codes | what is different | why ours is right |\n|---|---|---|\n".to_owned();
    for (codes, entry) in rows {
        let codes = codes.into_iter().map(|code| code.map_or("any".into(), |code| code.to_string()));
        let codes = codes.collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            out,
            "| {codes} | {} | {} |",
            entry.what.replace('|', "\\|"),
            entry.why.replace('|', "\\|")
        );
    }
    out
}
