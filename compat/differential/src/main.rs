//! The command line of the differential tester; `scripts/differential` starts the brokers for it.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "works on real processes in real time"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use raftmq_differential::cases::{Case, sequence, systematic};
use raftmq_differential::catalog::Catalog;
use raftmq_differential::compare::{Accepted, judge};
use raftmq_differential::normal::normalise;
use raftmq_differential::run::{Runner, Totals};
use raftmq_differential::script::Names;
use raftmq_differential::session::{Answer, Session, Target};
use raftmq_differential::{record, relaxed, report};

#[derive(Parser)]
#[command(about = "The same frames to RaftMQ and to Apache RocketMQ, answers and effects compared")]
struct Options {
    /// A name server of the RaftMQ group.
    #[arg(long)]
    ours: Option<SocketAddr>,
    /// VERSION=ADDRESS of a Java name server, the newest version first; may be given several times.
    #[arg(long)]
    java: Vec<String>,
    /// Random sequences to run.
    #[arg(long, default_value_t = 10_000)]
    sequences: u64,
    /// What they are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only probes and sequences whose id holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// Runs this script (steps separated by newlines or ` ; `) and shows all answers.
    #[arg(long)]
    case: Option<String>,
    /// Cases at once.
    #[arg(long, default_value_t = 100)]
    workers: usize,
    /// Cases until `--between` is run.
    #[arg(long, default_value_t = usize::MAX)]
    batch: usize,
    /// A command of bash that begins anew with all servers.
    #[arg(long, default_value = "true")]
    between: String,
    /// The accepted differences.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/data/accepted.json"))]
    accepted: PathBuf,
    /// Where the findings go, as differences.tsv and as-older.tsv.
    #[arg(long, default_value = "target/differential")]
    out: PathBuf,
    /// Writes cases with the Java brokers' answers into this file instead of comparing.
    #[arg(long)]
    record: Option<PathBuf>,
    /// Prints the accepted differences as a table, and nothing else.
    #[arg(long)]
    table: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let accepted =
        std::fs::read(&options.accepted).with_context(|| format!("read {}", options.accepted.display()))?;
    let accepted: Vec<Accepted> = serde_json::from_slice(&accepted).context("accepted differences")?;
    if options.table {
        print!("{}", report::accepted_table(&accepted));
        return Ok(ExitCode::SUCCESS);
    }
    let catalog = Catalog::load()?;
    let mut targets = find_all(&options, &catalog)?;
    let mut runner = Runner::new(&catalog, &targets, &accepted);
    if let Some(script) = &options.case {
        show(&runner, &Case::from_script(&catalog, "script", script)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let fixed = systematic(&catalog, |id| id.contains(&options.only))?;
    if let Some(file) = &options.record {
        write_record(&runner, &options, fixed, file)?;
        return Ok(ExitCode::SUCCESS);
    }
    let numbers: Vec<_> = (0..options.sequences).filter(|number| wants_sequence(&options, *number)).collect();
    let begin = Instant::now();
    let count = fixed.len() + numbers.len();
    let case = |number: usize| match fixed.get(number) {
        Some(case) => case.clone(),
        None => sequence(&catalog, options.seed, numbers[number - fixed.len()]),
    };
    let so_far = |totals: &Totals| {
        let (seconds, kinds) = (begin.elapsed().as_secs(), totals.faults.groups.len());
        eprintln!("{} of {count} cases in {seconds} s, {kinds} kinds of differences", totals.cases);
        if let Err(error) = write_findings(&options.out, totals) {
            eprintln!("{error:#}");
        }
    };
    let mut totals = Totals::default();
    let mut waiting: Vec<_> = (0..count).collect();
    loop {
        let batch: Vec<_> = waiting.drain(..options.batch.min(waiting.len())).collect();
        let left = runner.run_all(&batch, options.workers, case, so_far, &mut totals);
        if left.len() == batch.len() && !left.is_empty() {
            bail!(
                "no case can be carried out: {}",
                totals.trouble.unwrap_or_else(|| "a Java broker is ill".into())
            );
        }
        waiting.splice(..0, left);
        if waiting.is_empty() {
            break;
        }
        begin_anew(&options)?;
        targets = find_all(&options, &catalog)?;
        runner = Runner::new(&catalog, &targets, &accepted);
    }
    runner.see_again(&mut totals);
    let seconds = begin.elapsed().as_secs();
    println!(
        "{} cases, {} of them sequences, {} requests to each broker, {seconds} s",
        totals.cases,
        numbers.len(),
        totals.requests
    );
    finish(&options, &accepted, &totals)
}

fn wants_sequence(options: &Options, number: u64) -> bool {
    format!("seq/{}/{number}", options.seed).contains(&options.only)
        && (options.only.is_empty() || options.only.starts_with("seq"))
}

fn begin_anew(options: &Options) -> Result<()> {
    let status = Command::new("bash").args(["-c", &options.between]).status().context("run bash")?;
    ensure!(status.success(), "{:?} ended with {status}", options.between);
    Ok(())
}

/// Asks the name servers where the brokers are.
fn find_all(options: &Options, catalog: &Catalog) -> Result<Vec<Target>> {
    let ours = options.ours.context("--ours is needed")?;
    let mut targets = vec![find("ours", ours, catalog)?];
    for java in &options.java {
        let (version, addr) =
            java.split_once('=').with_context(|| format!("--java {java:?} is not VERSION=ADDRESS"))?;
        targets.push(find(version, addr.parse().with_context(|| format!("address {addr:?}"))?, catalog)?);
    }
    ensure!(targets.len() > 1, "--java is needed");
    Ok(targets)
}

fn find(name: &str, name_server: SocketAddr, catalog: &Catalog) -> Result<Target> {
    let target = Target { name: name.to_owned(), broker: name_server, name_server };
    let case = Case::from_script(catalog, "route", "105 topic=TBW102")?;
    let case = Case { reads: String::new(), cleanup: String::new(), ..case };
    let asked = Session::new(catalog, std::slice::from_ref(&target), Names::new(0, 0)).run(&case, 1)?;
    let Some(Answer::Got(answer)) = asked.first().and_then(|asked| asked.answers.first()) else {
        bail!("no answer from the name server of {name}, {name_server}");
    };
    let route = relaxed::parse(&String::from_utf8_lossy(&answer.body))
        .with_context(|| format!("route of {name}: {}", answer.remark))?;
    let addr = route.pointer("/brokerDatas/0/brokerAddrs/0").and_then(|addr| addr.as_str());
    let addr = addr.with_context(|| format!("no broker leads for {name}: {route}"))?;
    Ok(Target { broker: addr.parse().with_context(|| format!("address {addr:?}"))?, ..target })
}

/// Runs one case and prints what everyone answers.
fn show(runner: &Runner<'_>, case: &Case) -> Result<()> {
    let (names, asked) = runner.run(case, 1)?;
    for asked in &asked {
        println!("{:?} {}", asked.role, asked.ask);
        for (target, answer) in runner.targets.iter().zip(&asked.answers) {
            let remark = if let Answer::Got(received) = answer { received.remark.as_str() } else { "" };
            println!("    {:8} {} {remark:.200}", target.name, normalise(asked.ask.code, answer, &names));
        }
    }
    for fault in judge(case, &asked, &names, runner.accepted).faults {
        println!("differs: {} {}: java {}, ours {}", fault.request, fault.at, fault.java, fault.ours);
    }
    Ok(())
}

fn write_record(runner: &Runner<'_>, options: &Options, fixed: Vec<Case>, file: &Path) -> Result<()> {
    let mut cases = record::chosen(fixed);
    cases.extend((0..record::SEQUENCES).map(|number| sequence(runner.catalog, options.seed, number)));
    let records = record::record(runner, &cases, options.workers);
    std::fs::write(file, record::to_text(&records)?).with_context(|| format!("write {}", file.display()))?;
    println!("{} cases are in {}", records.len(), file.display());
    Ok(())
}

fn write_findings(dir: &Path, totals: &Totals) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for (name, findings) in [("differences.tsv", &totals.faults), ("as-older.tsv", &totals.as_older)] {
        let path = dir.join(name);
        std::fs::write(&path, findings.tsv()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Writes the findings; an error where something differs that is not accepted.
fn finish(options: &Options, accepted: &[Accepted], totals: &Totals) -> Result<ExitCode> {
    write_findings(&options.out, totals)?;
    print!("{}", totals.faults.text());
    let confirmed = totals.faults.groups.values().filter(|found| found.confirmed).count();
    let accepted_seen: usize = totals.accepted.iter().sum();
    println!(
        "{confirmed} kinds of differences, {} seen only once among many, {accepted_seen} accepted differences, {} kinds of answers as an older Java broker's",
        totals.faults.groups.len() - confirmed,
        totals.as_older.groups.len()
    );
    if options.only.is_empty() {
        for (entry, _) in accepted.iter().zip(&totals.accepted).filter(|(_, seen)| **seen == 0) {
            println!("accepted, but never seen: {} ({})", entry.what, entry.at);
        }
    }
    Ok(if confirmed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
