//! The few plain answers that the master itself may give.

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Garbage, TLS on the plain port, or another HTTP version.
    NotHttp,
    /// The head was not complete in time.
    HeadTooSlow,
    /// The head has more bytes than are looked at.
    HeadTooLarge,
    /// No worker can serve.
    NoWorker,
}

impl Refusal {
    /// The status code.
    pub(crate) fn status(self) -> u16 {
        match self {
            Refusal::NotHttp => 400,
            Refusal::HeadTooSlow => 408,
            Refusal::HeadTooLarge => 431,
            Refusal::NoWorker => 503,
        }
    }

    /// The whole response.
    pub(crate) fn response(self) -> String {
        let (reason, extra, text) = match self {
            Refusal::NotHttp => ("Bad Request", "", "This is a plain HTTP/1.1 port.\n"),
            Refusal::HeadTooSlow => ("Request Timeout", "", "The request head took too long.\n"),
            Refusal::HeadTooLarge => (
                "Request Header Fields Too Large",
                "",
                "The request head is larger than 8 KiB.\n",
            ),
            Refusal::NoWorker => (
                "Service Unavailable",
                "Retry-After: 1\r\n",
                "No worker can serve right now.\n",
            ),
        };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n{extra}\r\n{text}",
            self.status(),
            text.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_a_whole_response() {
        for refusal in [
            Refusal::NotHttp,
            Refusal::HeadTooSlow,
            Refusal::HeadTooLarge,
            Refusal::NoWorker,
        ] {
            let bytes = refusal.response();
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut headers);
            let head = response.parse(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!(response.code, Some(refusal.status()));
            let header = |name| {
                let found = headers.iter().find(|header| header.name == name);
                found.map(|header| str::from_utf8(header.value).unwrap())
            };
            let length = (bytes.len() - head).to_string();
            assert_eq!(header("Content-Length"), Some(length.as_str()));
            assert_eq!(header("Connection"), Some("close"));
            assert_eq!(
                header("Retry-After").is_some(),
                refusal == Refusal::NoWorker
            );
        }
    }
}
