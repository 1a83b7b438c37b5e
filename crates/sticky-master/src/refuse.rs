//! The few plain answers that the master itself may give.

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Garbage, TLS on the plain port, or another HTTP version.
    NotHttp,
    /// Plain HTTP, or anything else, on the TLS port.
    NotTls,
    /// It should have begun with a PROXY protocol header.
    NoProxyHeader,
    /// The head was not complete in time.
    HeadTooSlow,
    /// The head has more bytes than are looked at.
    HeadTooLarge,
    /// No worker can serve.
    NoWorker,
    /// There are as many connections as there may be.
    TooMany,
    /// The same, of one address.
    TooManyOfAddress,
    /// Too many come of one address within a short time.
    TooFastOfAddress,
}

impl Refusal {
    /// All there are.
    pub(crate) const ALL: [Refusal; 9] = [
        Refusal::NotHttp,
        Refusal::NotTls,
        Refusal::NoProxyHeader,
        Refusal::HeadTooSlow,
        Refusal::HeadTooLarge,
        Refusal::NoWorker,
        Refusal::TooMany,
        Refusal::TooManyOfAddress,
        Refusal::TooFastOfAddress,
    ];

    /// The status code.
    pub(crate) fn status(self) -> u16 {
        match self {
            Refusal::NotHttp | Refusal::NotTls | Refusal::NoProxyHeader => 400,
            Refusal::HeadTooSlow => 408,
            Refusal::TooManyOfAddress | Refusal::TooFastOfAddress => 429,
            Refusal::HeadTooLarge => 431,
            Refusal::NoWorker | Refusal::TooMany => 503,
        }
    }

    /// In a few words, for the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Refusal::NotHttp => "not HTTP/1",
            Refusal::NotTls => "not TLS",
            Refusal::NoProxyHeader => "without a PROXY protocol header",
            Refusal::HeadTooSlow => "head too slow",
            Refusal::HeadTooLarge => "head too large",
            Refusal::NoWorker => "no worker could serve",
            Refusal::TooMany => "too many connections",
            Refusal::TooManyOfAddress => "too many connections of one address",
            Refusal::TooFastOfAddress => "too many new connections of one address",
        }
    }

    /// Whether it may be sent to who does not speak plain HTTP: whatever it is,
    /// it was not what it should be.
    pub(crate) fn is_for_any_protocol(self) -> bool {
        matches!(self, Refusal::NotTls | Refusal::NoProxyHeader)
    }

    /// The whole response.
    pub(crate) fn response(self) -> String {
        let (reason, extra, text) = match self {
            Refusal::NotHttp => ("Bad Request", "", "This is a plain HTTP/1.1 port.\n"),
            Refusal::NotTls => ("Bad Request", "", "This is an HTTPS port.\n"),
            Refusal::NoProxyHeader => (
                "Bad Request",
                "",
                "This port takes connections with a PROXY protocol header only.\n",
            ),
            Refusal::HeadTooSlow => ("Request Timeout", "", "The request head took too long.\n"),
            Refusal::HeadTooLarge => (
                "Request Header Fields Too Large",
                "",
                "The request head is too large.\n",
            ),
            Refusal::NoWorker => (
                "Service Unavailable",
                "Retry-After: 1\r\n",
                "No worker can serve right now.\n",
            ),
            Refusal::TooMany => (
                "Service Unavailable",
                "Retry-After: 1\r\n",
                "There are too many connections.\n",
            ),
            Refusal::TooManyOfAddress => (
                "Too Many Requests",
                "Retry-After: 1\r\n",
                "There are too many connections of this address.\n",
            ),
            Refusal::TooFastOfAddress => (
                "Too Many Requests",
                "Retry-After: 1\r\n",
                "Too many new connections come from this address.\n",
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
        for refusal in Refusal::ALL {
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
                matches!(refusal.status(), 429 | 503)
            );
        }
    }
}
