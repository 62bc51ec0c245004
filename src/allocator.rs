//! jemalloc for the whole process, C and C++ included.
//!
//! CTranslate2 takes fresh buffers of megabytes for every layer of every step and gives them back at once. The C library's malloc
//! gets such buffers from the kernel and returns them there, so that each one's pages are faulted in and zeroed
//! again: a fifth of all processor time with models up to `small`. jemalloc keeps them for the next layer.
//!
//! Processor time and peak memory of transcribing the same recordings, beside the C library's malloc (2 cores, two
//! replicas of one thread, greedy, int8, medians of alternating runs):
//!
//! | allocator | tiny | base | small |
//! |---|---|---|---|
//! | jemalloc as set here | -20 % / -14 % | -21 % / -10 % | -20 % / -12 % |
//! | jemalloc, `thp:always`, 1 s decay | -23 % / +4 % | -21 % / -2 % | -22 % / -6 % |
//! | jemalloc as it comes | -2 % / -13 % | | |
//! | mimalloc 2.0 | -10 % / -10 % | +6 % / -16 % | |
//! | C library, huge pages (`hugetlb=1`) | -8 % / -1 % | -7 % / -1 % | -9 % / 0 % |
//! | C library, one arena, nothing returned | -15 % / +19 % | -20 % / -9 % | |
//!
//! Huge pages were left out for what they cost elsewhere: a quarter more memory with a very small model.

use tikv_jemallocator::Jemalloc;

/// Rust's allocations. Those of C and C++ (`malloc`, `posix_memalign`, `free`) arrive through the crate's feature that defines
/// these names in this program, for which the dynamic linker looks here first.
#[global_allocator]
static GLOBAL: Jemalloc = Jemalloc;

/// Read by jemalloc at its start, as a C string; what the environment's `MALLOC_CONF` says goes before it.
///
/// `oversize_threshold:0`: by default blocks of 8 MiB and more come from an arena that returns them to the kernel at
/// once, which is the very thing to avoid. What nobody asks for again is returned within 10 s all the same.
#[unsafe(export_name = "malloc_conf")]
static CONF: &[u8; 21] = b"oversize_threshold:0\0";
