//! Lets buffers of clients grow no further than their contents need, so that what is accounted, their lengths, is close to
//! the memory that they take.

/// Room beyond the contents: an eighth of them, and this many bytes.
const LEAST_ROOM: usize = 16;

/// Appends `bytes`. A `Vec` that grows by itself takes up to twice its length.
pub(crate) fn append(buffer: &mut Vec<u8>, bytes: &[u8]) {
    if buffer.capacity() - buffer.len() < bytes.len() {
        buffer.reserve_exact(bytes.len() + buffer.len() / 8 + LEAST_ROOM);
    }
    buffer.extend_from_slice(bytes);
}

/// Drops the first `n` bytes, and gives back most of the room that they took.
pub(crate) fn drop_front(buffer: &mut Vec<u8>, n: usize) {
    buffer.drain(..n);
    buffer.shrink_to(buffer.len() + buffer.len() / 8 + LEAST_ROOM);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_capacity_is_close_to_the_length_whatever_is_appended_and_dropped(
            steps in prop::collection::vec((0..5000usize, 0..5000usize), 1..60)
        ) {
            let (mut buffer, mut expected) = (Vec::new(), Vec::new());
            for (n, (appended, dropped)) in steps.into_iter().enumerate() {
                let bytes = vec![n as u8; appended];
                append(&mut buffer, &bytes);
                expected.extend_from_slice(&bytes);
                prop_assert!(buffer.capacity() <= buffer.len() + buffer.len() / 8 + LEAST_ROOM);
                let dropped = dropped.min(buffer.len());
                drop_front(&mut buffer, dropped);
                expected.drain(..dropped);
                prop_assert!(buffer.capacity() <= buffer.len() + buffer.len() / 8 + LEAST_ROOM);
                prop_assert_eq!(&buffer, &expected);
            }
        }

        #[test]
        fn many_small_pieces_are_copied_few_times(piece in 1..1500usize) {
            let (mut buffer, mut moved, mut capacity) = (Vec::new(), 0, 0);
            while buffer.len() < 1024 * 1024 {
                let before = buffer.len();
                append(&mut buffer, &vec![0; piece]);
                if buffer.capacity() != capacity {
                    capacity = buffer.capacity();
                    moved += before;
                }
            }
            prop_assert!(moved < 10 * buffer.len(), "{moved} bytes were copied for {}", buffer.len());
        }
    }
}
