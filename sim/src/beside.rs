//! Whether what runs now stands for a thread beside the network thread: then nothing that it does holds that one up.

use std::cell::Cell;

thread_local! {
    static BESIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether what runs now runs beside the network thread, and so does not hold it up.
pub(crate) fn is_beside() -> bool {
    BESIDE.get()
}

/// Does work as a thread beside the network thread does.
pub(crate) fn beside<T>(work: impl FnOnce() -> T) -> T {
    let before = BESIDE.replace(true);
    let result = work();
    BESIDE.set(before);
    result
}
