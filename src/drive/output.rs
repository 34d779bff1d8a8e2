//! What steps print, line by line, each behind the name of its step.

use std::io::{IsTerminal, Read, Write};

use memchr::{memchr, memmem};
use parking_lot::Mutex;

/// A line that is longer is printed in pieces, lest one without an end fills the memory.
const LONGEST: usize = 64 << 10;
/// Names up to this length stand in a column of their own.
const WIDEST: usize = 24;
/// What stands for a secret.
const HIDDEN: &[u8] = b"**************";
/// Colours of names: cyan, yellow, green, magenta, blue (ECMA-48, SGR).
const COLORS: [&str; 5] = ["36", "33", "32", "35", "34"];

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error, since something else goes to standard output.
    Err,
}

/// Prints what steps print. Lines are whole, whoever prints at the same time.
#[derive(Debug)]
pub struct Printer {
    stream: Stream,
    color: bool,
    width: usize,
    turn: Mutex<()>,
    secrets: Mutex<Vec<Vec<u8>>>,
    /// In the order in which they first had something to say: each has the next colour.
    seen: Mutex<Vec<String>>,
}

impl Printer {
    /// Prints the lines of steps that have these names.
    pub fn new<'a>(stream: Stream, names: impl Iterator<Item = &'a str>) -> Printer {
        let terminal = match stream {
            Stream::Out => std::io::stdout().is_terminal(),
            Stream::Err => std::io::stderr().is_terminal(),
        };
        // https://no-color.org
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
        let widths = names.map(|name| name.chars().count());
        Printer {
            stream,
            color: terminal && !unwanted,
            width: widths.filter(|width| *width <= WIDEST).max().unwrap_or(0),
            turn: Mutex::new(()),
            secrets: Mutex::new(Vec::new()),
            seen: Mutex::new(Vec::new()),
        }
    }

    /// From here on this is not printed, whoever says it. What is shorter than a secret can
    /// be is.
    pub fn hide(&self, secret: &str) {
        let mut secrets = self.secrets.lock();
        for line in secret.lines().map(str::trim).filter(|line| line.len() > 2) {
            let line = line.as_bytes().to_vec();
            if !secrets.contains(&line) {
                secrets.push(line);
            }
        }
    }

    /// Prints all that can be read there, until its end.
    pub fn pump(&self, name: &str, mut from: impl Read) {
        let mut line: Vec<u8> = Vec::new();
        let mut piece = [0; 8 << 10];
        loop {
            let read = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let mut rest = &piece[..read];
            while let Some(end) = memchr(b'\n', rest) {
                line.extend_from_slice(&rest[..end]);
                self.line(name, &line);
                line.clear();
                rest = &rest[end + 1..];
            }
            line.extend_from_slice(rest);
            if line.len() >= LONGEST {
                let piece = self.printable(&line);
                self.line(name, &line[..piece]);
                line.drain(..piece);
            }
        }
        if !line.is_empty() {
            self.line(name, &line);
        }
    }

    /// Prints a line of a step.
    pub fn line(&self, name: &str, line: &[u8]) {
        let whole = self.whole(name, line);
        let _turn = self.turn.lock();
        // A reader that has left does not end the stage.
        let _ = match self.stream {
            Stream::Out => std::io::stdout().write_all(&whole),
            Stream::Err => std::io::stderr().write_all(&whole),
        };
    }

    /// Says something about the stage, on standard error.
    pub fn say(&self, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        let text = self.without_secrets(text.trim_end().as_bytes());
        let mut whole = b"harness-fs: ".to_vec();
        whole.extend_from_slice(&text);
        whole.push(b'\n');
        let _turn = self.turn.lock();
        let _ = std::io::stderr().write_all(&whole);
    }

    /// A text with asterisks for the secrets in it.
    pub fn masked(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.without_secrets(text.as_bytes())).into_owned()
    }

    fn whole(&self, name: &str, line: &[u8]) -> Vec<u8> {
        let pad = self.width.saturating_sub(name.chars().count());
        let mut whole = Vec::with_capacity(line.len() + name.len() + pad + 16);
        if self.color {
            let color = self.color_of(name);
            whole.extend_from_slice(format!("\x1b[{color}m").as_bytes());
        }
        whole.extend_from_slice(name.as_bytes());
        whole.resize(whole.len() + pad, b' ');
        whole.extend_from_slice(b" |");
        if self.color {
            whole.extend_from_slice(b"\x1b[0m");
        }
        if !line.is_empty() {
            whole.push(b' ');
        }
        whole.extend_from_slice(&self.without_secrets(line));
        whole.push(b'\n');
        whole
    }

    fn color_of(&self, name: &str) -> &'static str {
        let mut seen = self.seen.lock();
        let known = seen.iter().position(|other| other == name);
        let place = known.unwrap_or(seen.len());
        if known.is_none() {
            seen.push(name.to_owned());
        }
        COLORS[place % COLORS.len()]
    }

    fn without_secrets(&self, line: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(line.len());
        let mut from = 0;
        for (start, end) in self.found(line) {
            text.extend_from_slice(&line[from..start]);
            text.extend_from_slice(HIDDEN);
            from = end;
        }
        text.extend_from_slice(&line[from..]);
        text
    }

    /// Where secrets are; those that overlap are one.
    fn found(&self, line: &[u8]) -> Vec<(usize, usize)> {
        let secrets = self.secrets.lock();
        let mut each: Vec<(usize, usize)> = secrets
            .iter()
            .flat_map(|secret| {
                memmem::find_iter(line, secret).map(|start| (start, start + secret.len()))
            })
            .collect();
        each.sort_unstable();
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (start, end) in each {
            match found.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => found.push((start, end)),
            }
        }
        found
    }

    /// How much of a line can be printed that has not come to its end: a secret may come yet
    /// of which the line has the beginning.
    fn printable(&self, line: &[u8]) -> usize {
        let longest = self.secrets.lock().iter().map(Vec::len).max().unwrap_or(1);
        let held = longest.saturating_sub(1).min(line.len() / 2);
        let end = line.len() - held;
        let found = self.found(line);
        let cut = found
            .iter()
            .find(|(start, stop)| *start < end && end < *stop);
        cut.map_or(end, |(_, stop)| *stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printer(names: &[&str]) -> Printer {
        Printer::new(Stream::Out, names.iter().copied())
    }

    #[test]
    fn names_stand_in_a_column() {
        let printer = printer(&["build", "unit", "a-name-that-is-much-longer-than-a-column"]);
        assert_eq!(printer.whole("unit", b"x"), b"unit  | x\n");
        assert_eq!(printer.whole("build", b""), b"build |\n");
        assert_eq!(printer.whole("unit", b"\xff\0"), b"unit  | \xff\0\n");
        let colored = Printer {
            color: true,
            ..printer
        };
        let whole = String::from_utf8(colored.whole("unit", b"x")).unwrap();
        assert!(
            whole.starts_with("\x1b[") && whole.ends_with(" |\x1b[0m x\n"),
            "{whole:?}"
        );
    }

    #[test]
    fn secrets_are_hidden() {
        let printer = printer(&[]);
        printer.hide("s3cret\nsecond line\nx");
        printer.hide("s3cret and more");
        let told = printer.whole("a", b"x=s3cret; s3cret and more second line");
        let hidden = "**************";
        assert_eq!(
            told,
            format!("a | x={hidden}; {hidden} {hidden}\n").as_bytes()
        );
    }

    #[test]
    fn a_secret_of_asterisks_has_an_end() {
        let printer = printer(&[]);
        printer.hide("***");
        printer.hide("secret");
        let told = printer.whole("a", b"x=*** secret");
        assert_eq!(told, b"a | x=************** **************\n");
    }

    #[test]
    fn a_secret_at_the_end_of_a_piece_is_hidden() {
        let printer = printer(&[]);
        printer.hide("s3cret");
        printer.hide("retry");
        let cases = [
            ("xxxxxxxxxxxx s3cr", "xxxxxxxxxxxx"),
            ("xxxxxxxxxxxx s3cret", "xxxxxxxxxxxx s3cret"),
            ("xxxxxxxxxxxx s3cretry", "xxxxxxxxxxxx s3cretry"),
        ];
        for (line, piece) in cases {
            let printed = printer.printable(line.as_bytes());
            assert_eq!(&line[..printed], piece, "{line}");
        }
    }
}
