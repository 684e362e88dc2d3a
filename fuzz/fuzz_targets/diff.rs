#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mizzle_fuzz_targets::run("diff", bytes));
