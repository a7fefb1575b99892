//! The secret that the members of a group share, and proving that one knows it.
//!
//! Each side of a connection draws a number and proves the secret over both numbers and both sides' hellos, with
//! HMAC-SHA-256: who listens in can neither use a proof again nor turn it round.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of a number that is drawn for one connection.
pub(crate) const NONCE_BYTES: usize = 16;
/// Bytes of a proof.
pub(crate) const PROOF_BYTES: usize = 32;

/// The shortest secret: what is shorter can be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// The longest secret.
const SECRET_BYTES_MAX: usize = 1024;

pub(crate) type Nonce = [u8; NONCE_BYTES];
pub(crate) type Proof = [u8; PROOF_BYTES];

/// What the members of a group know and nobody else does.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Who proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Who opened the connection.
    Caller,
    /// Who accepted it.
    Acceptor,
}

/// What both sides have said when they prove the secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) caller: &'a [u8],
    pub(crate) acceptor: &'a [u8],
}

impl Secret {
    /// The content of a file, without white space at its ends.
    ///
    /// # Errors
    /// It is shorter than 16 bytes, or longer than 1,024.
    pub fn new(content: &[u8]) -> Result<Self, String> {
        let secret = content.trim_ascii();
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(format!(
                "a secret of {} bytes; one has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}",
                secret.len()
            ));
        }
        Ok(Self(secret.to_vec()))
    }

    fn mac(&self, side: Side, said: Exchange<'_>) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(match side {
            Side::Caller => b"raftmq caller ",
            Side::Acceptor => b"raftmq acceptor ",
        });
        for part in [said.caller, said.acceptor] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    pub(crate) fn prove(&self, side: Side, said: Exchange<'_>) -> Proof {
        self.mac(side, said).finalize().into_bytes().into()
    }

    /// Whether that is the proof of who knows the secret, in a time that says nothing of it.
    pub(crate) fn is_proved(&self, side: Side, said: Exchange<'_>, proof: &Proof) -> bool {
        self.mac(side, said).verify_slice(proof).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_side_one_exchange_and_one_secret() {
        let secret = Secret::new(b"  a secret of members\n").unwrap();
        assert_eq!(secret, Secret::new(b"a secret of members").unwrap());
        let said = Exchange { caller: b"1", acceptor: b"2" };
        let proof = secret.prove(Side::Caller, said);
        assert!(secret.is_proved(Side::Caller, said, &proof));
        assert!(!secret.is_proved(Side::Acceptor, said, &proof));
        for other in [Exchange { caller: b"2", acceptor: b"1" }, Exchange { caller: b"12", acceptor: b"" }] {
            assert!(!secret.is_proved(Side::Caller, other, &proof), "{other:?}");
        }
        assert!(!Secret::new(b"another secret of members").unwrap().is_proved(Side::Caller, said, &proof));
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn what_can_be_guessed_is_no_secret() {
        assert!(Secret::new(b"short").is_err_and(|e| e.contains("5 bytes")));
        assert!(Secret::new(&[b' '; 100]).is_err_and(|e| e.contains("0 bytes")));
        assert!(Secret::new(&[b'a'; 1025]).is_err());
    }
}
