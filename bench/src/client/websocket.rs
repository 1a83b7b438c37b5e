//! A Socket.IO connection over a WebSocket: texts in, texts out.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::target::Target;

/// An idle client should cost the generator little.
const READ_BUFFER: usize = 2048;

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket(WebSocketStream<TcpStream>);

impl WebSocket {
    /// Opens a WebSocket, of a new session or of the one that `sid` names.
    pub(crate) async fn open(target: &Target, sid: Option<&str>) -> anyhow::Result<WebSocket> {
        let sid = sid.map_or(String::new(), |sid| format!("&sid={sid}"));
        let host = &target.host;
        let url = format!("ws://{host}/socket.io/?EIO=4&transport=websocket{sid}");
        let stream = target.connect().await.context("cannot connect")?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
        Ok(WebSocket(socket))
    }

    /// The client's end of the connection.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }

    /// The next packet's text. A ping is answered on the way. Can be dropped at any await.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Utf8Bytes> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    self.send("3".into()).await?;
                }
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(_))) | None => bail!("the server closed the WebSocket"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the WebSocket broke"),
            }
        }
    }

    /// Writes a packet to the buffer; [`WebSocket::flush`] sends it.
    pub(crate) async fn feed(&mut self, text: String) -> anyhow::Result<()> {
        Ok(self.0.feed(Message::text(text)).await?)
    }

    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush().await?)
    }

    pub(crate) async fn send(&mut self, text: String) -> anyhow::Result<()> {
        Ok(self.0.send(Message::text(text)).await?)
    }
}
