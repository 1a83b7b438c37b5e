//! What comes on the channels of the JavaScript adapter: whoever has the Redis can publish there.

#![no_main]

use bytes::Bytes;
use redis_adapter::broadcast::Header;
use redis_adapter::request::Request;
use redis_adapter::response::Response;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let message = Bytes::copy_from_slice(bytes);
    if let Ok(header) = Header::read(&message) {
        let _ = header.packet();
    }
    let _ = Request::read(&message);
    let _ = Response::read(&message);
});
