//! How the allocator takes memory and gives it back.

/// A block of at least this size is large. More than one FUSE request carries
/// (1 MiB), for which fresh pages cost as much as the copying.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 2 << 20;

/// Has large blocks always mapped afresh and unmapped when they are freed.
///
/// glibc stops doing so when the first is freed: it raises its threshold to the
/// size of that one (mallopt(3), `M_MMAP_THRESHOLD`). Then such blocks come out
/// of the arena of their thread, which keeps them, and every page of a block
/// that is asked for empty has to be written. Other C libraries have no such
/// threshold that moves.
pub fn give_back_large() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: both arguments are plain numbers, and malloc is sound with any threshold.
        let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
        if done == 0 {
            log::warn!("the allocator may keep memory that is not used");
        }
    }
}

/// Gives back what was freed and lies between what is in use.
///
/// glibc gives back by itself only what lies at the end of an arena (malloc_trim(3)); this takes
/// the longer, the more has been freed since it was done last. Others free by the page.
pub fn give_back_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the argument is a plain number, and malloc is sound with any.
    unsafe {
        libc::malloc_trim(0);
    }
}
