//! One page of memory that two processes see, as a value of a type made of
//! atomics.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

/// Bytes of the page.
pub const PAGE_SIZE: usize = 4096;

/// A type that may live in memory which another process changes at any time:
/// each bit pattern must be a valid value, all zeroes a meaningful first one,
/// and all access to it through `&self` must be atomic.
///
/// # Safety
/// The implementer is `repr(C)`, consists of atomic integers only, fits
/// [`PAGE_SIZE`] and is aligned to at most a page.
pub unsafe trait Shareable: Sync {}

/// A mapped page that holds a `T`.
#[derive(Debug)]
pub struct SharedPage<T> {
    map: MmapRaw,
    holds: PhantomData<T>,
}

impl<T: Shareable> SharedPage<T> {
    /// A new page of zeroes and the descriptor by which another process maps
    /// it. Its size is sealed: nobody can shrink it under a reader, who would
    /// die of SIGBUS.
    pub fn create(name: &str) -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create(name, flags)?;
        rustix::fs::ftruncate(&memory, PAGE_SIZE as u64)?;
        rustix::fs::fcntl_add_seals(&memory, required_seals())?;
        let page = Self::open(&memory)?;
        Ok((page, memory))
    }

    /// Maps another process's page. Fails with `InvalidData` when the
    /// descriptor is not a memory file of sealed, sufficient size.
    pub fn open(memory: &impl AsFd) -> io::Result<Self> {
        const { assert!(size_of::<T>() <= PAGE_SIZE && align_of::<T>() <= PAGE_SIZE) };
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        match rustix::fs::fcntl_get_seals(memory) {
            Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
            _ => return refuse("the page is not sealed against shrinking"),
        }
        if rustix::fs::fstat(memory)?.st_size < PAGE_SIZE as i64 {
            return refuse("the page is too small");
        }
        let file = File::from(memory.as_fd().try_clone_to_owned()?);
        let map = MmapOptions::new().len(PAGE_SIZE).map_raw(&file)?;
        Ok(SharedPage {
            map,
            holds: PhantomData,
        })
    }

    /// The value in the page.
    pub fn get(&self) -> &T {
        // SAFETY: the mapping is page-aligned, readable and writable, at least
        // as large as `T` (checked at open, kept by the seal) and lives as long
        // as `self`. `T: Shareable` is made of atomics for which every bit
        // pattern is valid, so the other process may change it at any time.
        unsafe { &*self.map.as_ptr().cast::<T>() }
    }
}

fn required_seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[repr(C)]
    struct Number(AtomicU64);
    // SAFETY: one atomic integer.
    unsafe impl Shareable for Number {}

    #[test]
    fn two_mappings_see_one_value() {
        let (mine, memory) = SharedPage::<Number>::create("test").unwrap();
        let theirs = SharedPage::<Number>::open(&memory).unwrap();
        drop(memory);
        mine.get().0.store(42, Ordering::SeqCst);
        assert_eq!(theirs.get().0.load(Ordering::SeqCst), 42);
    }

    #[test]
    fn an_unsealed_or_small_page_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&memory, PAGE_SIZE as u64).unwrap();
        assert!(SharedPage::<Number>::open(&memory).is_err());
        rustix::fs::ftruncate(&memory, 100).unwrap();
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
        assert!(SharedPage::<Number>::open(&memory).is_err());
        let file = tempfile::tempfile().unwrap();
        assert!(SharedPage::<Number>::open(&file).is_err());
    }
}
