//! Header values, and the addresses that some program reads in them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn read(value: &str) -> Option<Vec<String>> {
    addresses(value.as_bytes()).map(|found| found.iter().map(ToString::to_string).collect())
}

#[test]
fn every_honest_way_to_write_a_sender_is_understood() {
    let cases: [(&str, &[&str]); 18] = [
        ("a@b.c", &["a@b.c"]),
        ("<a@b.c>", &["a@b.c"]),
        ("Alice <a@b.c>", &["a@b.c"]),
        ("\"Doe, Alice\" <a@b.c>", &["a@b.c"]),
        ("\"x@evil.com\" <a@b.c>", &["a@b.c"]),
        ("\"Alice \\\"Al\\\" Doe\" <a@b.c>", &["a@b.c"]),
        ("John Q. Public <a@b.c>", &["a@b.c"]),
        ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?= <a@b.c>", &["a@b.c"]),
        ("=?utf-8?B?w6Q=?= =?utf-8?B?w6Q=?= <a@b.c>", &["a@b.c"]),
        ("Müller <müller@b.c>", &["müller@b.c"]),
        ("a@b.c (R&D @ Acme)", &["a@b.c"]),
        ("a@b.c (=?utf-8?Q?M=C3=BCller?=)", &["a@b.c"]),
        ("(x (y) \\) z) Alice (w) <a@b.c> (v)", &["a@b.c"]),
        ("a@b.c, Bob <b@b.c>,", &["a@b.c", "b@b.c"]),
        ("Team: a@b.c, Bob <b@b.c>;", &["a@b.c", "b@b.c"]),
        ("\"first.last\"@b.c", &["first.last@b.c"]),
        ("first.last+tag@B.C", &["first.last+tag@B.C"]),
        (" \t a@b.c ", &["a@b.c"]),
    ];
    for (value, expected) in cases {
        assert_eq!(
            read(value).as_deref(),
            Some(&expected.iter().map(|&s| s.to_owned()).collect::<Vec<_>>()[..]),
            "{value}"
        );
    }
}

#[test]
fn what_another_program_could_read_differently_is_refused() {
    for value in [
        "",
        "  ",
        "(only a comment)",
        "nobody:;",
        "Alice",
        "<>",
        "Alice <>",
        "<a@b.c> x@evil.com",
        "<a@b.c> <x@evil.com>",
        "<a@b.c",
        "a@b.c>",
        "<<a@b.c>>",
        "<a@b.c>>",
        "a@b.c x@evil.com",
        "a@b.c@evil.com",
        "a @b.c",
        "a@ b.c",
        "a.(x)b@b.c",
        "<@evil.com:a@b.c>",
        "<@evil.com,@x.y:a@b.c>",
        "\"x@evil.com\"@b.c",
        "\"a b\"@b.c",
        "x.\"a\"@b.c",
        "\"a\".x@b.c",
        "a@[1.2.3.4]",
        "\"open <a@b.c>",
        "(open <a@b.c>",
        "close) <a@b.c>",
        "a@b.c; x@evil.com",
        "A: B: a@b.c;;",
        "A: a@b.c",
        "a\\b@b.c",
        "a@b.c\u{202e}",
        "a\u{200b}@b.c",
        "((((((((((a)))))))))) a@b.c",
        // Some readers decode these and show another address ("Mailsploit").
        "=?utf-8?B?Ym9zc0BldmlsLmNvbQ==?=@b.c",
        "Boss <=?utf-8?Q?boss=40evil.com?=@b.c>",
        "\"=?utf-8?Q?boss=40evil.com=00?=\"@b.c",
    ] {
        assert_eq!(read(value), None, "{value}");
    }
}

#[test]
fn one_angle_address_may_have_any_name_whose_own_addresses_are_read_too() {
    let cases: [(&[u8], &[&str]); 19] = [
        (b"a@b.c <a@b.c>", &["a@b.c", "a@b.c"]),
        (b"[JIRA] Bot <a@b.c>", &["a@b.c"]),
        (b"R&D @ Acme <a@b.c>", &["a@b.c"]),
        (b"@ Acme <a@b.c>", &["a@b.c"]),
        (b"x@b.c via Shop <a@b.c>", &["x@b.c", "a@b.c"]),
        (b"M\xfcller <a@b.c>", &["a@b.c"]),
        (b"\"M\xfcller\" <a@b.c>", &["a@b.c"]),
        (b"M\xfcller (B\xfcro) <a@b.c>", &["a@b.c"]),
        (b"Acme\xa0Shop <a@b.c>", &["a@b.c"]),
        ("Acme\u{a0}Shop <a@b.c>".as_bytes(), &["a@b.c"]),
        (b"Doe, Alice <a@b.c>", &["a@b.c"]),
        (b"Alert: disk; full <a@b.c>", &["a@b.c"]),
        (b"[x] \"Bot\" <a@b.c> ", &["a@b.c"]),
        // Read by some program, so it has to be allowed too.
        (b"x@evil.com <a@b.c>", &["x@evil.com", "a@b.c"]),
        (b"x@bank <a@b.c>", &["x@bank", "a@b.c"]),
        (b"x @ evil.com <a@b.c>", &["x@evil.com", "a@b.c"]),
        (b"ceo @ bank, Bob <a@b.c>", &["ceo@bank", "a@b.c"]),
        (b"Team: ceo @ bank; <a@b.c>", &["ceo@bank", "a@b.c"]),
        (b"\"x@evil.com\" [y] <a@b.c>", &["x@evil.com", "a@b.c"]),
    ];
    for (value, expected) in cases {
        let found = addresses(value).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            found.as_deref(),
            Some(&expected.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()[..]),
            "{}",
            value.escape_ascii()
        );
    }
}

#[test]
fn a_name_with_an_at_sign_that_no_address_explains_is_refused() {
    let cases: [&[u8]; 17] = [
        b"x@ evil.com [y] <a@b.c>",
        b"=?utf-8?Q?ceo=40bank=2Eexample?= [x] <a@b.c>",
        b"x @evil.com [y] <a@b.c>",
        b"x@\xa0evil.com <a@b.c>",
        b"x @ bank . com [y] <a@b.c>".as_slice(),
        b"x @ [192.0.2.1] <a@b.c>",
        "x @ evil\u{3002}com <a@b.c>".as_bytes(),
        b"\"x\"@evil.com [y] <a@b.c>",
        b"=?utf-8?Q?x?=@b.c [y] <a@b.c>",
        b"[x] <a@b.c> <a@b.c>",
        b"[x] <a@b.c> y",
        b"[x > y] <a@b.c>",
        b"[x <a@b.c",
        b"[\xfc \"\x95\\\" <x@evil.com> \" <a@b.c>",
        b"[x] \"open <a@b.c>",
        b"[x (open <a@b.c>",
        "[x]\u{202e} <a@b.c>".as_bytes(),
    ];
    for value in cases {
        // What is read as an address is judged: it must not be allowed where only b.c is.
        let found = addresses(value);
        let is_refused = found.is_none_or(|found| found.iter().any(|found| !found.to_string().ends_with("@b.c")));
        assert!(is_refused, "{}", value.escape_ascii());
    }
    assert_eq!(addresses(b"[\xfc] <\xfc@b.c>"), None, "an address is read for certain or not at all");
}

#[test]
fn an_address_in_a_comment_or_in_quoted_angle_brackets_is_a_sender_too() {
    for value in [
        "a@b.c (<x@bank>)",
        "a@b.c (x@bank)",
        "a@b.c (y (z <x@bank>) (w))",
        "a@b.c (y \\) <x@bank>)",
        "(x@bank) a@b.c",
        "Alice (x@bank) <a@b.c>",
        "Alice <a@b.c> (x @ bank, Bob)",
        "Alice <a@b.c (x@bank)>",
        "[y] <a@b.c (x@bank)>",
        "Team (x@bank): a@b.c;",
        "\"<x@bank>\" <a@b.c>",
        "\"y \\\" <x@bank>\" <a@b.c>",
        "\"y \\\" x@bank\" <a@b.c>",
        "a@b.c (<x @ bank>)",
        "a@b.c (x @ bank> y)",
        "\"y <x @ bank>\" <a@b.c>",
        "\"x@bank, y\" <a@b.c>",
        "\"y, x@bank\" <a@b.c>",
        "\"y; x@bank\" <a@b.c>",
        "\"x @ bank, y\" <a@b.c>",
        "y \"z\" \"x@bank, w\" <a@b.c>",
        "\"x@bank, y\": a@b.c;",
    ] {
        let found = read(value).unwrap_or_default();
        assert_eq!(found, ["a@b.c", "x@bank"], "{value}");
    }
}

#[test]
fn a_comment_whose_at_sign_no_address_explains_is_refused() {
    for value in [
        "a@b.c (@bank)",
        "a@b.c (x@ bank)",
        "a@b.c (x @bank)",
        "a@b.c (x\\@bank)",
        "a@b.c (=?utf-8?Q?x?=@b.c)",
        "a@b.c (open <x@bank>",
        "a@b.c (open \\) <x@bank>",
        "x@(bank) <a@b.c>",
        "\"<x@>\" <a@b.c>",
        "\"x@, y\" <a@b.c>",
    ] {
        assert_eq!(read(value), None, "{value}");
    }
}

/// Overlong UTF-8 (RFC 3629 §3), which some programs still decode.
#[test]
fn an_overlong_form_hides_no_address_and_a_letter_of_another_character_set_is_no_overlong_form() {
    let cases: [(&[u8], Option<&[&str]>); 11] = [
        (b"x\xc1\x80bank <a@b.c>", Some(&["a@b.c", "x@bank", "a@b.c"])),
        (b"x\xe0\x81\x80bank <a@b.c>", Some(&["a@b.c", "x@bank", "a@b.c"])),
        (b"\"x\xf0\x80\x81\x80bank\" <a@b.c>", Some(&["a@b.c", "x@bank", "a@b.c"])),
        (b"\xc0\xbcx@b.c\xc0\xbe <a@b.c>", None),
        (b"\"x\xc0\xbcx\xc1\x80bank\xc0\xbe\" <a@b.c>", None),
        (b"x\xc0\xa2 <a@b.c>", None),
        (b"\xc0 la carte <a@b.c>", Some(&["a@b.c"])),
        (b"\xc1\xa0lvaro <a@b.c>", Some(&["a@b.c", "a@b.c"])),
        (b"\xabVoil\xc0\xbb <a@b.c>", Some(&["a@b.c", "a@b.c"])),
        (b"\x93\xc0\x94 <a@b.c>", Some(&["a@b.c"])),
        (b"M\xfcller\xa0\xc1 <a@b.c>", Some(&["a@b.c"])),
    ];
    for (value, expected) in cases {
        let found = addresses(value).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
        let expected = expected.map(|texts| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(found, expected, "{}", value.escape_ascii());
    }
}

/// RFC 5322 §4.4 allows white space and comments around the dots of an address.
#[test]
fn an_address_that_a_dot_beside_it_could_continue_is_refused() {
    for value in [
        "ceo. x@b.c <x@b.c>",
        "ceo . x@b.c <x@b.c>",
        "ceo.(y)x@b.c <x@b.c>",
        "ceo. (y (z)) (w) x@b.c <x@b.c>",
        "ceo. x @ b.c <x@b.c>",
        "ceo .x@b.c <x@b.c>",
        "ceo(y).x@b.c <x@b.c>",
        "\"ceo\". x@b.c <x@b.c>",
        "x@b.c .evil.com <x@b.c>",
        "x@b.c . evil.com <x@b.c>",
        "x@b.c. evil.com <x@b.c>",
        "x@b.c (y).evil.com <x@b.c>",
        "x@b.c(y) (z (w)) .evil.com <x@b.c>",
        "x@b.c \u{3002}evil.com <x@b.c>",
        "x@b.c (ceo. x@b.c)",
        "x@b.c (x@b.c .evil.com)",
        "\"<x@b.c .evil.com>\" <x@b.c>",
        // Honest, but no different from the first.
        "Dr. x@b.c <x@b.c>",
    ] {
        assert_eq!(read(value), None, "{value}");
    }
}

#[test]
fn a_dot_that_continues_no_address_may_stand_in_a_name() {
    for value in [
        "x@b.c via Shop <x@b.c>",
        "x@b.c via Shop Inc. <x@b.c>",
        "Dr. Smith x@b.c <x@b.c>",
        "x@b.c (Shop Inc.) <x@b.c>",
        "Team (Shop Inc.) x@b.c <x@b.c>",
        "St. R&D @ Acme x@b.c <x@b.c>",
        // Joined by a few programs, but never into a domain that does not begin with b.c; docs/sending.md has a row.
        "x@b.c evil.com <x@b.c>",
    ] {
        let found = read(value).unwrap_or_default();
        assert_eq!(found, ["x@b.c"; 2], "{value}");
    }
}

#[test]
fn an_invisible_or_control_character_is_refused_in_comments_and_quotes_too() {
    for value in [
        "a@b.c (<a@b.c\u{200b}.evil.com>)",
        "a@b.c (y (\u{202e}z))",
        "a@b.c (y\u{2028}z)",
        "\"y\u{fffa}z\" <a@b.c>",
        "\"y\u{e0100}z\" <a@b.c>",
        "a@b.c (y\u{1}z)",
        "a@b.c (y\\\u{1}z)",
        "Team (\u{feff}y): a@b.c;",
        "\"y\u{200b}z\" <a@b.c>",
        "\"<a@b.c\u{200b}.evil.com>\" <a@b.c>",
        "\"y\\\u{200b}z\" <a@b.c>",
        "\"y\\\u{1}z\" <a@b.c>",
        "[y] <a@b.c (\u{200b})>",
    ] {
        assert_eq!(read(value), None, "{}", value.escape_unicode());
    }
    assert_eq!(read("\"\u{2764}\u{fe0f} \u{260e}\u{fe0e}\" <a@b.c>").unwrap_or_default(), ["a@b.c"]);
    assert_eq!(read("\"y\tz\" <a@b.c> (y\tz)").unwrap_or_default(), ["a@b.c"]);
}

#[test]
fn at_signs_are_counted_over_all_comments_and_stop_the_search() {
    let scanned = |text: &str, count: usize| text.repeat(count);
    for (text, is_address) in [("(a@b.c)", true), ("(R&D @ Acme)", false)] {
        let value = scanned(text, ADDRESSES_MAX);
        let found = scan(&value).and_then(|scanned| scanned.aside()).map(|found| found.len());
        assert_eq!(found, Some(if is_address { ADDRESSES_MAX } else { 0 }), "{text}");
        let value = scanned(text, ADDRESSES_MAX + 1);
        assert!(scan(&value).is_some_and(|scanned| scanned.aside().is_none()), "{text}");
    }
}

/// Reads the words with an `@` as a program does that allows white space and comments around dots.
fn words_with_an_at_sign(text: &str) -> Vec<String> {
    let mut text = text.to_owned();
    while let Some(open) = text.find(')').and_then(|close| text[..close].rfind('(')) {
        let close = text[open..].find(')').map_or(text.len(), |length| open + length + 1);
        text.replace_range(open..close, " ");
    }
    let dotted = text.split('.').map(str::trim).collect::<Vec<_>>().join(".");
    dotted.split([' ', '(', ')']).filter(|word| word.contains('@')).map(str::to_owned).collect()
}

proptest! {
    #[test]
    fn whatever_stands_around_it_no_address_hides_in_a_comment_or_in_quotes(
        before in "[a-c@<>,;:\"() .\u{200b}\\\\\\[]{0,8}",
        sign in " {0,2}@ {0,2}",
        after in "[a-c@<>,;:\"() .\u{200b}\\\\\\[]{0,8}",
    ) {
        for value in [
            format!("a@b.c ({before}<x{sign}bank>{after})"),
            format!("\"{before}<x{sign}bank>{after}\" <a@b.c>"),
            format!("[y] ({before}<x{sign}bank>{after}) <a@b.c>"),
        ] {
            if let Some(found) = read(&value) {
                prop_assert!(found.iter().any(|found| found == "x@bank"), "{}: {:?}", value, found);
                prop_assert!(!value.contains('\u{200b}'), "{}", value.escape_unicode());
            }
        }
    }

    #[test]
    fn an_address_is_read_with_all_that_its_dots_join(before in "[ab .()]{0,8}", after in "[ab .()]{0,8}") {
        let name = format!("{before}x@b.c{after}");
        if let Some(found) = read(&format!("{name} <a@b.c>")) {
            for word in words_with_an_at_sign(&name) {
                prop_assert!(found.contains(&word), "{}: {:?} lacks {}", name, found, word);
            }
        }
    }

    #[test]
    fn nothing_makes_the_parser_fail_and_what_it_finds_stood_there(
        value in "[a-c@.<>,;:\"() .\u{200b}\\\\\\[]{0,40}",
    ) {
        for address in addresses(value.as_bytes()).into_iter().flatten() {
            prop_assert!(value.contains(address.local()), "{} in {}", address, value);
        }
    }

    #[test]
    fn no_octets_make_the_parser_fail_or_hide_an_address(
        before in vec(any::<u8>(), 0..60),
        after in vec(any::<u8>(), 0..60),
    ) {
        let decoded = with_overlong_forms_decoded(&before);
        let texts = [String::from_utf8_lossy(&before), String::from_utf8_lossy(&decoded)];
        for address in addresses(&before).into_iter().flatten() {
            prop_assert!(texts.iter().any(|text| text.contains(address.local())), "{} in {:?}", address, texts);
        }
        let visible: Vec<u8> = before.iter().map(|octet| octet | 0x20).collect();
        for before in [before, visible] {
            for (value, hidden) in [
                ([&before[..], b" <a@b.c>"].concat(), "a@b.c"),
                ([&before[..], b" x@bank <a@b.c>"].concat(), "x@bank"),
                ([&before[..], b" \xc1\xb8\xc1\x80bank <a@b.c>"].concat(), "x@bank"),
                ([b"a@b.c (", &before[..], b"<x @ bank>", &after[..], b")"].concat(), "x@bank"),
                ([b"\"", &before[..], b"<x @ bank>", &after[..], b"\" <a@b.c>"].concat(), "x@bank"),
            ] {
                if let Some(found) = addresses(&value) {
                    let is_found = found.iter().any(|found| found.to_string() == hidden);
                    prop_assert!(is_found, "{}: {:?}", value.escape_ascii(), found);
                }
            }
        }
    }
}
