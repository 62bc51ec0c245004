//! Arithmetic that the encoder and the decoder share, for processors that multiply bytes (AVX-512 VNNI) and bfloat16.

use std::sync::{Mutex, PoisonError};

pub mod layer;
pub mod matrix;
pub mod positions;
pub mod vector;

/// Values of an attention head. All of Whisper's models have this many.
pub const HEAD: usize = 64;

/// Whether this processor has the instructions.
pub fn is_supported() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vnni")
        && std::arch::is_x86_feature_detected!("avx512bf16")
}

/// Does `work` with each of `items` on as many as `threads` threads, this one among them; whichever is free takes the next.
pub fn share<T: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) + Sync) {
    if threads < 2 || items.len() < 2 {
        items.into_iter().for_each(work);
        return;
    }
    let threads = threads.min(items.len());
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(run)));
        run();
    });
}
