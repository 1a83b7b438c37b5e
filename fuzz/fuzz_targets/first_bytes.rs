//! What a client sends first: a PROXY protocol header, a request head with its session id, cookie
//! and forwarded addresses.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sticky_master::fuzz::first_bytes(bytes));
