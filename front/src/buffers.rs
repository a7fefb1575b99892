//! Buffers for reading and writing that connections share: each thread keeps a few for whichever connection is next, so
//! that idle connections hold none and busy ones do not ask the allocator.

use std::cell::RefCell;

use bytes::BytesMut;

use crate::limits::{BUFFER_BYTES_KEPT, BUFFERS_KEPT};

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, of any capacity.
pub(crate) fn take() -> BytesMut {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back; what it holds is forgotten.
pub(crate) fn give(mut buffer: BytesMut) {
    if buffer.capacity() > BUFFER_BYTES_KEPT {
        return;
    }
    buffer.clear();
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() < BUFFERS_KEPT {
            buffers.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_unless_it_is_too_large() {
        let mut buffer = take();
        buffer.extend_from_slice(&[7; 1000]);
        let capacity = buffer.capacity();
        give(buffer);
        let buffer = take();
        assert_eq!((buffer.len(), buffer.capacity()), (0, capacity));
        give(BytesMut::with_capacity(BUFFER_BYTES_KEPT + 1));
        assert_eq!(take().capacity(), 0);
    }
}
