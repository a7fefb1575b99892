//! What of the log is known to be as it was written, and what is not.
//!
//! A start checks the log from its last checkpoint on, and what is appended later was checked before. What lies below is read
//! through in the background ([`crate::scrub`]), again and again. Until that has happened once, whoever reads there checks the
//! frame that they read from; and whoever meets something broken says so here, and comes again: the scrub then reads that
//! segment first. What it finds broken is a *spot*. Who knows other members brings what they have in its place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::frame::FrameHeader;
use crate::worker::Callback;

/// Frames that are remembered to be whole until their segment was read through.
const WHOLE_MAX: usize = 65_536;
/// How often readers may meet something broken in a segment in which the scrub finds nothing. More is no damage of the disk.
const UNFOUNDED_MAX: u32 = 3;

/// A frame of the log that is not on this disk as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Where the frame begins, or should.
    pub physical_offset: u64,
    /// File and position, and what was found there.
    pub what: String,
}

/// What another member has from a spot on.
pub(crate) struct Offer {
    pub(crate) physical_offset: u64,
    pub(crate) frames: Bytes,
    /// Told whether it was put in place.
    pub(crate) callback: Callback,
}

/// Of one log.
#[derive(Default)]
pub(crate) struct Damage {
    /// Everything below was read through by the scrub, except for what is doubted.
    read_below: AtomicU64,
    /// Everything from here on was checked at the start, or later.
    checked_from: AtomicU64,
    /// Whether segments are doubted.
    any: AtomicBool,
    state: Mutex<State>,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    /// There is something for the scrub.
    scrub: Option<Box<dyn Fn() + Send + Sync>>,
    /// There is a spot that was not there before.
    spots: Option<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    /// By the physical offset of a segment.
    suspected: BTreeMap<u64, Suspicion>,
    /// By physical offset, with the segment's.
    spots: BTreeMap<u64, (u64, String)>,
    offers: VecDeque<Offer>,
    /// Physical offsets where frames begin that were found whole, and end.
    whole: BTreeMap<u64, u64>,
    mended: u64,
}

/// Readers have met something broken in a segment.
#[derive(Default)]
struct Suspicion {
    /// The scrub has not read it since.
    waits: bool,
    /// How often that has found nothing.
    unfounded: u32,
}

impl State {
    fn doubts(&self, segment: u64) -> bool {
        self.suspected.get(&segment).is_some_and(|suspicion| suspicion.waits)
            || self.spots.values().any(|(base, _)| *base == segment)
    }
}

impl std::fmt::Debug for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Damage").field("spots", &self.state.lock().spots).finish_non_exhaustive()
    }
}

impl Damage {
    /// At a start, which has read everything from here on.
    pub(crate) fn set_checked_from(&self, physical_offset: u64) {
        self.checked_from.store(physical_offset, Ordering::Release);
    }

    /// The scrub has come so far for the first time.
    pub(crate) fn read_below(&self, physical_offset: u64) {
        self.read_below.fetch_max(physical_offset, Ordering::AcqRel);
    }

    pub(crate) fn on_work(&self, wake_scrub: Box<dyn Fn() + Send + Sync>) {
        self.listeners.lock().scrub = Some(wake_scrub);
    }

    pub(crate) fn on_spot(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.listeners.lock().spots = Some(listener);
    }

    /// Whether a part of a segment is known to be as it was written.
    pub(crate) fn is_checked(&self, segment: u64, start: u64, end: u64) -> bool {
        self.is_checked_at_a_glance(start, end)
            || self.was_read(start, end) && !self.state.lock().doubts(segment)
    }

    /// The same at a glance: `false` also where another segment is doubted.
    pub(crate) fn is_checked_at_a_glance(&self, start: u64, end: u64) -> bool {
        self.was_read(start, end) && !self.any.load(Ordering::Acquire)
    }

    fn was_read(&self, start: u64, end: u64) -> bool {
        start >= self.checked_from.load(Ordering::Acquire) || end <= self.read_below.load(Ordering::Acquire)
    }

    /// Whether a frame around these bytes was found whole since the start.
    pub(crate) fn is_whole(&self, physical_offset: u64, end: u64) -> bool {
        let state = self.state.lock();
        state.whole.range(..=physical_offset).next_back().is_some_and(|(_, until)| *until >= end)
    }

    pub(crate) fn note_whole(&self, header: &FrameHeader) {
        let mut state = self.state.lock();
        if state.whole.len() >= WHOLE_MAX {
            state.whole.clear();
        }
        state.whole.insert(header.physical_offset, header.end());
    }

    /// Whether somebody brings what others have.
    pub(crate) fn is_mended(&self) -> bool {
        self.listeners.lock().spots.is_some()
    }

    /// A reader has met something broken in a segment: it is read through.
    pub(crate) fn suspect(&self, segment: u64) {
        let mut state = self.state.lock();
        if state.doubts(segment) {
            return;
        }
        state.suspected.entry(segment).or_default().waits = true;
        self.any.store(true, Ordering::Release);
        drop(state);
        self.wake_scrub();
    }

    fn wake_scrub(&self) {
        if let Some(wake) = &self.listeners.lock().scrub {
            wake();
        }
    }

    /// A segment that is to be read next.
    pub(crate) fn next_suspect(&self) -> Option<u64> {
        let state = self.state.lock();
        let mut waiting = state.suspected.iter().filter(|(_, suspicion)| suspicion.waits);
        waiting.next().map(|(segment, _)| *segment)
    }

    /// A segment was read through, and nothing broken was found where there is no spot. `false` where readers find something
    /// all the same, once more.
    pub(crate) fn seems_whole(&self, segment: u64) -> bool {
        let mut state = self.state.lock();
        let mut is_founded = true;
        if let Some(suspicion) = state.suspected.get_mut(&segment)
            && std::mem::take(&mut suspicion.waits)
        {
            suspicion.unfounded += 1;
            is_founded = suspicion.unfounded <= UNFOUNDED_MAX;
        }
        self.note_any(&state);
        is_founded
    }

    /// There is a spot.
    pub(crate) fn found(&self, segment: u64, physical_offset: u64, what: String) {
        let mut state = self.state.lock();
        state.suspected.remove(&segment);
        state.whole.retain(|_, until| *until <= physical_offset);
        let is_new = state.spots.insert(physical_offset, (segment, what.clone())).is_none();
        self.note_any(&state);
        drop(state);
        if is_new {
            tracing::error!(physical_offset, "the log is damaged, and mended from another member: {what}");
            if let Some(listener) = &self.listeners.lock().spots {
                listener();
            }
        }
    }

    /// What was broken at a spot is in place again.
    pub(crate) fn gone(&self, physical_offset: u64) {
        let mut state = self.state.lock();
        state.spots.remove(&physical_offset);
        state.mended += 1;
        self.note_any(&state);
    }

    fn note_any(&self, state: &State) {
        let any = !state.spots.is_empty() || state.suspected.values().any(|suspicion| suspicion.waits);
        self.any.store(any, Ordering::Release);
    }

    /// The spots there are.
    pub(crate) fn spots(&self) -> Vec<Spot> {
        let state = self.state.lock();
        let spot =
            |(at, (_, what)): (&u64, &(u64, String))| Spot { physical_offset: *at, what: what.clone() };
        state.spots.iter().map(spot).collect()
    }

    /// How many were mended since the start.
    pub(crate) fn mended(&self) -> u64 {
        self.state.lock().mended
    }

    /// Leaves what another member has for the scrub.
    pub(crate) fn offer(&self, offer: Offer) {
        self.state.lock().offers.push_back(offer);
        self.wake_scrub();
    }

    pub(crate) fn take_offer(&self) -> Option<Offer> {
        self.state.lock().offers.pop_front()
    }
}
