//! Connections by address: one each, made when first needed and again after it ended.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use raftmq_world::Network;
use raftmq_world::hash::HashMap;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use crate::command::Command;
use crate::connection::{CallError, Connection, PeerRequest, deadline_in};

/// Addresses beyond this make the pool forget those without a connection. Routes hold far fewer.
const ADDRESSES_MAX: usize = 1024;

/// One connection for each address.
#[derive(Debug)]
pub struct ConnectionPool {
    network: Arc<dyn Network>,
    slots: Mutex<HashMap<String, Slot>>,
    connect_timeout: Duration,
    in_flight_max: usize,
    /// Where connections put what their peers ask.
    requests: Option<Sender<PeerRequest>>,
}

/// Held while connecting, so that one caller connects and the others wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

impl ConnectionPool {
    /// An empty pool. `in_flight_max` holds for each connection.
    pub fn new(network: Arc<dyn Network>, connect_timeout: Duration, in_flight_max: usize) -> Self {
        Self { network, slots: Mutex::default(), connect_timeout, in_flight_max, requests: None }
    }

    /// Sets where connections put what their peers ask.
    pub fn with_requests(self, requests: Sender<PeerRequest>) -> Self {
        Self { requests: Some(requests), ..self }
    }

    /// The connection to `addr`, as `host:port`; connects if there is none that lives.
    pub async fn get(&self, addr: &str) -> Result<Arc<Connection>, CallError> {
        let slot = self.slot(addr);
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *slot = None;
        let requests = self.requests.clone();
        let (network, timeout) = (&*self.network, self.connect_timeout);
        let made = Connection::connect_with(network, addr, timeout, self.in_flight_max, requests).await?;
        Ok(slot.insert(Arc::new(made)).clone())
    }

    /// As [`ConnectionPool::get`], and no longer than `timeout`, whoever else is connecting.
    pub async fn get_within(&self, addr: &str, timeout: Duration) -> Result<Arc<Connection>, CallError> {
        let late = |_| CallError::Timeout { addr: addr.to_owned(), waited: timeout, sent: false };
        tokio::time::timeout(timeout, self.get(addr)).await.map_err(late)?
    }

    /// One request to one address; connecting counts towards the timeout.
    pub async fn call(&self, addr: &str, request: Command, timeout: Duration) -> Result<Command, CallError> {
        let deadline = deadline_in(timeout);
        let connection = self.get_within(addr, timeout).await?;
        connection.call(request, deadline.saturating_duration_since(Instant::now())).await
    }

    fn slot(&self, addr: &str) -> Slot {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(addr) {
            return slot.clone();
        }
        if slots.len() >= ADDRESSES_MAX {
            slots.retain(|_, slot| slot.try_lock().map_or(true, |slot| slot.is_some()));
        }
        slots.entry(addr.to_owned()).or_default().clone()
    }
}
