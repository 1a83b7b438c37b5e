//! Who may be who: user names, and the ids that name users, sessions and messages.

/// Longest user name, in characters after trimming.
pub const USERNAME_MAX: usize = 64;

/// Longest id that a client may send, in characters.
pub const ID_MAX: usize = 64;

/// The trimmed user name, or `None` when it is empty or longer than [`USERNAME_MAX`] characters.
pub fn username(raw: &str) -> Option<&str> {
    let name = raw.trim();
    // The byte bound first: counting the characters of a megabyte is work an attacker chooses.
    let fits = name.len() <= USERNAME_MAX * 4 && name.chars().count() <= USERNAME_MAX;
    (!name.is_empty() && fits).then_some(name)
}

/// Whether `id` is 1 to [`ID_MAX`] characters of `[A-Za-z0-9_-]`: the only ids that become part
/// of a Redis key, a channel or a room name.
pub fn is_id(id: &str) -> bool {
    (1..=ID_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// What could not be done: the system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// A new random id of 24 characters, 144 bits.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_id() -> Result<String, NoRandomness> {
    use base64::Engine as _;
    let mut bytes = [0u8; 18];
    getrandom::fill(&mut bytes)?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_has_1_to_64_characters_after_trimming() {
        let longest = "ü".repeat(64);
        let too_long = "ü".repeat(65);
        let table: &[(&str, Option<&str>)] = &[
            ("", None),
            ("   \t\n", None),
            ("ada", Some("ada")),
            ("  ada lovelace ", Some("ada lovelace")),
            ("李", Some("李")),
            (&longest, Some(&longest)),
            (&too_long, None),
        ];
        for (raw, expected) in table {
            assert_eq!(username(raw), *expected, "{raw:?}");
        }
    }

    #[test]
    fn an_id_is_1_to_64_of_the_url_safe_alphabet() {
        let longest = "a".repeat(64);
        for good in ["a", "A-z_09", longest.as_str()] {
            assert!(is_id(good), "{good:?}");
        }
        let too_long = "a".repeat(65);
        for bad in ["", " ", "a b", "a#b", "a:b", "ä", "{a}", too_long.as_str()] {
            assert!(!is_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn random_ids_are_ids_and_differ() {
        let a = random_id().unwrap();
        let b = random_id().unwrap();
        assert!(is_id(&a) && is_id(&b));
        assert_eq!(a.len(), 24);
        assert_ne!(a, b);
    }
}
