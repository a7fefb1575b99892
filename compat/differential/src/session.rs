//! One case carried out on several brokers in step: each step is asked of all of them before the next.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::cases::{Case, Role};
use crate::catalog::{Catalog, Server};
use crate::frame::{self, Received};
use crate::script::{Ask, Captured, Names, Step, build};

/// How long an answer may take. The Java broker looks at held pulls every five seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a request that wants no answer is given to have its effect.
const ONEWAY_TIME: Duration = Duration::from_millis(30);
/// How long every step is given to have its effect, by each degree of slowness above one.
const EFFECT_TIME: Duration = Duration::from_millis(20);
/// How long connecting and writing may take.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes asked for in one read of a socket.
const READ_BYTES: usize = 64 * 1024;

/// A broker and its name server.
#[derive(Debug, Clone)]
pub struct Target {
    /// What it is called in reports, for example `5.4.0`.
    pub name: String,
    /// Where clients connect.
    pub broker: SocketAddr,
    /// Where routes are asked for.
    pub name_server: SocketAddr,
}

/// What came of a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// An answer.
    Got(Received),
    /// The connection was closed instead.
    Closed,
    /// None, in the time there was.
    Nothing,
    /// This broker is never asked this.
    NotAsked,
}

/// A request of a case with what each target answered.
#[derive(Debug)]
pub struct Asked {
    /// Which part of the case it belongs to.
    pub role: Role,
    /// Which probe of the case it is, or follows.
    pub probe: usize,
    /// The request.
    pub ask: Ask,
    /// By target.
    pub answers: Vec<Answer>,
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

/// Whose, of which server, and its number in the case.
type Key = (usize, Server, usize);

/// The connections of one run of a case.
pub struct Session<'a> {
    catalog: &'a Catalog,
    targets: &'a [Target],
    names: Names,
    connections: BTreeMap<Key, Connection>,
    captured: Vec<Captured>,
    opaque: i64,
}

impl<'a> Session<'a> {
    /// Nothing is connected before it is needed.
    pub fn new(catalog: &'a Catalog, targets: &'a [Target], names: Names) -> Self {
        let captured = vec![Captured::new(); targets.len()];
        Self { catalog, targets, names, connections: BTreeMap::new(), captured, opaque: 0 }
    }

    /// Carries out a case; its waits take `slowness` times as long as they say.
    pub fn run(mut self, case: &Case, slowness: u32) -> Result<Vec<Asked>> {
        let mut asked = Vec::new();
        for (role, probe, step) in case.steps()? {
            match step {
                Step::Wait(ms) => std::thread::sleep(Duration::from_millis(ms) * slowness),
                Step::Close(connection) => {
                    self.connections.retain(|key, _| key.2 != connection);
                    std::thread::sleep(EFFECT_TIME * (slowness - 1));
                }
                Step::Ask(asks) => {
                    let answers = self.ask(&asks)?;
                    std::thread::sleep(EFFECT_TIME * (slowness - 1));
                    let with_answers = asks.into_iter().zip(answers);
                    asked.extend(with_answers.map(|(ask, answers)| Asked { role, probe, ask, answers }));
                }
            }
        }
        Ok(asked)
    }

    /// Sends all, then gathers the answers: by request, then by target.
    fn ask(&mut self, asks: &[Ask]) -> Result<Vec<Vec<Answer>>> {
        let mut answers = vec![vec![Answer::Nothing; self.targets.len()]; asks.len()];
        let mut pending = BTreeMap::new();
        let mut patience = ONEWAY_TIME;
        for (at, ask) in asks.iter().enumerate() {
            for (target, answer) in answers[at].iter_mut().enumerate() {
                let ty = self.catalog.requests.get(&ask.code);
                if ty.is_some_and(|ty| ty.not_asked.contains(&self.targets[target].name)) {
                    *answer = Answer::NotAsked;
                    continue;
                }
                let (server, request) = build(self.catalog, ask, &self.names, &self.captured[target])?;
                self.opaque += 1;
                let key = (target, server, ask.connection);
                let bytes = request.encode(self.opaque);
                let sent = self.connection(key)?.stream.write_all(&bytes);
                if sent.is_err() {
                    self.connections.remove(&key);
                    *answer = Answer::Closed;
                } else if !request.is_oneway() {
                    pending.insert((key, self.opaque), (at, target));
                    patience = PATIENCE;
                }
            }
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && (!pending.is_empty() || patience == ONEWAY_TIME) {
            self.gather(deadline, &mut pending, &mut answers)?;
        }
        for target_answers in &answers {
            self.capture(target_answers);
        }
        Ok(answers)
    }

    fn connection(&mut self, key: Key) -> Result<&mut Connection> {
        if !self.connections.contains_key(&key) {
            let target = &self.targets[key.0];
            let addr = if key.1 == Server::Broker { target.broker } else { target.name_server };
            let stream = TcpStream::connect_timeout(&addr, SOCKET_TIMEOUT);
            let stream = stream.with_context(|| format!("connect to {} at {addr}", target.name))?;
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
            self.connections.insert(key, Connection { stream, input: Vec::new() });
        }
        self.connections.get_mut(&key).context("it was put there just now")
    }

    /// Waits until something arrives, and takes it.
    fn gather(
        &mut self,
        deadline: Instant,
        pending: &mut BTreeMap<(Key, i64), (usize, usize)>,
        answers: &mut [Vec<Answer>],
    ) -> Result<()> {
        for key in self.readable(deadline)? {
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            let mut bytes = [0; READ_BYTES];
            let count = connection.stream.read(&mut bytes).unwrap_or(0);
            connection.input.extend_from_slice(&bytes[..count]);
            let mut is_open = count > 0;
            loop {
                match frame::decode(&mut connection.input) {
                    Ok(Some(received)) if received.is_answer => {
                        if let Some((at, target)) = pending.remove(&(key, received.opaque)) {
                            answers[at][target] = Answer::Got(received);
                        }
                    }
                    Ok(Some(request)) => serve(&mut connection.stream, &request),
                    Ok(None) => break,
                    Err(_) => {
                        is_open = false;
                        break;
                    }
                }
            }
            if !is_open {
                self.connections.remove(&key);
                pending.retain(|(of, _), (at, target)| {
                    if *of == key {
                        answers[*at][*target] = Answer::Closed;
                    }
                    *of != key
                });
            }
        }
        Ok(())
    }

    fn readable(&self, deadline: Instant) -> Result<Vec<Key>> {
        let mut polled: Vec<_> = self
            .connections
            .values()
            .map(|connection| PollFd::new(&connection.stream, PollFlags::IN))
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        poll(&mut polled, Some(&timeout)).context("wait for answers")?;
        let ready = self.connections.keys().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|(key, _)| *key).collect())
    }

    /// Keeps where the first message went that was sent, from the id that its answer names.
    fn capture(&mut self, answers: &[Answer]) {
        for (captured, answer) in self.captured.iter_mut().zip(answers) {
            let Answer::Got(received) = answer else { continue };
            let id = received.ext.get("msgId").filter(|id| id.len() == 32 && !captured.contains_key("msgid"));
            let offset = id.and_then(|id| u64::from_str_radix(id.get(16..)?, 16).ok());
            if let (Some(id), Some(offset)) = (id, offset) {
                captured.insert("msgid", id.clone());
                captured.insert("phy", offset.to_string());
            }
        }
    }
}

/// Answers a request of the broker as a client does that has nothing to tell.
fn serve(stream: &mut TcpStream, request: &Received) {
    let body: Value = match request.code {
        307 => json!({"properties": {}, "subscriptionSet": [], "mqTable": {}, "statusTable": {}}),
        309 => {
            json!({"autoCommit": true, "consumeResult": "CR_SUCCESS", "order": false, "spentTimeMills": 1})
        }
        221 => json!({"messageQueueTable": {}}),
        _ => return,
    };
    if !request.is_oneway {
        // A connection that fails is seen when it is read.
        drop(stream.write_all(&frame::encode_answer(request.opaque, &body)));
    }
}
