//! Rooms by their code: their members, and messages to them from outside.

use anyhow::bail;

use super::target::Target;
use super::websocket::WebSocket;

/// Joins that one client has under way; the server allows 64.
const JOINS: usize = 50;

/// Connects to `/rooms` and joins these rooms.
pub(crate) async fn enter(
    target: &Target,
    codes: impl Iterator<Item = String>,
) -> anyhow::Result<WebSocket> {
    let mut socket = WebSocket::open(target, None).await?;
    expect(&mut socket, "0{").await?;
    socket.send("40/rooms,".into()).await?;
    expect(&mut socket, "40/rooms,").await?;
    let mut codes = codes.peekable();
    while codes.peek().is_some() {
        let mut joins = 0;
        for code in codes.by_ref().take(JOINS) {
            let join = format!(r#"42/rooms,{joins}["join",{{"roomCode":"{code}"}}]"#);
            socket.feed(join).await?;
            joins += 1;
        }
        socket.flush().await?;
        for _ in 0..joins {
            let ack = expect(&mut socket, "43/rooms,").await?;
            if !ack.ends_with(r#"[{"ok":true}]"#) {
                bail!("not joined: {ack}");
            }
        }
    }
    Ok(socket)
}

async fn expect(socket: &mut WebSocket, beginning: &str) -> anyhow::Result<String> {
    let text = socket.next().await?.to_string();
    if !text.starts_with(beginning) {
        bail!("{beginning} was expected: {text}");
    }
    Ok(text)
}

/// Where messages to that room are published.
pub(crate) fn channel(code: &str) -> String {
    format!("socket.io#/rooms#{code}#")
}

/// How the event of such a message begins at its members, before the content.
pub(crate) const EVENT: &str = r#"42/rooms,["MSG_TO_CLIENTS",""#;

/// An event for one room as `@socket.io/redis-emitter` writes it, in MessagePack.
/// At most 255 bytes each.
pub(crate) fn packet(code: &str, content: &str) -> Vec<u8> {
    let mut out = vec![0x93];
    text(&mut out, "emitter");
    out.push(0x83);
    text(&mut out, "type");
    out.push(2);
    text(&mut out, "data");
    out.push(0x92);
    text(&mut out, "MSG_TO_CLIENTS");
    text(&mut out, content);
    text(&mut out, "nsp");
    text(&mut out, "/rooms");
    out.push(0x83);
    text(&mut out, "rooms");
    out.push(0x91);
    text(&mut out, code);
    text(&mut out, "flags");
    out.push(0x80);
    text(&mut out, "except");
    out.push(0x90);
    out
}

/// A text of at most 255 bytes.
fn text(out: &mut Vec<u8>, text: &str) {
    match text.len() as u8 {
        short @ ..32 => out.push(0xa0 | short),
        long => out.extend([0xd9, long]),
    }
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_what_the_emitter_writes() {
        let written = packet("r", &"x".repeat(100));
        let hex: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        let head = "93a7656d697474657283a47479706502a46461746192ae4d53475f544f5f434c49454e5453d964";
        assert!(hex.starts_with(head), "{hex}");
        let tail = "a36e7370a62f726f6f6d7383a5726f6f6d7391a172a5666c61677380a665786365707490";
        assert!(hex.ends_with(tail), "{hex}");
        assert_eq!(hex.len() / 2, (head.len() + tail.len()) / 2 + 100);
    }
}
