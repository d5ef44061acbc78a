#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svcnat::fuzzing::netlink_replies(data));
