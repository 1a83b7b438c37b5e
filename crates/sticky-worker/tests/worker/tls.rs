//! TLS that the worker terminates.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::handoff::{Packet, SocketInfo, Speaks};
use common::ticket_keys::{TicketKey, TicketKeys};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use sticky_worker::TlsFiles;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{HttpClient, ask_websocket, ended, polling, read_exactly, websocket};
use crate::fake_engine::FakeEngine;
use crate::stub_master::{Member, Running, StubMaster};
use crate::until;

const TLS: SocketInfo = SocketInfo {
    peer: None,
    counted: None,
    speaks: Speaks::Tls,
    balanced: true,
    known_us: 0,
};

/// Writes a new certificate and its key; gives the certificate as it is on the wire.
fn certificate(dir: &Path) -> (TlsFiles, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    fs::write(&files.certificate, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().to_vec())
}

/// A client that trusts this certificate and keeps its tickets.
fn client(certificate: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn connect(
    master: &StubMaster,
    member: &mut Member,
    client: &TlsConnector,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = master.connect_as(member, TLS).await;
    let name = ServerName::try_from("localhost").unwrap();
    client.connect(name, stream).await
}

async fn start(master: &StubMaster, worker: u8, files: &TlsFiles) -> Running {
    let mut config = master.config(worker);
    config.tls = Some(files.clone());
    config.greeting_time = Duration::from_millis(400);
    master.start_with(config, FakeEngine::default()).await
}

fn keys(number: u8) -> TicketKeys {
    let key = TicketKey {
        name: [number; 16],
        made: number.into(),
        key: [number; 32],
    };
    [key].into_iter().collect()
}

/// One whole exchange, after which the client has its tickets.
async fn exchange(stream: TlsStream<TcpStream>) -> String {
    HttpClient::over(stream).await.get("/client").await.body
}

#[tokio::test]
async fn requests_and_websockets_come_through() {
    let master = StubMaster::new().await;
    let (files, certificate) = certificate(master.dir.path());
    let mut running = start(&master, 1, &files).await;
    let client = client(&certificate);
    let stream = connect(&master, &mut running.member, &client)
        .await
        .unwrap();
    let mut http = HttpClient::over(stream).await;
    let sid = http.open().await;
    let posted = http.post(&polling(&sid), vec![b'x'; 900_000]).await;
    assert_eq!(posted.body, "ok");
    assert_eq!(http.get(&polling(&sid)).await.body, "4900000");
    let told = http.get("/client").await.body;
    assert!(told.ends_with("Https"), "{told}");
    let mut stream = connect(&master, &mut running.member, &client)
        .await
        .unwrap();
    let head = ask_websocket(&mut stream, &websocket(Some(&sid))).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let sent: Vec<u8> = (0..400_000u32).map(|number| number as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        writer.write_all(&sent).await.unwrap();
        writer.flush().await.unwrap();
    };
    let (read, ()) = tokio::join!(read_exactly(&mut reader, sent.len()), writing);
    assert!(read == sent);
    drop((reader, writer, http));
    let board = &running.member.board;
    until("all are gone", || board.connections.load(SeqCst) == 0).await;
    assert_eq!(board.ended.load(SeqCst), board.received.load(SeqCst));
}

#[tokio::test]
async fn a_session_resumes_on_any_worker_that_has_the_keys() {
    let master = StubMaster::new().await;
    let (files, certificate) = certificate(master.dir.path());
    let mut one = start(&master, 1, &files).await;
    let mut other = start(&master, 2, &files).await;
    let client = client(&certificate);
    // Without keys there are no tickets.
    for _ in 0..2 {
        let stream = connect(&master, &mut one.member, &client).await.unwrap();
        assert_eq!(
            stream.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Full)
        );
        exchange(stream).await;
    }
    for running in [&one, &other] {
        let packet = Packet::TicketKeys(keys(1));
        running.member.channel.send(&packet, &[]).await.unwrap();
    }
    let stream = connect(&master, &mut one.member, &client).await.unwrap();
    exchange(stream).await;
    for _ in 0..3 {
        let stream = connect(&master, &mut other.member, &client).await.unwrap();
        assert_eq!(
            stream.get_ref().1.handshake_kind(),
            Some(HandshakeKind::Resumed)
        );
        exchange(stream).await;
        // New keys seal; the old ones still open.
        let packet = Packet::TicketKeys(keys(2));
        other.member.channel.send(&packet, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn the_keys_outlive_the_master_that_made_them() {
    let mut master = StubMaster::new().await;
    let (files, _) = certificate(master.dir.path());
    let Running { member, .. } = start(&master, 1, &files).await;
    let packet = Packet::TicketKeys(keys(3));
    member.channel.send(&packet, &[]).await.unwrap();
    // Answered, so it was read.
    member
        .channel
        .send(&Packet::TicketKeys(keys(4)), &[])
        .await
        .unwrap();
    master.die();
    member.die();
    master.listen();
    let member = master.admit(Packet::Welcome).await;
    let Packet::TicketKeys(told) = member.told().await else {
        panic!("no keys");
    };
    let mut both = keys(3);
    both.merge(keys(4).iter().copied());
    assert_eq!(told, both);
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let master = StubMaster::new().await;
    let (files, old) = certificate(master.dir.path());
    let mut running = start(&master, 1, &files).await;
    let old_client = client(&old);
    let held = connect(&master, &mut running.member, &old_client)
        .await
        .unwrap();
    let mut held = HttpClient::over(held).await;
    held.get("/client").await;
    // A certificate whose key has not come yet.
    let other = tempfile::tempdir().unwrap();
    let (others, new) = certificate(other.path());
    fs::copy(&others.certificate, &files.certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let stream = connect(&master, &mut running.member, &old_client).await;
    exchange(stream.unwrap()).await;
    fs::copy(&others.key, &files.key).unwrap();
    let new_client = client(&new);
    let begun = std::time::Instant::now();
    loop {
        match connect(&master, &mut running.member, &new_client).await {
            Ok(stream) => break drop(exchange(stream).await),
            Err(error) => assert!(begun.elapsed() < crate::LONG, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What was open goes on.
    assert!(held.get("/client").await.body.ends_with("Https"));
}

#[tokio::test]
async fn who_does_not_shake_hands_is_closed_and_counted() {
    let master = StubMaster::new().await;
    let (files, _) = certificate(master.dir.path());
    let mut running = start(&master, 1, &files).await;
    let said: [&[u8]; 3] = [b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n\r\n", b""];
    for said in said {
        let mut stream = master.connect_as(&mut running.member, TLS).await;
        stream.write_all(said).await.unwrap();
        ended(&mut stream).await;
    }
    let board = &running.member.board;
    until("all are counted", || board.tls_failed.load(SeqCst) == 3).await;
    // Balanced sockets are settled all the same.
    assert_eq!(running.member.settled(), 3);
}
