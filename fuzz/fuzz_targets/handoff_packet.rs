//! The packets between a master and a worker.

#![no_main]

use common::handoff::Packet;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::decode(bytes) {
        let mut again = Vec::new();
        packet.encode(&mut again);
        assert_eq!(Packet::decode(&again), Ok(packet));
    }
});
