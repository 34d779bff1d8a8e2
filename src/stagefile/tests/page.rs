//! `docs/stage-file.md` says what is so.

use super::*;

const PAGE: &str = include_str!("../../../docs/stage-file.md");

#[test]
fn examples_are_good_stage_files() {
    let mut blocks = PAGE.split("```yaml\n").skip(1).peekable();
    assert!(blocks.peek().is_some());
    for block in blocks {
        let (text, _) = block.split_once("```").unwrap();
        good(text);
    }
}

#[test]
fn every_field_is_on_the_page() {
    // A map in which nothing is known says which fields it has.
    let fields_of = |text: &str| -> Vec<String> {
        let problems = wrong(text);
        let listed = problems
            .iter()
            .find_map(|problem| problem.split_once("; it has "));
        let (_, names) = listed.unwrap_or_else(|| panic!("{problems:?}"));
        names.split(", ").map(str::to_owned).collect()
    };
    let x = "qqqqqqqqqqqqqqqqqqqqqqqq: 1";
    for text in [
        format!("{x}\nspec: {{}}"),
        format!("spec: {{{x}}}"),
        format!("pipeline: {{{x}, stages: []}}"),
        format!("execution: {{{x}}}"),
        format!("workspace: {{{x}}}"),
        format!("caching: {{{x}}}"),
        format!("variables: [{{{x}}}]"),
        of_steps(&format!("- {{{x}}}")),
        of_steps(&format!("- step: {{{x}}}")),
        of_steps(&format!("- stepGroup: {{{x}}}")),
        of_step(&format!("type: Run\nspec: {{{x}}}")),
        of_step(&format!("type: Background\nspec: {{{x}}}")),
        of_step(&format!("when: {{{x}}}")),
        of_step(&format!("strategy: {{{x}}}")),
        of_step(&format!("strategy: {{repeat: {{{x}}}}}")),
        of_step(&format!("workspace: {{{x}}}")),
        of_step(&format!("failureStrategies: [{{{x}}}]")),
        of_step(&format!("failureStrategies: [{{onFailure: {{{x}}}}}]")),
    ] {
        for field in fields_of(&text) {
            // Known to be for people only, and in no list.
            if ["projectIdentifier", "orgIdentifier", "required"].contains(&field.as_str()) {
                continue;
            }
            let named = [
                format!("`{field}`"),
                format!("{field}:"),
                format!("`action.{field}`"),
            ];
            assert!(
                named.iter().any(|name| PAGE.contains(name)),
                "{field} ({text})"
            );
        }
    }
}
