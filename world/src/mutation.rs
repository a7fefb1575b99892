//! Deliberate faults in the code, to prove that the simulator's checkers notice such a thing.
//!
//! They exist only where the feature `mutations` is on, which no build but the simulator's own ever has.

/// Deliberate faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// An append counts as stored before it is synced.
    AckBeforeSync,
    /// A member forgets at a restart whom it has voted for.
    ForgetVote,
    /// Who may have acknowledged what it has lost votes as if it had not.
    VoteInDoubt,
    /// A vote is given before it is recorded.
    VoteBeforeSync,
    /// The lowered mark is not made durable before a truncation.
    SkipTruncationSync,
    /// A command is applied again after the next one.
    ApplyTwice,
    /// A leader serves without having heard of a majority.
    ServeWithoutLease,
    /// A leader counts its lease from the answer, and not from when it asked.
    LeaseFromReply,
    /// A member founds a group of its own.
    TwoFounders,
    /// A delayed message is delivered, and its progress is not noted with it.
    DeliverWithoutProgress,
    /// A start counts a dropped topic's queue offsets on.
    KeepCountersAtStart,
    /// Messages that were on their way while their topic was dropped are stored as if it were there.
    StoreBehindDrop,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AckBeforeSync,
        Self::ForgetVote,
        Self::VoteInDoubt,
        Self::VoteBeforeSync,
        Self::SkipTruncationSync,
        Self::ApplyTwice,
        Self::ServeWithoutLease,
        Self::LeaseFromReply,
        Self::TwoFounders,
        Self::DeliverWithoutProgress,
        Self::KeepCountersAtStart,
        Self::StoreBehindDrop,
    ];

    /// Whether this one is on: the variable `RAFTMQ_MUTATION` names it.
    #[cfg(feature = "mutations")]
    pub fn is_on(self) -> bool {
        static NAMED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let named = NAMED.get_or_init(|| std::env::var("RAFTMQ_MUTATION").unwrap_or_default());
        named.eq_ignore_ascii_case(&format!("{self:?}"))
    }

    /// Never.
    #[cfg(not(feature = "mutations"))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }
}
