//! Commands and what they have to print, read from Markdown.

/// The examples of a document.
#[derive(Debug, Default)]
pub struct Document {
    pub commands: Vec<Command>,
}

/// One command of a session.
#[derive(Debug)]
pub struct Command {
    /// The line of the document where it stands, from 1.
    pub line: usize,
    pub text: String,
    pub expected: Vec<String>,
}

/// How a block ends, by how it begins.
const BLOCKS: [(&str, &str); 2] = [("```sh", "```"), ("<!-- sh", "-->")];

impl Document {
    pub fn parse(text: &str) -> Document {
        let mut document = Document::default();
        let mut end: Option<&str> = None;
        for (index, line) in text.lines().enumerate() {
            match end {
                None => end = BLOCKS.iter().find(|(begin, _)| *begin == line).map(|b| b.1),
                Some(last) if last == line => end = None,
                Some(_) => document.line(index + 1, line),
            }
        }
        assert_eq!(end, None, "a block has no end");
        document
    }

    fn line(&mut self, number: usize, line: &str) {
        if let Some(text) = line.strip_prefix("$ ") {
            self.commands.push(Command {
                line: number,
                text: text.to_owned(),
                expected: Vec::new(),
            });
            return;
        }
        let Some(command) = self.commands.last_mut() else {
            panic!("line {number}: output before the first command");
        };
        match line.strip_prefix("> ") {
            Some(more) if command.expected.is_empty() => {
                command.text.push('\n');
                command.text.push_str(more);
            }
            _ => command.expected.push(line.to_owned()),
        }
    }
}

/// Whether text was printed as expected.
pub fn matches(expected: &[String], printed: &str) -> bool {
    let printed: Vec<&str> = printed.lines().collect();
    lines_match(expected, &printed)
}

fn lines_match(expected: &[String], printed: &[&str]) -> bool {
    let Some((first, rest)) = expected.split_first() else {
        return printed.is_empty();
    };
    if first == "..." {
        return (0..=printed.len()).any(|skip| lines_match(rest, &printed[skip..]));
    }
    printed
        .split_first()
        .is_some_and(|(line, more)| line_matches(first, line) && lines_match(rest, more))
}

fn line_matches(expected: &str, line: &str) -> bool {
    let Some((before, after)) = expected.split_once('…') else {
        return expected.trim_end() == line.trim_end();
    };
    let Some(line) = line.strip_prefix(before) else {
        return false;
    };
    let ends = line.char_indices().map(|(at, _)| at).chain([line.len()]);
    ends.into_iter().any(|at| line_matches(after, &line[at..]))
}

#[test]
fn blocks_are_sessions() {
    let text = "Text\n```sh\n$ a\n1\n$ b \\\n> c\n```\n```text\n$ no\n```\n<!-- sh\n$ d\n-->\n";
    let document = Document::parse(text);
    let seen = |c: &Command| (c.line, c.text.clone(), c.expected.join("|"));
    let seen: Vec<_> = document.commands.iter().map(seen).collect();
    let expected = [(3, "a", "1"), (5, "b \\\nc", ""), (12, "d", "")];
    let expected = expected.map(|(line, text, out)| (line, text.to_owned(), out.to_owned()));
    assert_eq!(seen, expected);
}

#[test]
fn dots_stand_for_anything() {
    let check = |expected: &str, printed: &str| {
        let expected: Vec<String> = expected.lines().map(str::to_owned).collect();
        matches(&expected, printed)
    };
    assert!(check("", ""));
    assert!(!check("", "x\n"));
    assert!(check("a\n...\nb", "a\nb\n"));
    assert!(check("a\n...\nb", "a\n1\n2\nb\n"));
    assert!(!check("a\n...\nb", "a\n1\n"));
    assert!(check("pid …, up …", "pid 7, up 0s\n"));
    assert!(!check("pid …, up …", "pid 7\n"));
}
