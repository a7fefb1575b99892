//! The simulated network: streams between hosts, each direction with a delay and in order.
//!
//! A stream behaves as TCP does towards a program. Bytes are never lost within it: while a direction is cut they wait, and
//! go on when it is mended. What a program sees of trouble is silence, an end, or a reset.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use raftmq_world::{Listen, Listener, Network, Random, Socket, Stream};
use tokio::io::ReadBuf;

use crate::time::HostClock;

/// Number of a host, from 0.
pub type HostId = usize;

/// Bytes of one direction that are on their way or not read yet, at most.
const WINDOW_BYTES: usize = 256 * 1024;
/// Connections of one listener that are not accepted yet, at most.
const BACKLOG: usize = 1024;
/// The first port that the network chooses by itself.
const EPHEMERAL_PORT_MIN: u16 = 32_768;

/// How one direction between two hosts is.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The shortest delay.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
    /// Nothing passes.
    pub cut: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self { delay_min: Duration::from_micros(100), delay_max: Duration::from_micros(1500), cut: false }
    }
}

/// What happened in the network, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkCounts {
    /// Connections that stood.
    pub connections: u64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Connections that were reset.
    pub resets: u64,
}

/// All hosts' network.
#[derive(Clone)]
pub struct Fabric(Arc<Mutex<State>>);

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fabric")
    }
}

struct State {
    random: Random,
    /// How far the simulation has come.
    now: Duration,
    /// Ways that are not as by default.
    ways: BTreeMap<(HostId, HostId), Way>,
    hosts: BTreeMap<HostId, HostState>,
    /// Every direction that something is on its way in.
    directions: BTreeMap<u64, Direction>,
    connecting: BTreeMap<u64, Connecting>,
    next_id: u64,
    counts: NetworkCounts,
}

#[derive(Default)]
struct HostState {
    up: bool,
    /// Counts the host's lives: what an earlier one had open is none of a later one's.
    life: u64,
    listeners: BTreeMap<u16, Listening>,
    next_port: u16,
}

#[derive(Default)]
struct Listening {
    /// Which direction the accepting side reads, which it writes, and whose the connection is.
    waiting: VecDeque<(u64, u64, SocketAddr)>,
    waker: Option<Waker>,
}

/// One direction of a stream.
struct Direction {
    from: HostId,
    to: HostId,
    /// The opposite one's id.
    opposite: u64,
    on_its_way: VecDeque<(Duration, Piece)>,
    on_its_way_bytes: usize,
    arrived: VecDeque<u8>,
    /// The writer has ended it.
    ended: bool,
    end_arrived: bool,
    /// How it was cut off, as the reader and the writer see it.
    reset: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

enum Piece {
    Bytes(Vec<u8>),
    End,
    /// The other side has gone.
    Reset,
}

struct Connecting {
    from: HostId,
    to: SocketAddr,
    local: SocketAddr,
    /// When the request arrives, and then when the answer does.
    due: Duration,
    outcome: Option<io::Result<(u64, u64)>>,
    answered: bool,
    waker: Option<Waker>,
}

/// The address of a host.
pub fn host_ip(host: HostId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host as u8 + 1))
}

fn host_of(ip: IpAddr) -> Option<HostId> {
    match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 0, 0, last] if last > 0 => Some(usize::from(last) - 1),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

impl Fabric {
    /// A network without hosts.
    pub fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(State {
            random,
            now: Duration::ZERO,
            ways: BTreeMap::new(),
            hosts: BTreeMap::new(),
            directions: BTreeMap::new(),
            connecting: BTreeMap::new(),
            next_id: 1,
            counts: NetworkCounts::default(),
        })))
    }

    /// The network as a host sees it from now on, in a new life of its.
    pub fn join(&self, host: HostId, clock: Arc<HostClock>) -> HostNetwork {
        let mut state = self.0.lock();
        let entry = state.hosts.entry(host).or_default();
        entry.up = true;
        entry.life += 1;
        entry.next_port = EPHEMERAL_PORT_MIN;
        entry.listeners.clear();
        HostNetwork { fabric: self.clone(), host, life: entry.life, clock }
    }

    /// A host's process has ended. Its peers are told, unless the whole machine has gone without a word.
    pub fn leave(&self, host: HostId, silently: bool) {
        let mut state = self.0.lock();
        let Some(entry) = state.hosts.get_mut(&host) else { return };
        entry.up = false;
        entry.listeners.clear();
        let its: Vec<u64> =
            state.directions.iter().filter(|(_, way)| way.from == host).map(|(id, _)| *id).collect();
        for id in its {
            state.abandon(id, silently);
        }
        state.connecting.retain(|_, connecting| connecting.from != host);
    }

    /// Sets how one direction is.
    pub fn set_way(&self, from: HostId, to: HostId, way: Way) {
        let mut state = self.0.lock();
        state.ways.insert((from, to), way);
        if !way.cut {
            state.mend(from, to);
        }
    }

    /// How one direction is.
    pub fn way(&self, from: HostId, to: HostId) -> Way {
        self.0.lock().way(from, to)
    }

    /// Resets every connection between two hosts.
    pub fn reset(&self, one: HostId, other: HostId) {
        let mut state = self.0.lock();
        let pair = [(one, other), (other, one)];
        let between: Vec<u64> = state
            .directions
            .iter()
            .filter(|(_, way)| pair.contains(&(way.from, way.to)) && !way.reset)
            .map(|(id, _)| *id)
            .collect();
        for id in between {
            state.reset_now(id);
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> NetworkCounts {
        self.0.lock().counts
    }

    /// Lets time pass: what is due by `now` arrives.
    pub fn advance(&self, now: Duration) {
        let mut wake = Vec::new();
        {
            let mut state = self.0.lock();
            state.now = now;
            state.deliver(&mut wake);
            state.connect(&mut wake);
        }
        wake.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn way(&self, from: HostId, to: HostId) -> Way {
        self.ways.get(&(from, to)).copied().unwrap_or_default()
    }

    fn is_up(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.up)
    }

    fn delay(&self, from: HostId, to: HostId) -> Duration {
        let way = self.way(from, to);
        let spread = way.delay_max.saturating_sub(way.delay_min);
        way.delay_min + Duration::from_nanos(self.random.below(spread.as_nanos() as u64 + 1))
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Puts a piece on its way, behind what is on its way already.
    fn send(&mut self, id: u64, sent: Duration, piece: Piece) {
        let Some(way) = self.directions.get(&id) else { return };
        let due = sent.max(self.now) + self.delay(way.from, way.to);
        let Some(way) = self.directions.get_mut(&id) else { return };
        let due = way.on_its_way.back().map_or(due, |(last, _)| due.max(*last));
        if let Piece::Bytes(bytes) = &piece {
            way.on_its_way_bytes += bytes.len();
        }
        way.on_its_way.push_back((due, piece));
    }

    /// What waited for a way to be mended goes on its way anew.
    fn mend(&mut self, from: HostId, to: HostId) {
        let now = self.now;
        let delay = self.delay(from, to);
        for way in self.directions.values_mut().filter(|way| way.from == from && way.to == to) {
            for (due, _) in &mut way.on_its_way {
                *due = (*due).max(now + delay);
            }
        }
    }

    fn deliver(&mut self, wake: &mut Vec<Waker>) {
        let now = self.now;
        let mut bytes_arrived = 0;
        let mut resets = Vec::new();
        let mut done = Vec::new();
        let State { directions, ways, hosts, .. } = self;
        for (id, way) in directions.iter_mut() {
            let cut = ways.get(&(way.from, way.to)).is_some_and(|way| way.cut);
            let up = hosts.get(&way.to).is_some_and(|host| host.up);
            if cut || !up {
                continue;
            }
            let mut news = false;
            while way.on_its_way.front().is_some_and(|(due, _)| *due <= now) {
                let Some((_, piece)) = way.on_its_way.pop_front() else { break };
                news = true;
                match piece {
                    Piece::Bytes(bytes) => {
                        way.on_its_way_bytes -= bytes.len();
                        if way.reader_gone {
                            // A stranger to whoever is there now.
                            resets.push(way.opposite);
                        } else {
                            bytes_arrived += bytes.len() as u64;
                            way.arrived.extend(bytes);
                        }
                    }
                    Piece::End => way.end_arrived = true,
                    Piece::Reset => {
                        way.reset = true;
                        resets.push(way.opposite);
                    }
                }
            }
            if news {
                wake.extend(way.reader.take());
                wake.extend(way.writer.take());
            }
            if way.reader_gone && way.on_its_way.is_empty() && (way.ended || way.reset) {
                done.push(*id);
            }
        }
        self.counts.bytes += bytes_arrived;
        for id in resets {
            self.mark_reset(id, wake);
        }
        for id in done {
            self.directions.remove(&id);
        }
    }

    fn mark_reset(&mut self, id: u64, wake: &mut Vec<Waker>) {
        if let Some(way) = self.directions.get_mut(&id) {
            self.counts.resets += u64::from(!way.reset);
            way.reset = true;
            way.on_its_way.clear();
            way.on_its_way_bytes = 0;
            wake.extend(way.reader.take());
            wake.extend(way.writer.take());
        }
    }

    /// Both ends of a stream find it reset at once.
    fn reset_now(&mut self, id: u64) {
        let mut wake = Vec::new();
        let opposite = self.directions.get(&id).map(|way| way.opposite);
        self.mark_reset(id, &mut wake);
        if let Some(opposite) = opposite {
            self.mark_reset(opposite, &mut wake);
        }
        // Waking only puts tasks into their runtimes' queues.
        wake.into_iter().for_each(Waker::wake);
    }

    /// The process that writes in this direction, and reads in the opposite one, has ended.
    fn abandon(&mut self, id: u64, silently: bool) {
        let now = self.now;
        let Some(way) = self.directions.get_mut(&id) else { return };
        let (opposite, ended) = (way.opposite, way.ended);
        (way.writer, way.ended) = (None, true);
        if let Some(back) = self.directions.get_mut(&opposite) {
            back.reader_gone = true;
            back.reader = None;
            back.arrived.clear();
        }
        if !silently && !ended {
            self.send(id, now, Piece::Reset);
        }
    }

    fn connect(&mut self, wake: &mut Vec<Waker>) {
        let due: Vec<u64> = self
            .connecting
            .iter()
            .filter(|(_, connecting)| connecting.due <= self.now && !connecting.answered)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(connecting) = self.connecting.get(&id) else { continue };
            let (from, local, to) = (connecting.from, connecting.local, connecting.to);
            let Some(target) = host_of(to.ip()).filter(|target| self.is_up(*target)) else { continue };
            if self.way(from, target).cut || self.way(target, from).cut {
                continue;
            }
            let answered = connecting.outcome.is_some();
            if answered {
                if let Some(connecting) = self.connecting.get_mut(&id) {
                    connecting.answered = true;
                    wake.extend(connecting.waker.take());
                }
                continue;
            }
            let outcome = self.accept(from, local, target, to.port(), wake);
            let due = self.now + self.delay(target, from);
            if let Some(connecting) = self.connecting.get_mut(&id) {
                (connecting.outcome, connecting.due) = (Some(outcome), due);
            }
        }
    }

    /// The connection request has arrived.
    fn accept(
        &mut self,
        from: HostId,
        local: SocketAddr,
        target: HostId,
        port: u16,
        wake: &mut Vec<Waker>,
    ) -> io::Result<(u64, u64)> {
        let (there, back) = (self.take_id(), self.take_id());
        let direction = |from, to, opposite| Direction {
            from,
            to,
            opposite,
            on_its_way: VecDeque::new(),
            on_its_way_bytes: 0,
            arrived: VecDeque::new(),
            ended: false,
            end_arrived: false,
            reset: false,
            reader_gone: false,
            reader: None,
            writer: None,
        };
        let listening = self.hosts.get_mut(&target).and_then(|host| host.listeners.get_mut(&port));
        let Some(listening) = listening.filter(|listening| listening.waiting.len() < BACKLOG) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        listening.waiting.push_back((there, back, local));
        wake.extend(listening.waker.take());
        self.directions.insert(there, direction(from, target, back));
        self.directions.insert(back, direction(target, from, there));
        self.counts.connections += 1;
        Ok((back, there))
    }
}

/// The network as one process sees it.
#[derive(Clone)]
pub struct HostNetwork {
    fabric: Fabric,
    host: HostId,
    life: u64,
    clock: Arc<HostClock>,
}

impl fmt::Debug for HostNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostNetwork({})", self.host)
    }
}

impl HostNetwork {
    /// The host's state, while this process lives.
    fn host<'a>(&self, state: &'a mut State) -> Option<&'a mut HostState> {
        state.hosts.get_mut(&self.host).filter(|host| host.up && host.life == self.life)
    }

    fn socket(&self, read: u64, write: u64) -> HostSocket {
        HostSocket { network: self.clone(), read, write }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the process has ended")
}

impl Network for HostNetwork {
    fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let mut state = self.fabric.0.lock();
        let host = self.host(&mut state).ok_or_else(gone)?;
        let port = match address.port() {
            0 => {
                host.next_port += 1;
                host.next_port - 1
            }
            port => port,
        };
        if host.listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        host.listeners.insert(port, Listening::default());
        Ok(Listener::other(Box::new(HostListener { network: self.clone(), port })))
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let to: SocketAddr = address
                .parse()
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: {e}")))?;
            let id = {
                let mut state = self.fabric.0.lock();
                let host = self.host(&mut state).ok_or_else(gone)?;
                host.next_port += 1;
                let local = SocketAddr::new(host_ip(self.host), host.next_port - 1);
                let delay = host_of(to.ip()).map_or(Duration::ZERO, |target| state.delay(self.host, target));
                let due = self.clock.simulated().max(state.now) + delay;
                let (from, outcome) = (self.host, None);
                let connecting = Connecting { from, to, local, due, outcome, answered: false, waker: None };
                let id = state.take_id();
                state.connecting.insert(id, connecting);
                id
            };
            let _forget = ForgetConnecting { network: self, id };
            std::future::poll_fn(|cx| {
                let mut state = self.fabric.0.lock();
                let Some(connecting) = state.connecting.get_mut(&id) else { return Poll::Ready(Err(gone())) };
                if !connecting.answered {
                    connecting.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                let outcome = connecting.outcome.take().unwrap_or_else(|| Err(gone()));
                Poll::Ready(outcome.map(|(read, write)| Stream::other(Arc::new(self.socket(read, write)))))
            })
            .await
        })
    }

    fn local_ip(&self, _address: &str) -> Option<IpAddr> {
        Some(host_ip(self.host))
    }
}

/// Who does not wait for a connection any more does not get one.
struct ForgetConnecting<'a> {
    network: &'a HostNetwork,
    id: u64,
}

impl Drop for ForgetConnecting<'_> {
    fn drop(&mut self) {
        let mut state = self.network.fabric.0.lock();
        let connecting = state.connecting.remove(&self.id);
        if let Some(Ok((_, write))) = connecting.and_then(|connecting| connecting.outcome) {
            state.abandon(write, false);
        }
    }
}

struct HostListener {
    network: HostNetwork,
    port: u16,
}

impl fmt::Debug for HostListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostListener({}:{})", self.network.host, self.port)
    }
}

impl Listen for HostListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Arc<dyn Socket>, SocketAddr)>> {
        let mut state = self.network.fabric.0.lock();
        let Some(host) = self.network.host(&mut state) else { return Poll::Ready(Err(gone())) };
        let Some(listening) = host.listeners.get_mut(&self.port) else { return Poll::Ready(Err(gone())) };
        match listening.waiting.pop_front() {
            Some((read, write, peer)) => Poll::Ready(Ok((Arc::new(self.network.socket(read, write)), peer))),
            None => {
                listening.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(host_ip(self.network.host), self.port)
    }
}

impl Drop for HostListener {
    fn drop(&mut self) {
        let mut state = self.network.fabric.0.lock();
        let Some(host) = self.network.host(&mut state) else { return };
        let waiting = host.listeners.remove(&self.port).map(|listening| listening.waiting);
        for (_, write, _) in waiting.into_iter().flatten() {
            state.abandon(write, false);
        }
    }
}

/// One end of a stream.
struct HostSocket {
    network: HostNetwork,
    read: u64,
    write: u64,
}

impl fmt::Debug for HostSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostSocket({})", self.network.host)
    }
}

impl Direction {
    /// What a reader finds: bytes, the end, a reset; or nothing yet.
    fn readable(&self) -> Option<io::Result<()>> {
        if !self.arrived.is_empty() {
            Some(Ok(()))
        } else if self.reset {
            Some(Err(io::ErrorKind::ConnectionReset.into()))
        } else {
            self.end_arrived.then_some(Ok(()))
        }
    }

    /// How much room a writer finds, or how the stream ended.
    fn room(&self) -> io::Result<usize> {
        if self.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(WINDOW_BYTES.saturating_sub(self.on_its_way_bytes + self.arrived.len()))
    }
}

impl HostSocket {
    /// Runs `act` on a direction while the process lives.
    fn with<T>(
        &self,
        id: u64,
        act: impl FnOnce(&mut Direction) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.network.fabric.0.lock();
        if self.network.host(&mut state).is_none() {
            return Poll::Ready(Err(gone()));
        }
        match state.directions.get_mut(&id) {
            Some(direction) => act(direction),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn put(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.network.clock.simulated();
        let mut state = self.network.fabric.0.lock();
        if self.network.host(&mut state).is_none() {
            return Err(gone());
        }
        let room = match state.directions.get(&self.write) {
            Some(direction) => direction.room()?,
            None => return Err(io::ErrorKind::ConnectionReset.into()),
        };
        let taken = room.min(bytes.len());
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.send(self.write, sent, Piece::Bytes(bytes[..taken].to_vec()));
        Ok(taken)
    }
}

impl Socket for HostSocket {
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(self.read, |direction| match direction.readable() {
            Some(Ok(())) => {
                let len = buf.remaining().min(direction.arrived.len());
                let (first, second) = direction.arrived.as_slices();
                let from_first = len.min(first.len());
                buf.put_slice(&first[..from_first]);
                buf.put_slice(&second[..len - from_first]);
                direction.arrived.drain(..len);
                if let Some(writer) = direction.writer.take() {
                    writer.wake();
                }
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                direction.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(self.read, |direction| match direction.readable() {
            // A reset is an event too: the read that follows tells it.
            Some(_) => Poll::Ready(Ok(())),
            None => {
                direction.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.put(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.poll_writable(cx))?;
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(self.write, |direction| match direction.room() {
            Ok(0) => {
                direction.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            // How it ended is told by the write that follows.
            Ok(_) | Err(_) => Poll::Ready(Ok(())),
        })
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes)
    }

    fn shut(&self, how: Shutdown) {
        let sent = self.network.clock.simulated();
        let mut state = self.network.fabric.0.lock();
        if self.network.host(&mut state).is_none() {
            return;
        }
        if how != Shutdown::Read
            && let Some(direction) = state.directions.get_mut(&self.write)
            && !direction.ended
        {
            direction.ended = true;
            state.send(self.write, sent, Piece::End);
        }
        if how != Shutdown::Write
            && let Some(direction) = state.directions.get_mut(&self.read)
        {
            direction.end_arrived = true;
            if let Some(reader) = direction.reader.take() {
                reader.wake();
            }
        }
    }
}

impl Drop for HostSocket {
    fn drop(&mut self) {
        self.shut(Shutdown::Write);
        let mut state = self.network.fabric.0.lock();
        if let Some(direction) = state.directions.get_mut(&self.read) {
            direction.reader_gone = true;
            direction.reader = None;
            direction.arrived.clear();
        }
    }
}
