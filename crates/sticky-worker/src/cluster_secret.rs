//! What the nodes of a cluster prove to each other.

use std::fmt;

use ring::hmac;

/// Proves that a node belongs to the cluster. It is never sent.
#[derive(Clone)]
pub struct ClusterSecret(hmac::Key);

impl ClusterSecret {
    /// Should be long and random: who overhears nodes greet each other can try
    /// guesses at home.
    pub fn new(secret: &str) -> Self {
        ClusterSecret(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    pub(crate) fn prove(&self, role: Role, said: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(role.label());
        said.iter().for_each(|part| context.update(part));
        context.sign()
    }

    /// In a time that does not depend on the content.
    pub(crate) fn is_proof(&self, role: Role, said: &[&[u8]], proof: &[u8]) -> bool {
        let all = [&[role.label()], said].concat().concat();
        hmac::verify(&self.0, &all, proof).is_ok()
    }
}

/// Without the secret.
impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret")
    }
}

/// Who proves something, so that nobody's proof can be sent back to them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Owner,
    Caller,
}

impl Role {
    fn label(self) -> &'static [u8] {
        match self {
            Role::Owner => b"chat-cluster relay 1: owner\0",
            Role::Caller => b"chat-cluster relay 1: caller\0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_secret_one_role_and_one_conversation() {
        let secret = ClusterSecret::new("0123456789abcdef");
        let proof = secret.prove(Role::Owner, &[b"ab", b"c"]);
        assert!(secret.is_proof(Role::Owner, &[b"ab", b"c"], proof.as_ref()));
        assert!(!secret.is_proof(Role::Caller, &[b"ab", b"c"], proof.as_ref()));
        assert!(!secret.is_proof(Role::Owner, &[b"ab", b"d"], proof.as_ref()));
        let other = ClusterSecret::new("0123456789abcdeF");
        assert!(!other.is_proof(Role::Owner, &[b"ab", b"c"], proof.as_ref()));
    }
}
