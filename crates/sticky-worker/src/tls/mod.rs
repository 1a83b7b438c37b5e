//! TLS of the sockets that the master hands over: the handshake, the
//! certificate and its renewal, session tickets that any worker of the node
//! opens.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

mod certificate;
mod ticketer;

pub(crate) use certificate::Certificate;
pub(crate) use ticketer::Ticketer;

/// Between two looks at the files of the certificate. Renewal tools replace
/// them in many ways (links, directories, in place); their names are all that
/// can be relied upon.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);

/// HTTP/1.1 is what can be upgraded to a WebSocket here.
const PROTOCOL: &[u8] = b"http/1.1";

/// Where the certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate with its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("cannot read {file}: {why}")]
    Read {
        /// Which one.
        file: PathBuf,
        /// In a few words.
        why: String,
    },
    /// There is nothing of that kind in the file.
    #[error("there is no {what} in {file}")]
    Missing {
        /// Which one.
        file: PathBuf,
        /// Certificate or private key.
        what: &'static str,
    },
    /// The certificate and the key do not belong together, or are of a kind
    /// that is not supported.
    #[error("cannot use the certificate {file}: {why}")]
    Unusable {
        /// The certificate's.
        file: PathBuf,
        /// In a few words.
        why: String,
    },
}

impl TlsFiles {
    /// Finds mistakes before anything is started.
    pub fn check(&self) -> Result<(), TlsError> {
        certificate::load(self).map(|_| ())
    }
}

/// What a worker needs to speak TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
    ticketer: Arc<Ticketer>,
    handshake_time: Duration,
}

impl Tls {
    /// Reads the certificate. A handshake may take `handshake_time`.
    pub(crate) fn new(files: TlsFiles, handshake_time: Duration) -> Result<Tls, TlsError> {
        let certificate = Arc::new(Certificate::new(files)?);
        let ticketer = Arc::new(Ticketer::default());
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions");
        let mut config = builder
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.ticketer = ticketer.clone();
        // What only this process remembers is of no use on the next worker.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
            ticketer,
            handshake_time,
        })
    }

    pub(crate) fn ticketer(&self) -> &Arc<Ticketer> {
        &self.ticketer
    }

    /// Shakes hands, within the time for it.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let accepted = tokio::time::timeout(self.handshake_time, self.acceptor.accept(tcp));
        accepted
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Looks for a renewed certificate, for ever.
    pub(crate) async fn keep_renewed(self) {
        loop {
            tokio::time::sleep(RENEWAL_INTERVAL).await;
            self.certificate.renew();
        }
    }
}
