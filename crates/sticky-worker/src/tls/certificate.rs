//! The certificate that a worker shows, read again when its files change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{TlsError, TlsFiles};

/// The certificate in use.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: TlsFiles,
    current: RwLock<Arc<CertifiedKey>>,
    /// The files as they were when they were last read, and whether that failed.
    seen: Mutex<(Fingerprint, bool)>,
}

/// What changes when a file is replaced or written to: device, inode, size and
/// time of its last change. `None`: it is not there.
type Fingerprint = [Option<[i64; 5]>; 2];

impl Certificate {
    pub(crate) fn new(files: TlsFiles) -> Result<Self, TlsError> {
        // Before reading: a change meanwhile is seen the next time.
        let seen = fingerprint(&files);
        let current = RwLock::new(Arc::new(load(&files)?));
        Ok(Certificate {
            files,
            current,
            seen: Mutex::new((seen, false)),
        })
    }

    /// Reads the files again if they changed. While they cannot be used, half
    /// written for instance, the old certificate stays.
    pub(crate) fn renew(&self) {
        let mut seen = self.seen.lock().expect("never poisoned");
        let now = fingerprint(&self.files);
        let changed = now != seen.0;
        if !changed && !seen.1 {
            return;
        }
        match load(&self.files) {
            Ok(renewed) => {
                *self.current.write().expect("never poisoned") = Arc::new(renewed);
                *seen = (now, false);
                let file = self.files.certificate.display();
                tracing::info!(%file, "the TLS certificate was renewed");
            }
            Err(error) => {
                // Once a change, and tried on: the other file may be on its way.
                if changed {
                    tracing::warn!(%error, "the old TLS certificate stays in use");
                }
                *seen = (now, true);
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().expect("never poisoned").clone())
    }
}

fn fingerprint(files: &TlsFiles) -> Fingerprint {
    [&files.certificate, &files.key].map(|file| {
        let found = fs::metadata(file).ok()?;
        Some([
            found.dev() as i64,
            found.ino() as i64,
            found.size() as i64,
            found.mtime(),
            found.mtime_nsec(),
        ])
    })
}

/// Reads and checks both files.
pub(super) fn load(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&files.certificate, "certificate", &error))?;
    if chain.is_empty() {
        return Err(TlsError::Missing {
            file: files.certificate.clone(),
            what: "certificate",
        });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unreadable(&files.key, "private key", &error))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
        TlsError::Unusable {
            file: files.certificate.clone(),
            why: error.to_string(),
        }
    })
}

fn unreadable(file: &Path, what: &'static str, error: &pem::Error) -> TlsError {
    let file = file.to_owned();
    match error {
        pem::Error::NoItemsFound => TlsError::Missing { file, what },
        pem::Error::Io(error) => TlsError::Read {
            file,
            why: error.to_string(),
        },
        other => TlsError::Read {
            file,
            why: other.to_string(),
        },
    }
}
