//! The worker's own relay socket: other workers, and proxies that want to, reach
//! it here by plain HTTP/1.1.

use std::io;
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};

use crate::relay_preface::{self, Preface};
use crate::stream_state::Origin;

/// After an accept that failed, for want of descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Hands every connection to `serve`, for ever.
pub(crate) async fn accept(listener: UnixListener, serve: impl Fn(UnixStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream),
            Err(error) => {
                tracing::warn!(%error, "relay socket");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Reads the preface, if there is one, and not a byte more. `None` when the
/// connection ends before it says anything.
pub(crate) async fn origin(stream: &mut UnixStream) -> io::Result<Option<Origin>> {
    match first_byte(stream).await? {
        None => return Ok(None),
        Some(relay_preface::FIRST_BYTE) => {}
        Some(_) => return Ok(Some(Origin::plain_relay())),
    }
    let mut bytes = [0; relay_preface::LENGTH];
    stream.read_exact(&mut bytes).await?;
    match Preface::decode(&bytes) {
        Some(preface) => Ok(Some(preface.origin())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Looks without taking.
async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    loop {
        stream.readable().await?;
        let mut byte = [0];
        let looked = stream.try_io(Interest::READABLE, || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let (count, _) = rustix::net::recv(stream, &mut byte, flags)?;
            Ok(count)
        });
        match looked {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::client_info::ClientScheme;

    #[tokio::test]
    async fn a_preface_is_taken_off_and_says_who_the_client_is() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        let peer = Some("192.0.2.1:80".parse().unwrap());
        let preface = Preface {
            peer,
            scheme: ClientScheme::Https,
        };
        client.write_all(&preface.encode()).await.unwrap();
        client.write_all(b"GET").await.unwrap();
        let origin = origin(&mut server).await.unwrap().unwrap();
        assert_eq!((origin.peer, origin.relayed), (peer, true));
        assert_eq!(origin.scheme, ClientScheme::Https);
        let mut rest = [0; 3];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"GET");
    }

    #[tokio::test]
    async fn without_a_preface_nothing_is_taken_and_relaying_is_allowed() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.write_all(b"GET").await.unwrap();
        let origin = origin(&mut server).await.unwrap().unwrap();
        assert!(!origin.relayed);
        let mut rest = [0; 3];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"GET");
    }

    #[tokio::test]
    async fn a_silent_end_and_a_wrong_preface_are_told_apart() {
        let (client, mut server) = UnixStream::pair().unwrap();
        drop(client);
        assert!(origin(&mut server).await.unwrap().is_none());
        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.write_all(&[0; relay_preface::LENGTH]).await.unwrap();
        assert!(origin(&mut server).await.is_err());
    }
}
