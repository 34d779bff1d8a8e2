//! What `docs/semantics.md` says is different has a test each, and what tests list as different is said there.

use std::collections::BTreeSet;
use std::path::Path;

/// The rows of the table below a heading, as their cells.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let below = text.split_once(heading).expect("the heading is there").1;
    let rows = below.lines().skip_while(|line| !line.starts_with('|'));
    rows.take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The tests of Rust below a directory.
fn tests_below(at: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let tests = text.split("#[test]").skip(1);
            let names = tests.filter_map(|test| test.split_once("fn ")?.1.split_once('('));
            found.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn each_difference_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let text = read("docs/semantics.md");
    let rows = table(&text, "\n## What is different\n");
    assert!(rows.len() > 20, "{rows:?}");
    let mut tests = BTreeSet::new();
    tests_below(&root.join("tests"), &mut tests);

    let listed = read("tests/conformance/differences");
    let listed: Vec<(&str, &str)> = listed
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            // `syscalls | * | */case | why`
            (cells[0], cells[2].trim_start_matches("*/"))
        })
        .map(|(suite, case)| (suite, case.trim_start_matches("lower/")))
        .collect();

    let mut told = BTreeSet::new();
    let headings: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("##"))
        .map(|line| {
            line.trim_matches(['#', ' '])
                .to_lowercase()
                .replace(' ', "-")
        })
        .collect();
    for row in &rows {
        assert_eq!(row.len(), 3, "{row:?}");
        let shown = &row[2];
        for name in quoted(shown) {
            match name.split_once('/') {
                Some(case) => {
                    assert!(listed.contains(&case), "{name} differs nowhere");
                    told.insert(case);
                }
                None => assert!(tests.contains(name), "there is no test {name}"),
            }
        }
        if let Some((_, place)) = shown.split_once("[above](#") {
            let place = place.trim_end_matches(')');
            assert!(headings.contains(place), "there is nothing above: {place}");
        }
        assert!(
            shown.contains('`') || shown.contains("[above]"),
            "no test: {row:?}"
        );
    }
    for case in &listed {
        assert!(told.contains(case), "{case:?} is not told");
    }
}
