//! Files that are part of the binary, and how they are served: compressed where the client can
//! have it, and not again to who has it.

use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// One file, as the build script writes it down.
#[derive(Debug)]
pub(crate) struct File {
    /// Where it is served.
    pub(crate) path: &'static str,
    /// The value of `ETag`, in quotes.
    pub(crate) etag: &'static str,
    /// As it is.
    pub(crate) bytes: &'static [u8],
    /// The same in Brotli.
    pub(crate) br: Option<&'static [u8]>,
    /// The same in gzip.
    pub(crate) gz: Option<&'static [u8]>,
}

/// How long a client may use what it has without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caching {
    /// Not at all: it asks each time whether it has changed.
    Revalidate,
    /// For ever: the name of another content is another one.
    Immutable,
}

impl Caching {
    fn header(self) -> &'static str {
        match self {
            Caching::Revalidate => "public, max-age=0",
            Caching::Immutable => "public, max-age=31536000, immutable",
        }
    }
}

impl File {
    /// Answers a request for it.
    pub(crate) fn serve(&self, caching: Caching, request: &HeaderMap) -> Response {
        let header = |name: HeaderName, value| (name, HeaderValue::from_static(value));
        let mut headers = HeaderMap::from_iter([
            header(CACHE_CONTROL, caching.header()),
            header(ETAG, self.etag),
            header(VARY, "Accept-Encoding"),
        ]);
        if self.is_known(request) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.extend([
            header(CONTENT_TYPE, content_type(self.path)),
            header(X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ]);
        let body = match (self.br, self.gz) {
            (Some(br), _) if accepts(request, "br") => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
                br
            }
            (_, Some(gz)) if accepts(request, "gzip") => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                gz
            }
            _ => self.bytes,
        };
        (headers, body).into_response()
    }

    /// Whether the client says that it has it. Compared weakly (RFC 9110, 13.1.2): one tag stands
    /// for all encodings.
    fn is_known(&self, request: &HeaderMap) -> bool {
        let is_ours = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag;
        let values = request.get_all(IF_NONE_MATCH).iter();
        let mut texts = values.filter_map(|value| value.to_str().ok());
        texts.any(|tags| tags.split(',').map(str::trim).any(is_ours))
    }
}

fn content_type(path: &str) -> &'static str {
    let (_, extension) = path.rsplit_once('.').unwrap_or_default();
    match extension {
        "js" => "application/javascript; charset=utf-8",
        "map" => "application/json; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webmanifest" => "application/manifest+json",
        _ => "text/html; charset=utf-8",
    }
}

/// Whether the client takes `coding` (RFC 9110, 12.5.3). One that says nothing gets the file as it
/// is.
fn accepts(request: &HeaderMap, coding: &str) -> bool {
    let values = request.get_all(ACCEPT_ENCODING).iter();
    let codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut any = false;
    for entry in codings {
        let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let quality = parameters.trim().strip_prefix("q=").unwrap_or("1");
        let wanted = quality.trim().parse::<f32>().is_ok_and(|q| q > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case(coding) => return wanted,
            "*" => any = wanted,
            _ => {}
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: File = File {
        path: "/assets/sample.js",
        etag: "\"1.2.3\"",
        bytes: b"sample",
        br: Some(b"br"),
        gz: Some(b"gz"),
    };

    fn serve(name: HeaderName, value: Option<&str>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(name, value.parse().unwrap());
        }
        SAMPLE.serve(Caching::Immutable, &headers)
    }

    #[test]
    fn a_client_that_has_the_file_is_told_so() {
        let table = [
            (None, StatusCode::OK),
            (Some("\"1.2.2\""), StatusCode::OK),
            (Some("\"1.2.3\""), StatusCode::NOT_MODIFIED),
            (Some("W/\"1.2.3\""), StatusCode::NOT_MODIFIED),
            (Some("\"0\", W/\"1.2.3\""), StatusCode::NOT_MODIFIED),
            (Some("*"), StatusCode::NOT_MODIFIED),
        ];
        for (tag, status) in table {
            let response = serve(IF_NONE_MATCH, tag);
            assert_eq!(response.status(), status, "{tag:?}");
            assert_eq!(response.headers()[ETAG], "\"1.2.3\"");
        }
    }

    #[test]
    fn a_client_gets_the_smallest_that_it_takes() {
        let table = [
            (None, None),
            (Some("gzip, deflate, br, zstd"), Some("br")),
            (Some("gzip"), Some("gzip")),
            (Some("GZIP;q=0.5, br;q=0"), Some("gzip")),
            (Some("*"), Some("br")),
            (Some("br;q=0, *"), Some("gzip")),
            (Some("identity"), None),
            (Some("gzip;q=0"), None),
            (Some("gzip;q=x"), None),
            (Some("brotli"), None),
        ];
        for (accepted, coding) in table {
            let response = serve(ACCEPT_ENCODING, accepted);
            let got = response.headers().get(CONTENT_ENCODING);
            assert_eq!(
                got.map(HeaderValue::as_bytes),
                coding.map(str::as_bytes),
                "{accepted:?}"
            );
            assert_eq!(response.headers()[VARY], "Accept-Encoding");
        }
    }

    #[test]
    fn the_type_follows_the_name() {
        assert_eq!(content_type("/"), "text/html; charset=utf-8");
        assert_eq!(
            content_type("/a.min.js.map"),
            "application/json; charset=utf-8"
        );
    }
}
