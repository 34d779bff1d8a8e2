//! Values in configuration files, as far as a secret can be told from what
//! stands for one.

use memchr::memmem::find_iter;

/// How a kind of file writes its values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syntax {
    /// What may stand between a key and its value.
    separators: &'static [u8],
    /// A value may be followed by something else on its line: a flow mapping,
    /// an inline table, a command.
    flow: bool,
    /// A value may be on the line after its key.
    next_line: bool,
    /// `$NAME` is a reference, not only `${NAME}`.
    bare: bool,
}

/// npm's, MySQL's: a key of npm's holds colons, `//registry/:_authToken=…`.
pub(super) const INI: Syntax = Syntax {
    separators: b"=",
    flow: false,
    next_line: false,
    bare: false,
};
/// git's: a credential helper may be a shell command.
pub(super) const GIT: Syntax = Syntax { flow: true, ..INI };
/// TOML, and Terraform's HCL.
pub(super) const TOML: Syntax = Syntax { flow: true, ..INI };
/// Python's configparser takes both.
pub(super) const EITHER: Syntax = Syntax {
    separators: b"=:",
    ..INI
};
/// java.util.Properties.
pub(super) const PROPERTIES: Syntax = Syntax {
    separators: b"=: ",
    ..INI
};
/// The `.yarnrc` of yarn 1.
pub(super) const YARN_1: Syntax = PROPERTIES;
/// curl's (curl(1), `--config`).
pub(super) const CURL: Syntax = PROPERTIES;
/// YAML, and JSON, which is YAML.
pub(super) const YAML: Syntax = Syntax {
    separators: b":",
    flow: true,
    next_line: true,
    bare: false,
};
/// dotenv's, direnv's: `export` may come first.
pub(super) const DOTENV: Syntax = Syntax {
    bare: true,
    ..EITHER
};

impl Syntax {
    /// Whether one of these keys, in lower case, has a value of its own, or a
    /// URL has a password.
    pub fn sets(self, bytes: &[u8], keys: &[&str]) -> bool {
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines: Vec<&[u8]> = lines.map(<[u8]>::trim_ascii_end).collect();
        lines.iter().enumerate().any(|(number, line)| {
            if is_comment(line) {
                return false;
            }
            let lower = line.to_ascii_lowercase();
            keys.iter().any(|key| {
                find_iter(&lower, key.as_bytes()).any(|at| {
                    let joined = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
                    !line[..at].last().is_some_and(joined)
                        && self
                            .value(&line[at + key.len()..])
                            .is_some_and(|value| self.is_secret(value, line, &lines[number + 1..]))
                })
            })
        }) || self.has_url_with_password(bytes)
    }

    /// Whether a variable with a telling name has a value of its own, or a URL
    /// has a password.
    pub fn sets_secret_variable(self, bytes: &[u8]) -> bool {
        bytes.split(|byte| *byte == b'\n').any(|line| {
            let text = line.trim_ascii();
            let text = text.strip_prefix(b"export ").unwrap_or(text).trim_ascii();
            let ends = |byte: &u8| byte.is_ascii_whitespace() || self.separators.contains(byte);
            let Some(end) = text.iter().position(ends) else {
                return false;
            };
            !is_comment(text)
                && speaks_of_secret(&text[..end])
                && self.value(&text[end..]).is_some_and(|value| {
                    self.is_secret(value, line, &[]) && !is_measure(&text[..end], value)
                })
        }) || self.has_url_with_password(bytes)
    }

    /// Whether Bundler's configuration, YAML, has the login of a host, which is
    /// the key: `BUNDLE_GEM__FURY__IO` is gem.fury.io (bundle-config(1)).
    pub fn sets_bundler_login(self, bytes: &[u8]) -> bool {
        const NO_HOSTS: [&[u8]; 4] = [b"MIRROR__", b"BUILD__", b"LOCAL__", b"PLUGINS__"];
        bytes.split(|byte| *byte == b'\n').any(|line| {
            let Some(key) = line.strip_prefix(b"BUNDLE_") else {
                return false;
            };
            let end = key.iter().position(|byte| self.separators.contains(byte));
            let (key, rest) = key.split_at(end.unwrap_or(key.len()));
            let dots = find_iter(key, "__").count();
            // `bundle gem` asks once, and keeps the answers as `BUNDLE_GEM__TEST`.
            let is_answer = key.starts_with(b"GEM__") && dots == 1;
            let is_host = !is_answer && !NO_HOSTS.iter().any(|other| key.starts_with(other));
            dots > 0 && is_host && self.value(rest).is_some_and(|value| self.is_literal(value))
        }) || self.has_url_with_password(bytes)
    }

    /// The value, with all that follows it, where `rest` follows a key.
    fn value(self, rest: &[u8]) -> Option<&[u8]> {
        let rest = match rest {
            [b'"' | b'\'', rest @ ..] => rest,
            _ => rest,
        };
        let text = rest.trim_ascii_start();
        match text.split_first() {
            None => None,
            Some((first, value)) if self.separators.contains(first) => Some(value),
            Some(_) => (self.separators.contains(&b' ') && text.len() < rest.len()).then_some(text),
        }
    }

    fn is_secret(self, value: &[u8], line: &[u8], next: &[&[u8]]) -> bool {
        let text = value.trim_ascii();
        if self.next_line && (text.is_empty() || text.starts_with(b"#")) {
            let indent = |line: &[u8]| line.len() - line.trim_ascii_start().len();
            let next = next
                .iter()
                .find(|line| !line.trim_ascii().is_empty() && !is_comment(line));
            return next.is_some_and(|next| {
                indent(next) > indent(line) && self.is_literal(next.trim_ascii())
            });
        }
        self.is_literal(value)
    }

    /// Whether a value is neither nothing nor only references.
    fn is_literal(self, value: &[u8]) -> bool {
        let text = value.trim_ascii();
        if let Some((quote @ (b'"' | b'\'' | b'`'), inner)) = text.split_first() {
            let Some(end) = inner.iter().position(|byte| byte == quote) else {
                return true; // goes on in the next line
            };
            let (inner, rest) = (&inner[..end], &inner[end + 1..]);
            let bare = self.bare && *quote != b'\'';
            let nothing = inner.is_empty() || is_only_references(inner, bare);
            return !nothing || !self.may_follow(rest);
        }
        let mut rest = value.trim_ascii_start();
        for nothing in ["null", "true", "false"] {
            if let Some(after) = rest.strip_prefix(nothing.as_bytes()) {
                return !self.may_follow(after);
            }
        }
        let mut is_reference = false;
        while let Some(after) = reference(rest, self.bare) {
            (rest, is_reference) = (after, true);
        }
        // `KEY= # a remark`: the blank is what makes it one.
        let remark = if is_reference { rest } else { value };
        !self.may_follow(remark)
    }

    /// Whether what follows a value does not belong to it.
    fn may_follow(self, rest: &[u8]) -> bool {
        let text = rest.trim_ascii_start();
        match text.first() {
            None => true,
            Some(b'#' | b';') if text.len() < rest.len() => true,
            Some(b',' | b'}' | b']' | b';' | b'"' | b'\'') => self.flow,
            _ => false,
        }
    }

    /// Whether a line that is no comment has a URL with a password, or with a
    /// token in the place of a user.
    pub fn has_url_with_password(self, bytes: &[u8]) -> bool {
        let lines = bytes.split(|byte| *byte == b'\n');
        lines.filter(|line| !is_comment(line)).any(|line| {
            find_iter(line, b"://").any(|at| {
                let rest = &line[at + 3..];
                let ends = |byte: &u8| byte.is_ascii_whitespace() || b"/?#\"'`<>\\".contains(byte);
                let end = rest.iter().position(ends).unwrap_or(rest.len());
                let host = rest[..end].iter().rposition(|byte| *byte == b'@');
                host.is_some_and(|host| self.is_login(&rest[..host]))
            })
        })
    }

    /// `user:password`, or a user that is too long to be one.
    fn is_login(self, login: &[u8]) -> bool {
        const TOKEN: usize = 20;
        let mut rest = login;
        while let Some(after) = reference(rest, self.bare) {
            rest = after;
        }
        let password = rest.iter().position(|byte| *byte == b':');
        match password.map(|at| &rest[at + 1..]) {
            None | Some([]) => rest.len() >= TOKEN,
            Some(password) => !is_only_references(password, self.bare),
        }
    }
}

fn is_comment(line: &[u8]) -> bool {
    matches!(line.trim_ascii().first(), Some(b'#' | b';'))
}

/// Whether a variable's name says that its value is secret.
fn speaks_of_secret(key: &[u8]) -> bool {
    const WORDS: [&str; 9] = [
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PASSPHRASE",
        "API_KEY",
        "APIKEY",
        "PRIVATE_KEY",
        "ACCESS_KEY",
        "CREDENTIAL",
    ];
    let key = key.to_ascii_uppercase();
    let count = |word: &str| find_iter(&key, word.as_bytes()).count();
    let mut parts = key.split(|byte| !byte.is_ascii_alphanumeric());
    // The tokens of a tokenizer are words.
    count("TOKEN") > count("TOKENIZ")
        || WORDS.iter().any(|word| count(word) > 0)
        || parts.any(|part| part == b"PASS")
}

/// Whether a variable tells how long or how many, `PASSWORD_MIN_LENGTH=8` or
/// `TOKEN_TTL=15m`, and nothing secret.
fn is_measure(key: &[u8], value: &[u8]) -> bool {
    const LAST: [&str; 16] = [
        "LENGTH", "LEN", "SIZE", "MIN", "MAX", "COUNT", "LIMIT", "ROUNDS", "TTL", "AGE", "TIMEOUT",
        "LIFETIME", "DAYS", "HOURS", "MINUTES", "SECONDS",
    ];
    let key = key.to_ascii_uppercase();
    let last = key.rsplit(|byte| !byte.is_ascii_alphanumeric()).next();
    let value = value.trim_ascii();
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    let (number, unit) = value.split_at(digits.count());
    last.is_some_and(|last| LAST.iter().any(|word| word.as_bytes() == last))
        && (1..=7).contains(&number.len())
        && (unit.is_empty() || matches!(unit, [b's' | b'm' | b'h' | b'd']))
}

/// Whether a text is references and nothing else, and not nothing.
pub(super) fn is_only_references(text: &[u8], bare: bool) -> bool {
    let mut rest = text;
    while let Some(after) = reference(rest, bare) {
        rest = after;
    }
    rest.is_empty() && !text.is_empty()
}

/// What follows the reference that a text begins with: `${NAME}`, npm's
/// `${NAME?}`, yarn's `${NAME-}` and `${NAME:-}`, or with `bare` `$NAME`. A
/// default is as readable as any value, so with one it is no reference; and a
/// lower case `$name` is more often a password.
fn reference(text: &[u8], bare: bool) -> Option<&[u8]> {
    let after = text.strip_prefix(b"$")?;
    let braced = after.strip_prefix(b"{");
    let name = braced.unwrap_or(after);
    let part = |byte: &u8| {
        let more = if braced.is_some() {
            byte.is_ascii_lowercase() || *byte == b'.'
        } else {
            false
        };
        more || byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_'
    };
    let end = name
        .iter()
        .position(|byte| !part(byte))
        .unwrap_or(name.len());
    let (name, rest) = name.split_at(end);
    if name.first().is_none_or(u8::is_ascii_digit) {
        return None;
    }
    if braced.is_none() {
        return bare.then_some(rest);
    }
    ["}", "?}", "-}", ":-}"]
        .iter()
        .find_map(|close| rest.strip_prefix(close.as_bytes()))
}
