//! The part of a session id that only the client and this worker know.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::sid_tag::SECRET_LENGTH;

/// Sixteen characters of the base64url alphabet: 96 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Secret([u8; SECRET_LENGTH]);

impl Secret {
    /// A new one from the system's random numbers.
    ///
    /// # Panics
    /// When the system has none, which does not happen once it runs.
    pub(crate) fn random() -> Secret {
        let mut random = [0; SECRET_LENGTH / 4 * 3];
        getrandom::fill(&mut random).expect("the system gives random numbers");
        let mut text = [0; SECRET_LENGTH];
        let written = URL_SAFE_NO_PAD.encode_slice(random, &mut text);
        debug_assert_eq!(written, Ok(SECRET_LENGTH));
        Secret(text)
    }

    /// The secret behind the tag of a session id of the right length.
    pub(crate) fn of_sid(sid: &str) -> Option<Secret> {
        Some(Secret(*sid.as_bytes().last_chunk()?))
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sixteen_plain_characters_and_new_each_time() {
        let (one, two) = (Secret::random(), Secret::random());
        assert_eq!(one.as_str().len(), 16);
        assert!(
            one.as_str()
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
        );
        assert!(one != two);
        let sid = format!("AAAA{}", one.as_str());
        assert!(Secret::of_sid(&sid) == Some(one));
    }
}
