//! A process on a machine: a tokio runtime of its own whose clock the simulation moves.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use raftmq_world::{Random, World};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::disk::{Ending, Machine};
use crate::network::{Fabric, HostId};
use crate::threads::HostThreads;
use crate::time::HostClock;

/// Every machine's memory.
const MEMORY_BYTES: u64 = 4 << 30;
/// Few, so that files are closed and opened again.
const OPEN_FILES_MAX: usize = 16;

/// A running process.
pub struct Process {
    host: HostId,
    /// Nothing while it is being ended.
    runtime: Option<Runtime>,
    main: JoinHandle<()>,
    clock: Arc<HostClock>,
    machine: Arc<Machine>,
    fabric: Fabric,
}

impl Process {
    /// Starts a process on a machine: `main` is what it does.
    pub fn start<F>(
        host: HostId,
        machine: &Arc<Machine>,
        fabric: &Fabric,
        now: Duration,
        random: Random,
        main: impl FnOnce(World) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let clock = Arc::new(HostClock::new(machine.clock.clone(), now));
        let leaving = fabric.clone();
        machine.on_loss(move || leaving.leave(host, true));
        let world = World {
            clock: clock.clone(),
            disk: Arc::new(machine.disk()),
            network: Arc::new(fabric.join(host, clock.clone())),
            random,
            threads: Arc::new(HostThreads::new(machine.clone())),
            process_id: host as u32 + 1,
            memory_bytes: MEMORY_BYTES,
            open_files_max: OPEN_FILES_MAX,
        };
        let main = {
            let _inside = runtime.enter();
            clock.begin();
            runtime.spawn(main(world))
        };
        Self { host, runtime: Some(runtime), main, clock, machine: machine.clone(), fabric: fabric.clone() }
    }

    /// Lets the process run until the simulation's time `now`. One that was held up beyond that does nothing.
    pub fn run_until(&self, now: Duration) {
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async { tokio::time::sleep_until(self.clock.runtime_time(now)).await });
        }
    }

    /// The process goes on after it was stopped for a while: all of that time has passed at once.
    pub fn resume(&self, now: Duration) {
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async {
                let passed =
                    self.clock.runtime_time(now).saturating_duration_since(tokio::time::Instant::now());
                tokio::time::advance(passed).await;
            });
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.main.is_finished()
    }

    /// Ends the process: with its last step, or in the middle of everything.
    pub fn end(mut self, how: Ending) {
        // First of all nothing that it does has an effect any more; then it is taken apart.
        self.machine.end(how);
        self.fabric.leave(self.host, how == Ending::PowerLost);
        drop(self.runtime.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::network::host_ip;
    use parking_lot::Mutex;
    use raftmq_world::{Next, Threads};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TICK: Duration = Duration::from_millis(1);

    /// Two processes that talk, one of them with a thread; what they saw and when.
    fn talk(seed: u64) -> Vec<String> {
        let random = Random::seeded(seed);
        let fabric = Fabric::new(random.clone());
        let log = Arc::new(Mutex::new(Vec::new()));
        let note = |log: &Arc<Mutex<Vec<String>>>, world: &World, what: &str| {
            log.lock().push(format!("{:?} {what}", world.clock.passed()));
        };
        let machines = [Machine::new(random.clone()), Machine::new(random.clone())];
        let server = {
            let log = log.clone();
            Process::start(0, &machines[0], &fabric, Duration::ZERO, random.clone(), |world| async move {
                let listener = world.network.listen(format!("{}:7", host_ip(0)).parse().unwrap()).unwrap();
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut bytes = [0; 5];
                    while stream.read_exact(&mut bytes).await.is_ok() {
                        note(&log, &world, "server read");
                        stream.write_all(&bytes).await.unwrap();
                    }
                    note(&log, &world, "server: end");
                }
            })
        };
        let client = {
            let log = log.clone();
            Process::start(1, &machines[1], &fabric, Duration::ZERO, random.clone(), |world| async move {
                let steps = Arc::new(AtomicU64::new(0));
                let counted = steps.clone();
                let step = move || match counted.fetch_add(1, Ordering::Relaxed) {
                    0..5 => Next::Again,
                    5 => Next::Wait,
                    _ => Next::End,
                };
                let worker = world.threads.start("steps", Box::new(step)).unwrap();
                let address = format!("{}:7", host_ip(0));
                for round in 0..3 {
                    let mut stream = world.network.connect(&address).await.unwrap();
                    stream.write_all(b"hello").await.unwrap();
                    let mut bytes = [0; 5];
                    stream.read_exact(&mut bytes).await.unwrap();
                    assert_eq!(&bytes, b"hello");
                    note(&log, &world, &format!("client: answer {round}"));
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                let threads: Arc<dyn Threads> = world.threads.clone();
                assert_eq!(threads.run(|| 3).await, Some(3));
                worker.wake();
                worker.join();
                assert_eq!(steps.load(Ordering::Relaxed), 7);
                assert!(world.network.connect(&format!("{}:8", host_ip(0))).await.is_err(), "nobody listens");
                note(&log, &world, "client: end");
            })
        };
        let mut now = Duration::ZERO;
        while !client.has_ended() {
            now += TICK;
            assert!(now < Duration::from_secs(5), "{:?}", log.lock());
            fabric.advance(now);
            server.run_until(now);
            client.run_until(now);
        }
        client.end(Ending::Killed);
        server.end(Ending::PowerLost);
        log.lock().clone()
    }

    #[test]
    fn processes_talk_and_the_same_seed_says_the_same() {
        let once = talk(1);
        assert_eq!(once.iter().filter(|line| line.contains("client: answer")).count(), 3);
        assert_eq!(talk(1), once);
        assert_ne!(talk(2), once);
    }

    #[test]
    fn a_sync_on_the_network_thread_holds_the_process_up() {
        let random = Random::seeded(3);
        let fabric = Fabric::new(random.clone());
        let machine = Machine::new(random.clone());
        let slow = Duration::from_millis(80);
        machine.set_pace(crate::disk::Pace { sync_min: slow, sync_max: slow });
        let process = Process::start(0, &machine, &fabric, Duration::ZERO, random, |world| async move {
            world.disk.create("/f".as_ref(), 512, raftmq_world::Space::Sparse).unwrap().sync().unwrap();
            assert_eq!(world.clock.passed(), Duration::from_millis(160));
            tokio::time::sleep(Duration::from_millis(10)).await;
        });
        let mut now = Duration::ZERO;
        while !process.has_ended() {
            now += TICK;
            process.run_until(now);
        }
        assert!((Duration::from_millis(170)..Duration::from_millis(175)).contains(&now), "{now:?}");
    }
}
