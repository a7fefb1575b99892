//! What a leader puts into the log about the members: their directories, where each is reached and what it reads, as it says itself, and the
//! feature level once all read it.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::api::{ProposeError, RoleState};
use crate::changes::Changes;
use crate::hello::Acquaintances;
use crate::members::{Members, MembersCommand, common_level};
use crate::standing::node_of;
use crate::state_machine::Core;
use crate::table::{Change, FeatureLevel};

/// A leader looks this often whether what it has learned of the members is in the log.
const INTERVAL: Duration = Duration::from_secs(1);

/// Has the log say of the members what they say.
pub(crate) struct Agreement {
    pub(crate) raft: Core,
    pub(crate) role: watch::Receiver<RoleState>,
    pub(crate) members: Arc<Members>,
    pub(crate) acquaintances: Arc<Acquaintances>,
    pub(crate) changes: Arc<Changes>,
    /// The highest level that this release reads.
    pub(crate) reads: FeatureLevel,
}

impl Agreement {
    /// Runs until the task is ended.
    pub(crate) async fn run(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if !self.role.borrow().ready {
                continue;
            }
            for command in self.missing() {
                if let Err(e) = self.propose(&command).await {
                    tracing::debug!("not recorded yet: {command:?}: {e}");
                }
            }
        }
    }

    /// What the log does not say yet.
    fn missing(&self) -> Vec<MembersCommand> {
        let recorded = self.members.all();
        let addresses = self.acquaintances.addresses();
        let news = addresses.into_values().filter(|member| match recorded.get(&member.id) {
            // What this member heard long ago may be behind what another has heard since.
            Some(known) if known.directory == member.directory => {
                known != member && known.start.0 <= member.start.0
            }
            _ => true,
        });
        let mut commands: Vec<_> = news.map(MembersCommand::Put).collect();
        if commands.is_empty() {
            let ids: Vec<u64> = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                metrics.membership_config.membership().nodes().map(|(id, _)| node_of(*id)).collect()
            };
            let common = common_level(ids, &recorded).map(|level| level.min(self.reads));
            let raised = common.filter(|level| *level > self.members.level());
            commands.extend(raised.map(MembersCommand::RaiseLevel));
        }
        commands
    }

    async fn propose(&self, command: &MembersCommand) -> Result<(), ProposeError> {
        let change = Change::new::<Members>(command).map_err(|e| ProposeError::Refused(e.to_string()))?;
        self.changes.propose(change, None).await?;
        if let MembersCommand::RaiseLevel(level) = command {
            tracing::info!(level, "every member reads this feature level");
        }
        Ok(())
    }
}
