//! `malloc_trim`, which neither std nor nix knows.

/// Gives the pages back to the system in which the allocator has nothing but freed
/// memory. Takes about a millisecond for each 10 MiB that it gives back, in which
/// other threads may have to wait for memory. Does nothing where the allocator is
/// not glibc's.
pub fn give_back() {
    // SAFETY: takes the allocator's own locks, and leaves alone what is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::fs;

    /// Pages of this process in memory.
    fn resident() -> usize {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn pages_between_what_is_in_use_go_back() {
        let before = resident();
        let mut blocks: Vec<Box<[u8; 1024]>> = (0..32_768).map(|_| Box::new([7; 1024])).collect();
        let full = resident() - before;
        // One of 64 stays, so the end of the heap cannot simply be moved.
        let mut count = 0;
        blocks.retain(|_| {
            count += 1;
            count % 64 == 0
        });
        let kept = resident() - before;
        super::give_back();
        let after = resident().saturating_sub(before);
        assert!(kept > full / 2, "the allocator gives back by itself");
        assert!(after < full / 4, "{after} of {full} pages are left");
        assert!(blocks.iter().all(|block| block[0] == 7));
    }
}
