//! Arguments: which seeds, and which faults of them.

use clap::Args;
use raftmq_sim::{Kind, Promise};

#[derive(Args, Clone, Debug)]
pub(crate) struct FaultArgs {
    /// Faults are done for so many simulated seconds
    #[arg(long, default_value_t = 20)]
    pub(crate) seconds: u64,
    /// Only these kinds of faults, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    pub(crate) kinds: Vec<Kind>,
    /// All but these
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    pub(crate) without: Vec<Kind>,
    /// Leave these promises alone
    #[arg(long, value_delimiter = ',', value_parser = promise)]
    pub(crate) leave: Vec<Promise>,
}

#[derive(Args, Debug)]
pub(crate) struct OneArgs {
    /// The seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) faults: FaultArgs,
    /// Leave out the faults of these numbers
    #[arg(long, value_delimiter = ',')]
    pub(crate) skip: Vec<u64>,
    /// Show what happened, in order
    #[arg(long)]
    pub(crate) trace: bool,
    /// The report as one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ManyArgs {
    /// The first seed; by default one that nobody has drawn yet
    #[arg(long)]
    pub(crate) from: Option<u64>,
    /// How many
    #[arg(long, default_value_t = 100)]
    pub(crate) count: u64,
    /// Begin no more after so many seconds
    #[arg(long)]
    pub(crate) for_seconds: Option<u64>,
    /// How many at a time; by default one for each processor
    #[arg(long)]
    pub(crate) jobs: Option<usize>,
    /// Fail for what is known not to be kept yet as well
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) faults: FaultArgs,
}

#[cfg(feature = "mutations")]
#[derive(Args, Debug)]
pub(crate) struct MutationArgs {
    /// Most seeds for each
    #[arg(long, default_value_t = 200)]
    pub(crate) count: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub(crate) from: u64,
    /// Only this one
    #[arg(long)]
    pub(crate) only: Option<String>,
}

fn kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("no such kind of fault; there are {:?}", Kind::ALL))
}

fn promise(text: &str) -> Result<Promise, String> {
    let found = Promise::ALL.into_iter().find(|promise| format!("{promise:?}").eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("no such promise; there are {:?}", Promise::ALL))
}

impl FaultArgs {
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut kinds = if self.kinds.is_empty() { Kind::ALL.to_vec() } else { self.kinds.clone() };
        kinds.retain(|kind| !self.without.contains(kind));
        kinds
    }

    /// The arguments that mean the same.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let kinds: Vec<_> = self.kinds().iter().map(|kind| kind.to_string().to_lowercase()).collect();
        let mut args =
            vec!["--seconds".to_owned(), self.seconds.to_string(), "--kinds".to_owned(), kinds.join(",")];
        if !self.leave.is_empty() {
            let left: Vec<_> =
                self.leave.iter().map(|promise| format!("{promise:?}").to_lowercase()).collect();
            args.extend(["--leave".to_owned(), left.join(",")]);
        }
        args
    }
}
