//! How scopes and keys, which are any text, become names of files, objects and
//! tags.
//!
//! ASCII letters, digits, `-` and `.` stand for themselves, `__` for `_`, and
//! `_XX` for any other byte; a `.` or `-` at the start is written so too, for
//! `.` and `..` are no file names and a tag begins with neither (distribution-spec,
//! `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`). That is injective, it can be read back,
//! and what begins with a prefix has a name that begins with the prefix's.
//!
//! What would become too long is cut, and gets `_-` and a sha256 of the whole:
//! such a name cannot be read back, so the ref says its key itself. No name of
//! the first kind holds `_-`, so the two kinds never meet.

use super::digest::Digest;

/// The longest name of a file or an object's last part. File systems allow 255 bytes.
const LONGEST_NAME: usize = 200;
/// The longest tag (distribution-spec, "Pulling manifests").
const LONGEST_TAG: usize = 128;
/// `_-` and the digits of a sha256.
const HASH: usize = 2 + 64;
/// Between scope and key in a tag; no encoded text holds it.
const BETWEEN: &str = "_.";

/// A name that was found in a store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// What it stands for.
    Whole(T),
    /// It was cut: the ref says what it stands for.
    Cut,
    /// Not one of ours.
    Foreign,
}

fn encode_to(text: &str, pieces: &mut Vec<String>) {
    for (index, byte) in text.bytes().enumerate() {
        pieces.push(match byte {
            b'_' => "__".to_owned(),
            b'.' | b'-' if index > 0 => char::from(byte).to_string(),
            _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            _ => format!("_{byte:02X}"),
        });
    }
}

fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'_' {
            bytes.push(byte);
            continue;
        }
        let first = rest.next()?;
        if first == b'_' {
            bytes.push(b'_');
        } else {
            let digits = [first, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    // Only what we would have written: there is one name for each text.
    (!text.is_empty() && flat(&text) == name).then_some(text)
}

fn flat(text: &str) -> String {
    let mut pieces = Vec::new();
    encode_to(text, &mut pieces);
    pieces.concat()
}

/// As many of the pieces as fit; never a part of one, or the cut name could be read as another.
fn cut(pieces: &[String], longest: usize) -> String {
    let mut short = String::new();
    for piece in pieces {
        if short.len() + piece.len() > longest {
            break;
        }
        short.push_str(piece);
    }
    short
}

fn is_cut(name: &str) -> bool {
    let hash = name.len().checked_sub(HASH).and_then(|at| name.get(at..));
    hash.and_then(|hash| Digest::from_hex(hash.strip_prefix("_-")?))
        .is_some()
}

/// The name of a file, or the last part of an object's.
pub(super) fn file_name(text: &str) -> String {
    let mut pieces = Vec::new();
    encode_to(text, &mut pieces);
    let name = pieces.concat();
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let hash = Digest::of(text.as_bytes()).hex();
    format!("{}_-{hash}", cut(&pieces, LONGEST_NAME - HASH))
}

/// What all names begin with that stand for a text that begins with `prefix`.
pub(super) fn file_prefix(prefix: &str) -> String {
    let mut pieces = Vec::new();
    encode_to(prefix, &mut pieces);
    cut(&pieces, LONGEST_NAME - HASH)
}

/// Reads a [`file_name`] back.
pub(super) fn of_file(name: &str) -> Found<String> {
    match decode(name) {
        Some(text) if name.len() <= LONGEST_NAME => Found::Whole(text),
        _ if is_cut(name) => Found::Cut,
        _ => Found::Foreign,
    }
}

/// The tag of a key within a scope.
pub(super) fn tag(scope: &str, key: &str) -> String {
    let mut pieces = Vec::new();
    encode_to(scope, &mut pieces);
    pieces.push(BETWEEN.to_owned());
    encode_to(key, &mut pieces);
    let name = pieces.concat();
    if name.len() <= LONGEST_TAG {
        return name;
    }
    // A NUL is in neither, for it would be `_00` in both.
    let hash = Digest::of(format!("{}\0{}", flat(scope), flat(key)).as_bytes()).hex();
    format!("{}_-{hash}", cut(&pieces, LONGEST_TAG - HASH))
}

/// What all tags begin with that stand for a key that begins with `prefix`.
pub(super) fn tag_prefix(scope: Option<&str>, prefix: &str) -> String {
    let Some(scope) = scope else {
        return String::new();
    };
    let mut pieces = Vec::new();
    encode_to(scope, &mut pieces);
    pieces.push(BETWEEN.to_owned());
    encode_to(prefix, &mut pieces);
    cut(&pieces, LONGEST_TAG - HASH)
}

/// Reads a [`tag`] back: scope and key.
pub(super) fn of_tag(tag: &str) -> Found<(String, String)> {
    // An escape of two bytes is passed over as one, so that what is found is no part of it.
    let bytes = tag.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (b'_', b'.') => {
                let (scope, key) = (decode(&tag[..at]), decode(&tag[at + BETWEEN.len()..]));
                if let (Some(scope), Some(key)) = (scope, key)
                    && tag.len() <= LONGEST_TAG
                {
                    return Found::Whole((scope, key));
                }
                break;
            }
            (b'_', _) => at += 2,
            _ => at += 1,
        }
    }
    if tag.is_ascii() && is_cut(tag) {
        Found::Cut
    } else {
        Found::Foreign
    }
}

/// The name of an image in the index of an OCI image layout, which has a grammar of its own (image-spec,
/// "Pre-Defined Annotation Keys": letters and digits, with single separators between). It is not read back, but there is
/// one for each scope and key: `+XX` is a byte, `0@XX` one at the start.
pub(super) fn image_name(scope: &str, key: &str) -> String {
    format!("{}/{}", image_part(scope), image_part(key))
}

fn image_part(text: &str) -> String {
    let bytes = text.as_bytes();
    let is_word = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    let mut part = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let between = at > 0 && is_word(at - 1) && is_word(at + 1);
        match byte {
            _ if is_word(at) => part.push(char::from(*byte)),
            b'.' | b'-' | b'_' if between => part.push(char::from(*byte)),
            _ if at == 0 => part.push_str(&format!("0@{byte:02X}")),
            _ => part.push_str(&format!("+{byte:02X}")),
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts that try to be taken for another: of the characters that mean something, and long ones.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a._\\-/ é0-9A-F]{1,12}",
            "[a_.\\-/]{60,260}",
            any::<String>().prop_filter("no empty ones", |text| !text.is_empty()),
        ]
    }

    fn is_tag(tag: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        (1..=LONGEST_TAG).contains(&tag.len())
            && tag.bytes().all(allowed)
            && !tag.starts_with(['.', '-'])
    }

    proptest! {
        #[test]
        fn names_are_read_back_or_say_that_they_cannot(key in text()) {
            let name = file_name(&key);
            prop_assert!(name.len() <= LONGEST_NAME && is_tag(&name[..name.len().min(LONGEST_TAG)]));
            match of_file(&name) {
                Found::Whole(back) => prop_assert_eq!(back, key),
                Found::Cut => prop_assert!(flat(&key).len() > LONGEST_NAME),
                Found::Foreign => prop_assert!(false, "{} is foreign", name),
            }
        }

        #[test]
        fn tags_are_read_back_or_say_that_they_cannot(scope in text(), key in text()) {
            let tag = tag(&scope, &key);
            prop_assert!(is_tag(&tag), "{}", tag);
            match of_tag(&tag) {
                Found::Whole(back) => prop_assert_eq!(back, (scope, key)),
                Found::Cut => prop_assert!(flat(&scope).len() + flat(&key).len() + 2 > LONGEST_TAG),
                Found::Foreign => prop_assert!(false, "{} is foreign", tag),
            }
        }

        #[test]
        fn different_texts_have_different_names(a in text(), b in text(), c in text(), d in text()) {
            prop_assert_eq!(file_name(&a) == file_name(&b), a == b);
            prop_assert_eq!(tag(&a, &b) == tag(&c, &d), a == c && b == d);
            prop_assert_eq!(tag(&a, &b) == tag(&b, &a), a == b);
            prop_assert_eq!(image_name(&a, &b) == image_name(&c, &d), a == c && b == d);
        }

        #[test]
        fn names_of_images_follow_their_grammar(scope in text(), key in text()) {
            let name = image_name(&scope, &key);
            for component in name.split('/') {
                let words: Vec<_> = component.split(['-', '.', '_', '@', '+']).collect();
                let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
                prop_assert!(words.iter().all(is_word), "{}", name);
            }
        }

        #[test]
        fn what_begins_with_a_prefix_is_found_by_it(scope in text(), prefix in text(), rest in any::<String>()) {
            let key = format!("{prefix}{rest}");
            prop_assert!(file_name(&key).starts_with(&file_prefix(&prefix)));
            prop_assert!(tag(&scope, &key).starts_with(&tag_prefix(Some(&scope), &prefix)));
        }

        #[test]
        fn no_name_stands_for_two_texts(name in "[a._\\-0-9A-F]{1,12}") {
            if let Found::Whole(text) = of_file(&name) {
                prop_assert_eq!(file_name(&text), name);
            }
        }
    }

    #[test]
    fn names_stay_readable() {
        assert_eq!(file_name("npm-linux-1.2"), "npm-linux-1.2");
        assert_eq!(file_name("a_b/c"), "a__b_2Fc");
        assert_eq!(file_name(".."), "_2E.");
        assert_eq!(tag("main", "npm-é"), "main_.npm-_C3_A9");
        assert_eq!(image_name("main", "npm-1.2_x/y"), "main/npm-1.2_x+2Fy");
        assert_eq!(image_name(".", "0@2E"), "0@2E/0+402E");
    }

    #[test]
    fn a_key_cannot_pretend_to_be_a_long_one() {
        let long = "x".repeat(300);
        let pretender = file_name(&long);
        assert_eq!(of_file(&pretender), Found::Cut);
        assert_ne!(file_name(&pretender), pretender);
    }

    #[test]
    fn foreign_names_are_known_as_such() {
        for name in [
            "latest",
            "v1.0",
            "sha256-abc",
            "_",
            "a_2",
            "a_2f",
            "_.",
            "a_.",
            "_.b",
        ] {
            assert_eq!(of_tag(name), Found::Foreign, "{name}");
        }
        for name in ["", "_", ".tmp", "a_", "a_2", "a_g0", "a_2f", "_FF"] {
            assert_eq!(of_file(name), Found::Foreign, "{name:?}");
        }
    }
}
