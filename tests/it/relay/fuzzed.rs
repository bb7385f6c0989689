//! What the fuzzer checks, over its seeds: so a seed that once broke something is a test for ever.

use std::path::Path;

use super::checks;

/// Runs a check over all seeds of its target.
fn holds(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut seeds = 0;
    for seed in std::fs::read_dir(&folder).expect("seeds") {
        let path = seed.expect("a seed").path();
        println!("{}", path.display());
        check(&std::fs::read(path).expect("a seed"));
        seeds += 1;
    }
    assert!(seeds > 3, "{target} has {seeds} seeds");
}

#[test]
fn every_command_of_the_seeds_is_safe_to_repeat_or_refused() {
    holds("command", checks::command::check);
}

#[test]
fn every_login_of_the_seeds_ends() {
    holds("sasl", checks::sasl::check);
}

#[test]
fn every_body_of_the_seeds_follows_the_plain_rules() {
    holds("body", checks::body::check);
}

#[test]
fn no_header_of_the_seeds_hides_a_sender() {
    holds("header", checks::header::check);
}

#[test]
fn every_dialogue_of_the_seeds_has_its_replies() {
    holds("dialogue", checks::dialogue::check);
}

#[test]
fn every_proxy_header_of_the_seeds_is_the_same_whole_and_in_pieces() {
    holds("proxy", checks::proxy::check);
}
