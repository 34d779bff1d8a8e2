//! What is told of the past, through the program.

use super::mounted::in_stage;
use super::rig::Rig;

#[test]
fn the_layers_and_what_each_of_them_did() {
    let ran = in_stage(
        r#"
        "$H" step run one -- sh -c 'echo 1 >a; mkdir d; echo 2 >d/b'
        "$H" snapshot create s
        "$H" step run two -- sh -c 'rm -r d; echo more >>file'
        code 3 "$H" step run --on-failure keep bad -- sh -c 'echo 1 >c; exit 3'
        "$H" log >"$T/log"
        cat "$T/log"
        is "$(cut -d' ' -f1 "$T/log" | tr '\n' ' ')" "000003-bad 000002-two 000001-one base "
        "$H" log --json | grep -q '"kind": "base"'
        "$H" show two >"$T/two"
        cat "$T/two"
        is "$(grep '^[AMD] ' "$T/two")" "$(printf 'D %s/d\nD %s/d/b\nM %s/file' "$W" "$W" "$W")"
        echo 1 >"$W/now"
        is "$("$H" diff one..two)" "$(grep '^[AMD] ' "$T/two")"
        is "$("$H" diff two..)" "A $W/now"
        is "$("$H" diff ..000002 --json | grep -c '"change": "deleted"')" 1
        is "$("$H" diff base..s)" "$(printf 'A %s/a\nA %s/d\nA %s/d/b' "$W" "$W" "$W")"
        code 3 "$H" diff no-such..two
        "$H" show 000003 | grep "^A $W/c\$"
        "$H" show bad --json | grep -q '"change": "added"'
        code 3 "$H" show no-such 2>"$T/err"
        code 2 "$H" show 00000 2>>"$T/err"
        code 2 "$H" show base 2>>"$T/err"
        cat "$T/err" >&2
        is "$(grep -c '^harness-fs: ' "$T/err")" 3
        is "$(wc -l <"$T/err")" 3
        "#,
    );
    assert!(ran.out.contains("step two  merged"), "{}", ran.out);
    assert!(ran.out.contains("snapshot s"), "{}", ran.out);
    assert!(ran.out.contains("exit code 3"), "{}", ran.out);
}

#[test]
fn a_file_as_it_was_byte_by_byte() {
    in_stage(
        r#"
        "$H" step run one -- sh -c 'head -c 3000001 /dev/urandom >big; echo one >>file; printf "\1" >"$(printf "o\377d")"; : >empty'
        cp "$W/big" "$T/big"
        "$H" step run two -- sh -c 'rm big; echo two >>file'
        "$H" cat one:"$W/big" | cmp - "$T/big"
        is "$("$H" cat one:"$W/file")" "$(printf 'base\none')"
        is "$("$H" cat "base:$W/file")" base
        is "$("$H" cat "one:$W/empty" | wc -c)" 0
        is "$("$H" cat "two:$W/$(printf 'o\377d')" | od -An -tx1)" " 01"
        (cd "$W" && is "$("$H" cat two:./file)" "$(printf 'base\none\ntwo')" && mkdir sub && cd sub && is "$("$H" cat base:../file)" base)
        # A reader that leaves is no failure, a full disk is.
        code 0 sh -c '{ "$H" cat "one:$W/big"; echo $? >"$0/code"; } | head -c 1 >/dev/null' "$T"
        is "$(cat "$T/code")" 0
        code 1 sh -c '"$H" cat "one:$W/big" >/dev/full' 2>"$T/err"
        for wrong in "2 one:$W" "2 one:/etc/passwd" "2 one" "2 one:" "3 two:$W/big" "3 none:$W/file" "2 00000:$W/file"; do
            code "${wrong%% *}" "$H" cat "${wrong#* }" 2>>"$T/err" >"$T/out"
            is "$(wc -c <"$T/out")" 0
        done
        cat "$T/err" >&2
        is "$(wc -l <"$T/err")" 8
        is "$(grep -c '^harness-fs: ' "$T/err")" 8
        "#,
    );
}

#[test]
fn who_wrote_a_path_under_whatever_name() {
    let ran = in_stage(
        r#"
        "$H" step run make -- sh -c 'mkdir -p d/e; echo 1 >d/e/f; echo 1 >"$(printf "o\377d")"; ln d/e/f d/g'
        "$H" step run move -- sh -c 'mv d moved; mv file kept; chmod 600 kept'
        "$H" step run link -- sh -c 'ln moved/e/f l; echo 2 >>moved/g'
        rm "$W/moved/e/f"
        said() { "$H" blame "$1" >"$T/out"; cat "$T/out"; sed 's/  */ /g; s/ [0-9smh ]* ago//' "$T/out" >"$T/said"; }
        said "$W/moved/e/f"
        is "$(cut -d' ' -f1-3 "$T/said" | tr '\n' ,)" "deleted head 000004-head,modified step link,renamed step move,added step make,"
        grep "from $W/d/e/f\$" "$T/out"
        said "$W/l"
        is "$(cut -d' ' -f1-3 "$T/said" | tr '\n' ,)" "modified step link,renamed step move,added step make,"
        cd "$W"
        said kept
        is "$(cut -d' ' -f1-3 "$T/said" | tr '\n' ,)" "metadata step move,original base base,"
        said "$(printf 'o\377d')"
        is "$(cut -d' ' -f1-3 "$T/said")" "added step make"
        "$H" blame "$(printf 'o\377d')" --json | grep -F '/o\\xffd"'
        "$H" blame kept --json | grep -q '"from": "'"$W/file"'"'
        cd /
        code 3 "$H" blame "$W/never" 2>"$T/err"
        code 2 "$H" blame /etc/passwd 2>>"$T/err"
        is "$(grep -c '^harness-fs: ' "$T/err")" 2
        is "$(wc -l <"$T/err")" 2
        "#,
    );
    assert!(ran.out.contains("from "), "{ran:?}");
}

#[test]
fn a_stage_from_an_image_has_its_layers_in_place_of_a_base() {
    let ran = in_stage(
        r#"
        "$H" step run one -- sh -c 'echo one >>file; echo 1 >new'
        "$H" snapshot create s
        "$H" export s --to "$T/image"
        "$H" unmount
        "$H" mount --workspace "$W" --from "$T/image"
        "$H" step run two -- sh -c 'echo two >>file'
        "$H" log >"$T/log"
        is "$(cut -d' ' -f1 "$T/log" | tr '\n' ' ')" "000003-two 000002-import 000001-import "
        is "$("$H" cat "000002:$W/file")" "$(printf 'base\none')"
        is "$("$H" diff 000002..)" "M $W/file"
        is "$("$H" blame "$W/file" | cut -d' ' -f1)" "$(printf 'modified\nmodified\nadded')"
        code 3 "$H" cat "base:$W/file" 2>"$T/err"
        code 3 "$H" diff base..two 2>>"$T/err"
        cat "$T/err" >&2
        is "$(wc -l <"$T/err")" 2
        "#,
    );
    let said = "from a complete image, whose uppermost layer is '000002-import'";
    assert_eq!(ran.err.matches(said).count(), 2, "{ran:?}");
}

/// Who reads slowly is in nobody's way, and is told that it is not the whole file.
#[test]
fn a_stage_ends_under_a_slow_reader() {
    let ran = in_stage(
        r#"
        "$H" snapshot create empty
        "$H" step run one -- sh -c 'head -c 3000001 /dev/zero >big'
        mkfifo "$T/slow"
        { code=0; "$H" cat "one:$W/big" >"$T/slow" 2>"$T/err" || code=$?; echo "$code" >"$T/code"; } & cat=$!
        exec 9<"$T/slow"
        head -c 1 <&9 >"$T/first"
        "$H" snapshot restore empty
        "$H" unmount
        cat <&9 >"$T/rest"
        exec 9<&-
        wait "$cat"
        is "$(cat "$T/code")" 5
        cat "$T/err"
        "$H" mount --workspace "$W"
        "#,
    );
    assert!(
        ran.out.contains("has ended while it removed the stage"),
        "{ran:?}"
    );
}

#[test]
fn without_a_stage_there_is_no_past() {
    let rig = Rig::new();
    for command in [
        &["log"][..],
        &["show", "x"],
        &["cat", "x:/y"],
        &["blame", "y"],
    ] {
        rig.run(command).refused(3, "there is no stage");
    }
}
