//! One HTTP/1.1 connection, one request at a time.

use std::rc::Rc;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::target::Target;

/// More than any answer of a Socket.IO server has.
const HEADERS_MAX: usize = 48;
const HEAD_MAX: usize = 16 * 1024;
/// A log-in's list of 10,000 users has some 1.2 MB.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// A connection that is opened when it is first used, and again when the server has closed it.
#[derive(Debug)]
pub(crate) struct Connection {
    target: Rc<Target>,
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The body of a `200`; an error otherwise.
    pub(crate) fn ok(self) -> anyhow::Result<String> {
        if self.status != 200 {
            bail!("answered {}: {:.100}", self.status, self.body);
        }
        Ok(self.body)
    }
}

impl Connection {
    pub(crate) fn new(target: &Rc<Target>) -> Connection {
        Connection {
            target: target.clone(),
            stream: None,
            received: Vec::new(),
        }
    }

    /// `GET path`.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        let host = &self.target.host;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n");
        self.request(&request).await
    }

    /// `POST path` with a text.
    pub(crate) async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<Answer> {
        let (host, length) = (&self.target.host, body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\
             Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.request(&request).await
    }

    async fn request(&mut self, request: &str) -> anyhow::Result<Answer> {
        if let Some(stream) = self.stream.take() {
            let answer = self.exchange(stream, request).await;
            // Closed while nobody used it: every client then takes a new one.
            if answer.is_ok() || !self.received.is_empty() {
                return answer;
            }
        }
        let stream = self.target.connect().await.context("cannot connect")?;
        self.exchange(stream, request).await
    }

    /// The stream is kept when all went well and the server does not close it.
    async fn exchange(&mut self, mut stream: TcpStream, request: &str) -> anyhow::Result<Answer> {
        self.received.clear();
        stream.write_all(request.as_bytes()).await?;
        loop {
            if let Some((answer, length, closes)) = read_answer(&self.received)? {
                if self.received.len() > length {
                    bail!("more than one answer");
                }
                self.stream = Some(stream).filter(|_| !closes);
                return Ok(answer);
            }
            self.received.reserve(2048);
            if stream.read_buf(&mut self.received).await? == 0 {
                bail!("closed before the end of an answer");
            }
        }
    }
}

/// Where an answer's body is.
enum Body {
    Length(usize),
    Chunks,
}

/// An answer, its length with head and body, and whether the connection ends with it; `None`
/// as long as it is not all there.
fn read_answer(received: &[u8]) -> anyhow::Result<Option<(Answer, usize, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(received).context("not an HTTP answer")? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if received.len() > HEAD_MAX => {
            bail!("the answer's head is too long")
        }
        httparse::Status::Partial => return Ok(None),
    };
    let (mut body, mut closes) = (Body::Length(0), response.version == Some(0));
    for header in response.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().context("content-length is not a number")?;
            body = Body::Length(length);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunks;
        } else if header.name.eq_ignore_ascii_case("connection") {
            closes = value.eq_ignore_ascii_case("close");
        }
    }
    let rest = &received[head..];
    let (body, length) = match body {
        Body::Length(length) if length > BODY_MAX => bail!("an answer of {length} bytes"),
        Body::Length(length) if rest.len() < length => return Ok(None),
        Body::Length(length) => (rest[..length].to_vec(), length),
        Body::Chunks => match read_chunks(rest)? {
            Some(body) => body,
            None => return Ok(None),
        },
    };
    let answer = Answer {
        status: response.code.unwrap_or_default(),
        body: String::from_utf8(body).context("the answer is not UTF-8")?,
    };
    Ok(Some((answer, head + length, closes)))
}

/// A chunked body, and its length on the wire; `None` as long as it is not all there. Trailers
/// are not understood: nobody sends them here.
fn read_chunks(received: &[u8]) -> anyhow::Result<Option<(Vec<u8>, usize)>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let size = httparse::parse_chunk_size(&received[at..]);
        let size = size.map_err(|_| anyhow::anyhow!("not a chunk"))?;
        let httparse::Status::Complete((line, size)) = size else {
            return Ok(None);
        };
        if body.len() as u64 + size > BODY_MAX as u64 {
            bail!("an answer of more than {BODY_MAX} bytes");
        }
        let from = at + line;
        let until = from + size as usize;
        match received.get(until..until + 2) {
            Some(b"\r\n") => body.extend_from_slice(&received[from..until]),
            Some(_) => bail!("a chunk without an end"),
            None => return Ok(None),
        }
        at = until + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer is not there before its last byte is, and nothing behind it belongs to it.
    fn read(text: &str) -> (Answer, bool) {
        let more = format!("{text}HTTP/1.1 200 OK");
        for length in 0..text.len() {
            assert!(
                read_answer(&text.as_bytes()[..length]).unwrap().is_none(),
                "{length}"
            );
        }
        let (answer, length, closes) = read_answer(more.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        (answer, closes)
    }

    #[test]
    fn an_answer_is_read_once_it_is_complete() {
        let (answer, closes) =
            read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        assert_eq!(
            (answer.status, answer.body.as_str(), closes),
            (200, "hello", true)
        );
        let (answer, closes) = read("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(
            (answer.status, answer.body.as_str(), closes),
            (400, "", false)
        );
        assert!(answer.ok().is_err());
    }

    #[test]
    fn chunks_are_put_together() {
        let (answer, _) = read(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nhel\r\nA;x=y\r\nlo, world!\r\n0\r\n\r\n",
        );
        assert_eq!(answer.body, "hello, world!");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnothing",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(read_answer(text.as_bytes()).is_err(), "{text}");
        }
    }
}
