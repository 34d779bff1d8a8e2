//! The same members give the same tree, however long each of them takes.

use super::mounted::in_stage_for;
use super::rig::Rig;

/// How often the group is run.
const ROUNDS: u32 = 50;
/// Decides about every delay.
const SEED: u64 = 0x5eed_0f98;

/// What each member does: all write one report, a file of a cache that takes the
/// last, and attributes; one renames a directory in which another makes a file;
/// one removes what another leaves alone. `pause` takes up to 15 ms.
const MEMBERS: [(&str, &str); 4] = [
    (
        "unit",
        "pause; echo of-unit >reports/junit.xml; pause; echo 1 >_cacache/content-v2/x; chmod 601 file; pause; mv src lib",
    ),
    (
        "api",
        "pause; echo 2 >_cacache/content-v2/x; chmod 602 file; pause; echo of-api >reports/junit.xml; mkdir -p out/api; echo api >out/api/log",
    ),
    (
        "lint",
        "echo of-lint >reports/junit.xml; pause; rm old; chmod 603 file; pause; echo 3 >_cacache/content-v2/x; pause",
    ),
    (
        "docs",
        "pause; mkdir -p out/docs; ln file out/docs/same; pause; echo of-docs >reports/junit.xml; echo 4 >_cacache/content-v2/x",
    ),
];

/// xorshift64*
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

fn round(random: &mut u64) -> String {
    let mut members = MEMBERS;
    for index in (1..members.len()).rev() {
        let other = next(random) % (index as u64 + 1);
        members.swap(index, usize::try_from(other).unwrap());
    }
    let mut script =
        "\"$H\" snapshot restore start >/dev/null\n\"$H\" group declare g unit api lint docs\n"
            .to_owned();
    for (name, does) in members {
        // Numbers that `shuf` would give cannot be given again.
        let mut body = String::new();
        for part in does.split("; ") {
            match part {
                "pause" => body += &format!("sleep 0.0{:02}; ", next(random) % 16),
                part => body += &format!("{part}; "),
            }
        }
        script += &format!("sleep 0.0{:02}\n", next(random) % 16);
        script +=
            &format!("\"$H\" step run --group g {name} -- sh -euc '{body}' 2>>\"$T/said\" &\n");
    }
    script + "wait\ndigest >>\"$T/digests\"\n"
}

#[test]
fn fifty_runs_of_a_group_give_one_tree() {
    let mut random = SEED;
    let mut script = r#"
        digest() { (cd "$W" && find . -printf '%p %y %m %U %G %n %l\n' | LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) | sha256sum; }
        "$H" unmount
        mkdir -p "$W/reports" "$W/_cacache/content-v2" "$W/src"
        echo old >"$W/old"; echo a >"$W/src/a"
        "$H" mount --workspace "$W" --policy '**/reports/**=keep-both'
        "$H" snapshot create start
        "#
    .to_owned();
    for _ in 0..ROUNDS {
        script += &round(&mut random);
    }
    script += &format!(
        r#"
        is "$(sort -u "$T/digests" | wc -l)" 1
        is "$(wc -l <"$T/digests")" {ROUNDS}
        is "$(cat "$W/reports/junit.xml" "$W/reports/junit.xml.api" "$W/reports/junit.xml.lint" "$W/reports/junit.xml.docs")" \
            "$(printf 'of-unit\nof-api\nof-lint\nof-docs')"
        is "$(cat "$W/_cacache/content-v2/x" "$W/lib/a" "$W/out/api/log")" "$(printf '4\na\napi')"
        is "$(stat -c '%a %h' "$W/file")" '603 2'
        [ ! -e "$W/old" ] && [ ! -e "$W/src" ]
        # That it did depend on chance who came last: more than one was it.
        [ "$(grep -c "group 'g' is waiting for" "$T/said")" = {waits} ]
        [ "$(sed -n "s/.*group 'g' is waiting for //p" "$T/said" | grep -vc ,)" -ge 2 ]
        [ "$(sed -n "s/.*group 'g' is waiting for //p" "$T/said" | grep -v , | sort -u | wc -l)" -ge 2 ]
        "#,
        waits = ROUNDS * 3,
    );
    eprintln!("seed {SEED:#x}");
    in_stage_for(&Rig::new(), &script, 300);
}
