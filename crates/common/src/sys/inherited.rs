//! Descriptors that were open when this program began: the process image before
//! it, or who started it, left them open on purpose and says their numbers.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Standard input, output and error are never given to anyone.
const FIRST: RawFd = 3;

/// Takes such a descriptor, which is close-on-exec from here on.
///
/// # Errors
/// `InvalidInput` when the number is not one of an open descriptor that came with
/// the program. What this process opened itself is close-on-exec, as is what was
/// taken before: so nothing can be taken from its owner, or twice.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    let wrong = || {
        let why = format!("{number} is not a descriptor that was passed on");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    if number < FIRST {
        return Err(wrong());
    }
    // SAFETY: only looked at and marked; a number that is not open gives an error
    // (EBADF). The borrow ends before anything could close it: whoever owns a
    // descriptor that is not close-on-exec here is nobody, see below.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    match fcntl_getfd(borrowed) {
        Ok(flags) if !flags.contains(FdFlags::CLOEXEC) => {}
        _ => return Err(wrong()),
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: open, and owned by nobody: std, tokio and this project open
    // everything close-on-exec, so it was open when the program began, and the
    // mark set above keeps it from being taken a second time.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn only_what_came_with_the_program_is_taken_and_once() {
        let (own, _writer) = io::pipe().unwrap();
        assert!(take(own.as_raw_fd()).is_err());
        for number in [-1, 0, 2, 1_000_000] {
            assert!(take(number).is_err(), "{number}");
        }
        // As an image before this one leaves it.
        let passed = rustix::io::dup(&own).unwrap().into_raw_fd();
        let taken = take(passed).unwrap();
        assert!(fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
        assert!(take(passed).is_err());
    }
}
