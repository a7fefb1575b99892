//! Asking name servers: one of a list until it fails or dawdles.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use raftmq_remoting::{CallError, Command, ConnectionPool};
use tokio::task::JoinSet;

use crate::error::ClientError;

/// How long an answer may take before the next server is asked too. Name servers answer from memory.
const DAWDLE: Duration = Duration::from_millis(100);

/// A list of name servers and the one in use.
#[derive(Debug)]
pub struct NameServers {
    addrs: Vec<String>,
    /// Index of the one that answered last.
    current: AtomicUsize,
    pool: Arc<ConnectionPool>,
    timeout: Duration,
}

impl NameServers {
    /// `addrs` as `host:port`, in the order in which they are asked; `timeout` holds for each request to each server.
    pub fn new(addrs: Vec<String>, pool: Arc<ConnectionPool>, timeout: Duration) -> Self {
        Self { addrs, current: AtomicUsize::new(0), pool, timeout }
    }

    /// The first answer any of them gives to a request, whatever its code, and who gave it.
    pub async fn ask(&self, request: &Command) -> Result<(String, Command), ClientError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut asked = JoinSet::new();
        let mut last_error = ClientError::Invalid("no name server is configured".to_owned());
        for index in (first..self.addrs.len()).chain(0..first) {
            self.spawn(&mut asked, index, request);
            // Goes on to the next server when this one has failed, or has not answered yet.
            match tokio::time::timeout(DAWDLE, self.first_answer(&mut asked)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last_error = error,
                Err(_) => {}
            }
        }
        if asked.is_empty() { Err(last_error) } else { self.first_answer(&mut asked).await }
    }

    fn spawn(
        &self,
        asked: &mut JoinSet<(usize, Result<Command, CallError>)>,
        index: usize,
        request: &Command,
    ) {
        let (pool, timeout) = (self.pool.clone(), self.timeout);
        let (addr, request) = (self.addrs[index].clone(), request.clone());
        asked.spawn(async move {
            let answer = match pool.get(&addr).await {
                Ok(connection) => connection.call(request, timeout).await,
                Err(error) => Err(error),
            };
            (index, answer)
        });
    }

    /// Waits until one of those asked answers or all have failed.
    async fn first_answer(
        &self,
        asked: &mut JoinSet<(usize, Result<Command, CallError>)>,
    ) -> Result<(String, Command), ClientError> {
        let mut reason = "none was asked".to_owned();
        while let Some(finished) = asked.join_next().await {
            match finished {
                Ok((index, Ok(answer))) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((self.addrs[index].clone(), answer));
                }
                Ok((_, Err(error))) => reason = error.to_string(),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(ClientError::NameServer { reason })
    }
}

/// Splits `host:port;host:port`, the usual way to write name servers, at semicolons and commas.
pub fn parse_name_servers(list: &str) -> Vec<String> {
    list.split([';', ',']).map(str::trim).filter(|addr| !addr.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_where_people_split_them() {
        assert_eq!(parse_name_servers("a:1; b:2,c:3;"), ["a:1", "b:2", "c:3"]);
        assert!(parse_name_servers(" ;").is_empty());
    }

    #[tokio::test]
    async fn without_servers_the_error_says_so() {
        let pool = Arc::new(ConnectionPool::new(
            raftmq_world::World::system().network,
            Duration::from_millis(100),
            1,
        ));
        let servers = NameServers::new(Vec::new(), pool, Duration::from_millis(100));
        let request = Command::request(105, raftmq_remoting::Ext::new());
        assert!(servers.ask(&request).await.unwrap_err().to_string().contains("no name server"));
    }
}
