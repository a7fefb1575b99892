//! One connection of the load generator: a closed loop with a fixed number of requests in flight.
//!
//! Everything that one read brings is answered by as many new requests in one write; the clock is read once for each
//! of those rounds.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use raftmq_world::Stream;

use super::frames::{OPAQUE_END, OPAQUE_MIN, Template, remark, timestamp_digits};
use super::tally::Tally;
use super::target::Target;
use super::wire::{STALLED, Wire};

/// Responses have some 300 bytes: room for several hundred of them in a read.
const READ_BUFFER_BYTES: usize = 256 * 1024;
/// The pause after a round with errors, so that a server that refuses is not asked a million times a second.
const PAUSE_AFTER_ERRORS: Duration = Duration::from_millis(5);

/// When a run begins to count and when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Times of samples are counted from here.
    pub(super) epoch: Instant,
    pub(super) measure_from: Instant,
    pub(super) until: Instant,
}

#[derive(Clone, Copy)]
struct Slot {
    opaque: u32,
    sent_ns: u64,
}

/// The state of a connection. A slot is a request in flight; its opaque tells which slot it is.
pub(super) struct Loop<'a> {
    templates: &'a [Template],
    next_template: usize,
    window: Window,
    slots: Vec<Slot>,
    counter: u32,
    /// Requests that may still be issued.
    budget: &'a Cell<u64>,
    /// Slots without a request in flight, once the budget is spent.
    idle: usize,
    wire: Wire,
    errors_in_round: bool,
}

impl<'a> Loop<'a> {
    /// `index` keeps the unique keys of connections apart and starts each at another queue.
    pub(super) fn new(
        templates: &'a [Template],
        in_flight: u32,
        index: u32,
        window: Window,
        budget: &'a Cell<u64>,
    ) -> Self {
        let slots = (0..in_flight).map(|slot| Slot { opaque: OPAQUE_MIN + slot, sent_ns: 0 }).collect();
        Self {
            templates,
            next_template: index as usize % templates.len(),
            window,
            slots,
            counter: index << 24,
            budget,
            idle: 0,
            wire: Wire::new(READ_BUFFER_BYTES),
            errors_in_round: false,
        }
    }

    /// Connects and runs until the window ends, the budget is spent, or the connection breaks; in the latter case what
    /// was in flight counts as errors, and a connection that does not come about as one.
    pub(super) async fn run(&mut self, target: &Target, tally: &mut Tally) -> Result<(), String> {
        let mut stream = target.connect().await.inspect_err(|_| tally.errors += 1)?;
        self.start();
        let outcome = self.exchange(&mut stream, tally).await;
        if outcome.is_err() {
            tally.errors += (self.slots.len() - self.idle) as u64;
        }
        outcome.map_err(|e| format!("{}: {e}", target.addr))
    }

    fn start(&mut self) {
        self.wire.clear();
        self.idle = 0;
        let now = Instant::now();
        let timestamp = timestamp_now();
        for slot in 0..self.slots.len() {
            self.issue(slot, now, &timestamp);
        }
    }

    async fn exchange(&mut self, stream: &mut Stream, tally: &mut Tally) -> Result<(), String> {
        while self.idle < self.slots.len() {
            let exchanged = tokio::time::timeout(STALLED, self.wire.exchange(stream)).await;
            exchanged.map_err(|_| format!("no response for {} s", STALLED.as_secs()))??;
            let now = Instant::now();
            if now >= self.window.until {
                break;
            }
            self.answer(now, tally)?;
            if std::mem::take(&mut self.errors_in_round) {
                tokio::time::sleep(PAUSE_AFTER_ERRORS).await;
            }
        }
        Ok(())
    }

    /// Counts every complete response in the input and puts a new request in each one's place.
    fn answer(&mut self, now: Instant, tally: &mut Tally) -> Result<(), String> {
        let timestamp = timestamp_now();
        let now_ns = self.nanos(now);
        let counts = now >= self.window.measure_from;
        while let Some(response) = self.wire.input.next()? {
            let slot = response.opaque.wrapping_sub(OPAQUE_MIN) as usize % self.slots.len();
            let Slot { opaque, sent_ns } = self.slots[slot];
            if opaque != response.opaque {
                return Err(format!("a response to request {}, which is not in flight", response.opaque));
            }
            if response.code != 0 {
                self.errors_in_round = true;
                tally.refused(response.code, || remark(response.header));
            } else if counts {
                tally.acknowledged(now_ns - sent_ns);
            }
            self.slots[slot].opaque = next_opaque(opaque, self.slots.len() as u32);
            self.issue(slot, now, &timestamp);
        }
        Ok(())
    }

    #[inline]
    fn issue(&mut self, slot: usize, now: Instant, timestamp: &[u8; 13]) {
        let Some(rest) = self.budget.get().checked_sub(1) else {
            self.idle += 1;
            return;
        };
        self.budget.set(rest);
        self.slots[slot].sent_ns = self.nanos(now);
        self.templates[self.next_template].write(
            &mut self.wire.output,
            self.slots[slot].opaque,
            timestamp,
            self.counter,
        );
        self.counter = self.counter.wrapping_add(1);
        self.next_template += 1;
        if self.next_template == self.templates.len() {
            self.next_template = 0;
        }
    }

    /// Since the run's epoch; 64 bits last for centuries.
    #[inline]
    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.window.epoch).as_nanos() as u64
    }
}

/// The opaque a slot uses after `opaque`, which keeps its remainder by the number of slots.
fn next_opaque(opaque: u32, slots: u32) -> u32 {
    match opaque + slots {
        next if next < OPAQUE_END => next,
        _ => OPAQUE_MIN + (opaque - OPAQUE_MIN) % slots,
    }
}

pub(super) fn timestamp_now() -> [u8; 13] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    timestamp_digits(now.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaques_start_over_and_keep_their_slot() {
        for slots in [1, 7, 64] {
            for slot in 0..slots {
                let mut opaque = OPAQUE_END - 1 - slots + slot;
                let mine = (opaque - OPAQUE_MIN) % slots;
                for _ in 0..4 {
                    opaque = next_opaque(opaque, slots);
                    assert!((OPAQUE_MIN..OPAQUE_END).contains(&opaque));
                    assert_eq!((opaque - OPAQUE_MIN) % slots, mine);
                }
            }
        }
    }
}
