#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| franking::checks::body::check(bytes));
