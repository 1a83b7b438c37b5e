//! Events that other programs publish, by HTTP or on a channel of Redis, and what clients send as the
//! payload of theirs.

#![no_main]

use chat_worker::chat::message::Draft;
use chat_worker::chat::outside::OutsideEvent;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = OutsideEvent::from_json(bytes);
    if let Ok(payload) = serde_json::from_slice(bytes) {
        let _ = Draft::from_payload(payload, 64 * 1024);
    }
});
