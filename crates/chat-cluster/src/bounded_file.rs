//! Small files that an operator names: settings and secrets. What is not small is a mistake.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Most bytes that are read.
const MAX: u64 = 1 << 20;

/// The text of a file of at most 1 MiB.
///
/// # Errors
/// It cannot be read, is larger, or is no UTF-8.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX + 1).read_to_string(&mut text)?;
    if read as u64 > MAX {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused() {
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 1 MiB");
    }
}
