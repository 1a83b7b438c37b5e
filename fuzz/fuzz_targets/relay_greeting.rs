//! The first bytes of a connection between nodes.

#![no_main]

use common::relay_hello::{LENGTH, RelayHello};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(bytes) = bytes.first_chunk::<LENGTH>()
        && let Some(hello) = RelayHello::decode(bytes)
    {
        assert_eq!(RelayHello::decode(&hello.encode()), Some(hello));
    }
});
