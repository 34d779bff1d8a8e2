//! `rollback`, with processes in the stage.

use super::mounted::in_stage;

#[test]
fn processes_in_the_stage_see_the_older_state_and_keep_their_files() {
    let ran = in_stage(
        r#"
        code 0 "$H" step run one -- sh -c 'echo one >changed; echo one >replaced; mkdir dir; echo x >dir/removed; echo k >stays'
        code 0 "$H" step run two -- sh -c 'echo two >changed; rm dir/removed replaced; echo two >replaced; echo new >added; ln -s added link'
        echo live >"$W/live"
        "$H" step begin open
        mkfifo "$T/ready" "$T/go"
        # Everything is cached: names that are there, names that are not, listings, attributes, content.
        (cd "$W" && exec sh -euc '
            is() { [ "$1" = "$2" ] || { echo "$1 is not $2" >&2; exit 99; }; }
            exec 3<changed 4<added 5>>stays 6<replaced
            is "$(ls)" "$(printf "added\nchanged\ndir\nfile\nlink\nlive\nreplaced\nstays")"
            is "$(ls dir)" ""
            [ ! -e dir/removed ]
            is "$(cat changed replaced link live)" "$(printf "two\ntwo\nnew\nlive")"
            is "$(stat -c %s changed added)" "$(printf "4\n4")"
            echo >"$1/ready"; cat "$1/go"
            is "$(ls)" "$(printf "changed\ndir\nfile\nreplaced\nstays")"
            is "$(cat dir/removed changed replaced)" "$(printf "x\none\none")"
            for gone in added link live; do [ ! -e "$gone" ] && [ ! -L "$gone" ]; done
            # What was written in place is written in place; what is gone or replaced is an unlinked file.
            is "$(cat <&3) $(cat <&4) $(cat <&6)" "one new two"
            echo more >&5
            is "$(cat stays)" "$(printf "k\nmore")"
            echo written >changed; echo made >dir/made
        ' - "$T") & inside=$!
        cat "$T/ready"
        "$H" rollback one >"$T/said"
        is "$(cat "$T/said")" "$(printf '%s\n' 'the stage is as after 000001-one; taken away: 000002-two, 000003-head, 000004-head' \
            'steps taken away: two' 'still held by a snapshot or a step: 000002-two, 000003-head' \
            'can no longer be merged: open')"
        echo >"$T/go"
        code 0 wait "$inside"
        is "$(cat "$W/changed" "$W/dir/made" "$W/stays")" "$(printf 'written\nmade\nk\nmore')"
        code 2 "$H" step merge open
        code 0 "$H" step exec open -- sh -c 'cat live'
        "$H" step discard open
        "$H" rollback base --json >"$T/said"
        grep -q '"layer": "base"' "$T/said"
        is "$(ls "$W")" file
        is "$("$H" rollback base)" 'the stage is as after base already'
        "#,
    );
    assert!(ran.out.contains("live"), "{}", ran.out);
}

#[test]
fn a_word_that_means_no_layer_is_one_sentence() {
    let ran = in_stage(
        r#"
        code 3 "$H" rollback none
        code 2 "$H" rollback
        code 0 "$H" step run one -- sh -c 'echo 1 >one'
        code 0 "$H" step run two -- sh -c 'echo 2 >two'
        code 2 "$H" rollback 0000
        code 3 "$H" step run --on-failure keep bad -- sh -c 'echo 3 >three; exit 3'
        code 2 "$H" rollback bad
        is "$(cat "$W/one" "$W/two")" "$(printf '1\n2')"
        "$H" rollback 000001
        is "$(ls "$W")" "$(printf 'file\none')"
        "$H" step discard bad
        "#,
    );
    for said in [
        "harness-fs: there is no layer and no step 'none': `harness-fs log` lists the layers\n",
        "harness-fs: '0000' can be several layers: ",
        "harness-fs: layer '000003-bad' is not part of the stage's tree, so there is no way back to it: ",
    ] {
        assert!(ran.err.contains(said), "no {said:?} in {}", ran.err);
    }
}
