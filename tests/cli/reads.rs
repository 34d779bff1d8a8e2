//! What steps read that others wrote, through the kernel and its caches.

use super::mounted::in_stage;

/// What a step of each way to look at things reads, of what `w` changes at the
/// same time; `told` prints the races of a merge without the paths' beginning.
const BOTH: &str = r#"
    mkdir "$W/dir" "$W/dir/sub" "$W/bin"
    echo old >"$W/a"; echo old >"$W/dir/b"; echo old >"$W/dir/c"; echo old >"$W/two"; ln "$W/two" "$W/names"
    ln -s a "$W/link"
    printf '#!/bin/sh\necho old\n' >"$W/bin/tool"; chmod 755 "$W/bin/tool"
    told() {
        "$H" step merge w r --on-conflict last --json >"$T/json" 2>/dev/null
        python3 -c '
import json, sys
for race in json.load(open(sys.argv[1]))["races"]:
    print(race["path"].replace(sys.argv[2], ""), race["read"], race["writer"], race["did"])' "$T/json" "$W"
    }
    # reads WRITES READS : both at once.
    both() {
        "$H" step begin w; "$H" step begin r
        "$H" step exec w -- sh -euc "$1"
        "$H" step exec r -- sh -euc "$2" >/dev/null
        told
    }
"#;

fn with_both(script: &str) {
    in_stage(&format!("{BOTH}{script}"));
}

#[test]
fn what_is_read_in_any_way_counts() {
    with_both(
        r#"
        is "$(both 'echo new >a' 'cat a')" '/a content w changed'
        is "$(both 'echo newer >a' 'cat link')" '/a content w changed'
        is "$(both 'ln -sfn two link' 'readlink link')" '/link content w changed'
        is "$(both 'echo new >names' 'cat two')" '/two content w changed'
        # By a mapping, and by a mapping alone.
        is "$(both 'echo newest >a' 'python3 -c "
import mmap
file = open(\"a\", \"rb\")
print(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:1])"')" '/a content w changed'
        # By running it.
        is "$(both 'echo exit >>bin/tool' './bin/tool')" '/bin/tool content w changed'
        # For reading and writing, without a read that comes to the daemon.
        is "$(both 'echo 1 >a' ': <>a')" '/a content w changed'
        # To write it is none.
        is "$(both 'echo 2 >a' ': >>a')" ''
        is "$(both 'echo 3 >a' 'echo 4 >a; cat a')" ''
        "#,
    );
}

#[test]
fn what_the_kernel_has_in_its_caches_was_asked_for_once() {
    with_both(
        r#"
        is "$(both 'echo 1 >new' 'for i in 1 2 3; do [ ! -e new ]; done')" '/new missing w added'
        is "$(both 'rm new' 'for i in 1 2 3; do [ -e new ]; done')" '/new found w removed'
        is "$(both 'echo 1 >dir/new' 'ls dir; ls dir')" '/dir listing w added'
        # A plain listing has the attributes come along, and nobody can tell whether they are used.
        is "$(both 'echo newer >dir/b' 'ls dir')" ''
        is "$(both 'chmod 600 dir/b' 'ls -l dir')" '/dir/b metadata w changed'
        is "$(both 'echo newest >dir/b' 'stat dir/b')" '/dir/b metadata w changed'
        is "$(both 'touch dir/b' 'stat dir/b; ls -l dir; cat dir/b')" ''
        # What is looked for before it is made, and what is only made.
        is "$(both 'echo 1 >made' 'echo 2 >made')" ''
        is "$(both 'echo 1 >made2' '[ ! -e made2 ]; [ ! -e made3 ]; echo 2 >made2')" '/made2 missing w added'
        is "$(both 'mkdir -p out/x; echo 1 >out/a' 'mkdir -p out/x; echo 1 >out/b; ls out')" ''
        "#,
    );
}

#[test]
fn a_warning_is_one_line_and_is_found_again() {
    let ran = in_stage(&format!(
        r#"{BOTH}
        mkfifo "$T/ready" "$T/go"
        "$H" step run --result "$T/r" lint -- sh -euc 'cat a; echo >"$1/ready"; cat "$1/go"' - "$T" & lint=$!
        cat "$T/ready"
        "$H" step run format -- sh -c 'echo formatted >a'
        echo >"$T/go"
        code 0 wait "$lint"
        is "$(python3 -c 'import json; print(json.load(open("'"$T"'/r"))["races"][0]["writer"])')" format
        is "$("$H" step list --reads)" "lint read $W/a, which format changed"
        "$H" unmount --keep-state >&2
        "$H" mount --resume >&2
        is "$("$H" step list --reads)" "lint read $W/a, which format changed"
        is "$("$H" step list --reads --json | grep -c '"read": "content"')" 1
        "#
    ));
    let line = "read/write: lint read ";
    assert!(ran.err.contains(line), "{}", ran.err);
    assert!(ran.err.contains("which format changed"), "{}", ran.err);
}

#[test]
fn strict_makes_it_a_conflict_of_a_step_and_of_a_stage() {
    let ran = in_stage(&format!(
        r#"{BOTH}
        # begun : two steps, the second of which reads what the first writes.
        begun() {{
            "$H" step begin w; "$H" step begin r
            "$H" step exec w -- sh -c "echo $1 >a"
            "$H" step exec r -- sh -c 'cat a >copy'
        }}
        begun 1
        code 4 "$H" step merge w r --strict
        code 4 "$H" step merge w r --strict=true
        code 0 "$H" step merge w r
        begun 2
        code 2 "$H" step merge w r --strict=maybe
        code 0 "$H" step merge w
        code 4 "$H" step merge r --strict
        is "$("$H" step list | grep -c "read/write conflict about $W/a")" 1
        code 0 "$H" step merge r --strict --on-conflict last
        # A member of a group may say so.
        "$H" group declare g w r
        mkfifo "$T/ready" "$T/go"
        "$H" step run --group g --strict r -- sh -euc 'cat a >copy; echo >"$1/ready"; cat "$1/go"' - "$T" & r=$!
        cat "$T/ready"
        code 0 "$H" step run --group g w -- sh -c 'echo 3 >a'
        echo >"$T/go"
        code 121 wait "$r"
        "$H" step discard w; "$H" step discard r
        # And a stage.
        "$H" unmount >&2
        code 2 "$H" mount --workspace "$W" --strict=maybe
        "$H" mount --workspace "$W" --strict --policy 'copy*=ignore' >&2
        mkdir "$W/bin"; echo old >"$W/a"
        begun 4
        code 4 "$H" step merge w r
        "$H" unmount --keep-state >&2
        code 2 "$H" mount --resume --strict
        "$H" mount --resume >&2
        code 4 "$H" step merge w r
        code 0 "$H" step merge w r --strict=false
        "#
    ));
    assert!(ran.err.contains("r read it"), "{}", ran.err);
}

#[test]
fn with_strict_a_listing_counts_for_the_attributes_that_came_with_it() {
    with_both(
        r#"
        "$H" step begin w; "$H" step begin r
        "$H" step exec w -- sh -c 'echo newer >dir/b'
        "$H" step exec r -- sh -c 'ls dir >list'
        code 4 "$H" step merge w r --strict
        "$H" step merge w r --strict=false
        "#,
    );
}
