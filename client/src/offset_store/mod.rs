//! How far a consumer group has come in each queue: in memory, and where it outlives the process.
//!
//! | store | for | where |
//! |---|---|---|
//! | [`RemoteBrokerOffsetStore`] | clustering | at the brokers, one offset for the whole group |
//! | [`LocalFileOffsetStore`] | broadcasting | in a file of this machine, one for each consumer |
//!
//! `store` says what both do, `table` is what both note in memory.

mod local;
mod remote;
mod store;
mod table;

use std::sync::Arc;

use raftmq_remoting::body::MessageModel;

use crate::client::Client;
use crate::error::ClientError;

pub use local::{LocalFileOffsetStore, default_offset_dir};
pub use remote::RemoteBrokerOffsetStore;
pub use store::{OffsetFuture, OffsetStore, ReadOffsetType};

/// The store a group's offsets are kept in unless its consumer was given another.
pub(crate) fn for_group(
    client: &Client,
    group: &str,
    model: MessageModel,
) -> Result<Arc<dyn OffsetStore>, ClientError> {
    Ok(match model {
        MessageModel::Clustering => Arc::new(RemoteBrokerOffsetStore::new(client.clone(), group)),
        MessageModel::Broadcasting => {
            let id = client.instance().lasting_id();
            Arc::new(LocalFileOffsetStore::new(&client.config().world, &default_offset_dir(), id, group)?)
        }
    })
}
