//! How a process says, while it dies, that it killed itself.
//!
//! `kill -9`, a power cut and a crash inside a decoder or a model leave the same silence, but only the last is a
//! reason to suspect an item. So the fatal signals that a process raises against itself are caught for as long as
//! it takes to write one line into its identity file; then they take their usual course. What cannot be caught is
//! told from outside: the kernel counts the processes it killed for want of memory, and every boot has an id.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// What an abnormal end from inside raises.
const FATAL: [Signal; 5] = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT];

/// The line that is written.
pub(super) const LINE: &str = "crashed";

/// The identity file; -1 for none.
static FILE: AtomicI32 = AtomicI32::new(-1);
/// What was installed before, in the order of [`FATAL`].
static BEFORE: OnceLock<Vec<Option<SigAction>>> = OnceLock::new();

/// From now on a fatal signal is noted in `file`, which must be open for appending.
pub(super) fn note_in(file: &fs::File) {
    FILE.store(file.as_raw_fd(), Ordering::SeqCst);
    BEFORE.get_or_init(|| {
        let action = SigAction::new(
            SigHandler::SigAction(on_fatal),
            // On the alternate stack, because the ordinary one may be what overflowed.
            SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK,
            SigSet::empty(),
        );
        FATAL
            .iter()
            .map(|&signal| {
                // SAFETY: the handler only calls async-signal-safe functions (write, sigaction, raise) and reads
                // atomics. It may run before BEFORE is set, and then restores the default action.
                unsafe { sigaction(signal, &action) }.ok()
            })
            .collect()
    });
}

/// The file is about to be closed.
pub(super) fn forget(file: &fs::File) {
    let _ = FILE.compare_exchange(file.as_raw_fd(), -1, Ordering::SeqCst, Ordering::SeqCst);
}

extern "C" fn on_fatal(number: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let fd = FILE.swap(-1, Ordering::SeqCst);
    if fd >= 0 {
        // SAFETY: `forget` takes the descriptor back before its file is closed.
        let _ = nix::unistd::write(unsafe { BorrowedFd::borrow_raw(fd) }, b"crashed\n");
    }
    let Ok(signal) = Signal::try_from(number) else { return };
    let before = BEFORE.get().and_then(|all| {
        let at = FATAL.iter().position(|&fatal| fatal == signal)?;
        all.get(at).copied().flatten()
    });
    // SAFETY: the kernel passes a valid pointer to a handler installed with SA_SIGINFO.
    let from_the_fault_itself = !info.is_null() && unsafe { (*info).si_code } > 0;
    // What was installed before us is the standard library's message about an overflown stack, or nothing. It takes a
    // signal that was sent for a fault, and returns in order to meet that again: the process would live on.
    let before = before.filter(|_| from_the_fault_itself);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: restores what was installed before us, or the default.
    let _ = unsafe { sigaction(signal, &before.unwrap_or(default)) };
    if !from_the_fault_itself {
        // Sent with kill or raise: would not come again by itself. It waits until this handler returns.
        let _ = nix::sys::signal::raise(signal);
    }
}

/// Which boot this is; empty where the system does not tell.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// How many processes the kernel has killed for want of memory, in this control group if it counts, else since
/// the boot.
pub(super) fn memory_kills() -> u64 {
    let count = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
        count(&format!("/sys/fs/cgroup{path}/memory.events"))
    });
    group.or_else(|| count("/proc/vmstat")).unwrap_or(0)
}
