//! `cache save` and `cache restore`, with a store in a directory.

use super::mounted::in_stage;

/// Shell functions: a store, a tree with one of everything, what a tree is.
const HELP: &str = r#"
    export HARNESS_FS_STORE="file://$T/store"
    unset HARNESS_FS_CACHE_SCOPE HARNESS_FS_CACHE_POLICY
    make() {
        mkdir -p "$1/dir/deep" "$1/shut"
        echo one >"$1/dir/one"; ln "$1/dir/one" "$1/dir/deep/two"; ln -s ../one "$1/dir/deep/link"
        mkfifo "$1/fifo"; : >"$1/empty"; truncate -s 5M "$1/sparse"; printf x | dd of="$1/sparse" bs=1 seek=3M conv=notrunc status=none
        setfattr -n user.key -v value "$1/dir/one"; setfacl -m u:1234:rx "$1/dir"
        echo run >"$1/tool"; chmod 0751 "$1/tool"; chown 12:34 "$1/tool"; echo 1 >"$1/$(printf 'odd\n\377name')"
        touch -d '2001-02-03 04:05:06.789123456' "$1/dir/one"; touch -h -d '1969-02-03 04:05:06.5' "$1/dir/deep/link"
        chmod 0555 "$1/shut"; touch -d '2002-02-03 04:05:06.789123456' "$1/dir/deep" "$1/dir" "$1"
    }
    tree() {
        (cd "$1" && find . -printf '%P|%y|%m|%U|%G|%T@|%n|%l|' -exec sh -c '[ -d "$0" ] || [ -p "$0" ] || stat -c %s "$0"; echo' {} \; | sort
            getfattr -Rdhm - . 2>/dev/null | sort; getfacl -Rnp . | sort; find . -type f -exec sha256sum {} + | sort)
    }
    again() { "$H" unmount >&2; "$@"; "$H" mount --workspace "$W" >&2; }
    sent() { "$H" cache save --json "$@" 2>/dev/null | sed -n 's/.*"sent_bytes": \([0-9]*\).*/\1/p'; }
    flip() { printf '\377' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
"#;

fn with_store(script: &str) -> super::rig::Ran {
    in_stage(&format!("{HELP}\n{script}"))
}

#[test]
fn a_later_stage_has_all_of_it_as_it_was() {
    with_store(
        r#"
        make "$W/deps"; tree "$W/deps" >"$T/before"
        code 0 "$H" cache save --key deps --path "$W/deps" >"$T/said"
        grep -q "^saved 'deps': " "$T/said"
        again true
        [ ! -e "$W/deps" ]
        is "$("$H" cache restore --key deps 2>/dev/null | head -n 2)" "$(printf 'cache_hit=true\ncache_state=complete')"
        tree "$W/deps" | diff "$T/before" - >&2
        is "$(du -k "$W/deps/sparse" | cut -f 1)" 64
        # It is the stage's, as anything else: steps see it, change it, and merge.
        code 0 "$H" step run change -- sh -c 'cat deps/dir/one; echo more >>deps/dir/one'
        is "$(cat "$W/deps/dir/deep/two")" "$(printf 'one\nmore')"
        again true
        code 0 "$H" cache restore --key deps >&2
        tree "$W/deps" | diff "$T/before" - >&2
        "#,
    );
}

#[test]
fn what_was_there_is_gone_and_what_is_beside_stays() {
    with_store(
        r#"
        mkdir -p "$W/a/deps/dir"; echo new >"$W/a/deps/short"; echo f >"$W/a/deps/dir/f"; ln -s f "$W/a/deps/dir/link"
        "$H" cache save --key k --path "$W/a/deps" >&2
        tree "$W/a/deps" >"$T/before"
        again true
        # Files over longer ones, over directories and links, directories over files, in directories nobody may write.
        mkdir -p "$W/a/deps/short/x" "$W/a/beside"; echo old >"$W/a/deps/dir"; echo stale >"$W/a/deps/stale"
        echo outside >"$T/outside"; ln -s "$T/outside" "$W/a/deps/link"; ln "$W/a/deps/stale" "$W/a/beside/other"
        chmod 0555 "$W/a/deps"; chmod 0711 "$W/a"; touch -d '2003-04-05' "$W/a"
        is "$(stat -c %h "$W/a/beside/other")" 2
        "$H" cache restore --key k >&2
        tree "$W/a/deps" | diff "$T/before" - >&2
        is "$(stat -c '%a %y' "$W/a" | cut -c 1-14)" "711 2003-04-05"
        is "$(cat "$W/a/beside/other" "$T/outside")" "$(printf 'stale\noutside')"
        is "$(stat -c %h "$W/a/beside/other")" 1
        # What a program has open, or runs, goes on; new names are the cache's.
        cp "$(command -v sleep)" "$W/a/deps/sleep"; "$W/a/deps/sleep" 60 & sleep=$!
        exec 3<"$W/a/deps/sleep"
        "$H" cache restore --key k >&2
        kill "$sleep"; [ ! -e "$W/a/deps/sleep" ]; cmp - "$(command -v sleep)" <&3; exec 3<&-
        tree "$W/a/deps" | diff "$T/before" - >&2
        # A type that is another; a whole mapped path; and back, in one step.
        rm -rf "$W/a"; echo file >"$W/a"
        "$H" cache restore --key k >&2
        tree "$W/a/deps" | diff "$T/before" - >&2
        "$H" rollback base >&2
        is "$(ls "$W")" file
        "#,
    );
}

#[test]
fn a_whole_mapped_path_is_mirrored_too() {
    with_store(
        r#"
        echo c >"$W/cached"; mkdir "$W/dir"; echo d >"$W/dir/d"; rm "$W/file"
        "$H" cache save --key k --path "$W" >&2
        tree "$W" >"$T/before"
        again sh -c 'mkdir -p "$W/dir/old" "$W/gone"; echo x >"$W/dir/old/x"; echo y >"$W/gone/y"'
        "$H" cache restore --key k >&2
        tree "$W" | diff "$T/before" - >&2
        "$H" unmount >&2; rm -rf "$W/dir" "$W/gone"; "$H" mount --workspace "$W" >&2
        "#,
    );
}

#[test]
fn only_what_changed_is_sent() {
    with_store(
        r#"
        mkdir -p "$W/deps/a" "$W/deps/b"; head -c 900000 /dev/urandom >"$W/deps/a/large"
        for n in $(seq 200); do echo "$n" >"$W/deps/b/$n"; done
        first=$(sent --key 1 --path "$W/deps"); [ "$first" -gt 900000 ]
        is "$(sent --key 2 --path "$W/deps")" 0
        is "$(sent --key 2 --override --path "$W/deps")" 0
        code 0 "$H" step run one -- sh -c 'echo changed >>deps/b/7; rm deps/b/8; mv deps/b/9 deps/b/nine'
        second=$(sent --key 3 --path "$W/deps"); [ "$second" -gt 0 ] && [ "$second" -lt 20000 ]
        tree "$W/deps" >"$T/before"
        # A touch is a change of the time; the same content and time again is none.
        (cd "$W/deps/b" && cp -p 10 "$T/10" && rm 10 && cp -p "$T/10" 10 && touch -d '2000-01-01' .)
        "$H" cache save --key 4 --path "$W/deps" >&2
        is "$("$H" cache diff 3 4)" "m $W/deps/b"
        is "$("$H" cache diff 1 3)" "$(printf 'm %s\nM %s\nD %s\nD %s\nA %s' "$W/deps/b" "$W/deps/b/7" "$W/deps/b/8" "$W/deps/b/9" "$W/deps/b/nine")"
        # A stage that has restored it goes on from there, and the next one from that.
        again true
        "$H" cache restore --key 3 >&2
        tree "$W/deps" | diff "$T/before" - >&2
        is "$(sent --key 5 --path "$W/deps")" 0
        is "$("$H" cache show 5 | grep manifest)" "$("$H" cache show 3 | grep manifest)"
        for n in $(seq 12); do
            echo "$n" >"$W/deps/b/again"; dd if=/dev/urandom of="$W/deps/b/$n" bs=1000 count="$n" status=none
            [ "$(sent --key "chain-$n" --path "$W/deps")" -lt 200000 ]
        done
        # Chains do not grow without end, and the large layer is sent once.
        [ "$("$H" cache show chain-12 | grep -c ^layer)" -le 8 ]
        tree "$W/deps" >"$T/before"
        again true
        "$H" cache restore --key chain-12 >&2
        tree "$W/deps" | diff "$T/before" - >&2
        # Another store has nothing of it yet.
        [ "$(sent --key 6 --path "$W/deps" --to "file://$T/other")" -gt 900000 ]
        "$H" cache verify >&2; "$H" cache verify --store "file://$T/other" >&2
        "#,
    );
}

#[test]
fn hard_links_stay_together_over_layers() {
    with_store(
        r#"
        mkdir -p "$W/deps/dir"; echo one >"$W/deps/one"; echo two >"$W/deps/dir/two"; ln "$W/deps/dir/two" "$W/deps/dir/three"
        "$H" cache save --key 1 --path "$W/deps" >&2
        ln "$W/deps/one" "$W/deps/dir/new"; mv "$W/deps/dir" "$W/deps/moved"; ln "$W/deps/moved/two" "$W/outside"
        "$H" cache save --key 2 --path "$W/deps" >&2
        rm "$W/deps/moved/three"
        "$H" cache save --key 3 --path "$W/deps" >&2
        again true
        "$H" cache restore --key 2 >&2
        is "$(stat -c '%h %n' "$W/deps/one" "$W/deps/moved/new" "$W/deps/moved/two" "$W/deps/moved/three" | sed "s:$W/deps/::")" \
            "$(printf '2 one\n2 moved/new\n2 moved/two\n2 moved/three')"
        is "$(stat -c %i "$W/deps/one")" "$(stat -c %i "$W/deps/moved/new")"
        "$H" cache restore --key 3 >&2
        is "$(stat -c %h "$W/deps/moved/two" "$W/deps/one")" "$(printf '1\n2')"
        [ ! -e "$W/deps/dir" ]
        # Names of one file that have become files of their own, each as it was; and the other way round.
        again rm -rf "$W/deps"
        mkdir "$W/deps"; echo x >"$W/deps/a"; ln "$W/deps/a" "$W/deps/b"; cp -p "$W/deps/a" "$W/deps/c"; cp -p "$W/deps/a" "$W/deps/d"
        "$H" cache save --key 4 --path "$W/deps" >&2
        cp -p "$W/deps/a" "$T/a"; rm "$W/deps/a"; cp -p "$T/a" "$W/deps/a"; ln -f "$W/deps/c" "$W/deps/d"
        "$H" cache save --key 5 --path "$W/deps" >&2
        again rm -rf "$W/deps"
        "$H" cache restore --key 5 >&2
        is "$(cd "$W/deps"; stat -c '%n%h' * | tr '\n' ' ')" "a1 b1 c2 d2 "
        "#,
    );
}

#[test]
fn what_archives_stumble_over_is_saved_or_named() {
    let ran = with_store(
        r#"
        mkdir "$W/deps"; echo keep >"$W/deps/keep"; echo 'machine h login l password p' >"$W/deps/.netrc"
        python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$W/deps/socket"
        # A file that grows, one that shrinks and one that comes and goes, all the time.
        "$H" step background writer -- sh -c 'while :; do head -c 300000 /dev/zero >>"$W/deps/grows"; : >"$W/deps/shrinks"
            head -c 200000 /dev/zero >"$W/deps/shrinks"; echo x >"$W/deps/comes"; rm "$W/deps/comes"; done' & writer=$!
        until [ -s "$W/deps/grows" ] && [ -s "$W/deps/shrinks" ]; do :; done
        for n in 1 2 3; do code 0 "$H" cache save --key "$n" --path "$W/deps" --path "$W/none" >>"$T/said"; done
        "$H" step stop writer >&2; wait "$writer" || true
        cat "$T/said"
        "$H" cache verify 1 2 3
        rm -rf "$W/deps"
        "$H" cache restore --key 3 >&2
        is "$(ls -A "$W/deps" | grep -v -e grows -e shrinks -e comes)" keep
        is "$(cat "$W/deps/keep")" keep
        # A cache of nothing is no cache.
        code 3 "$H" cache save --key none --path "$W/none"
        code 2 "$H" cache save --key none --path /elsewhere
        code 2 "$H" cache save --key none --path "$W/deps" --path "$W/deps/keep"
        code 2 "$H" cache save --key none
        is "$("$H" cache list none)" ""
        "#,
    );
    for said in ["/deps/.netrc (", "not saved, it is not there: ", "sockets"] {
        assert!(ran.out.contains(said), "no {said:?} in {}", ran.out);
    }
    for said in [
        "there is nothing to save: no ",
        "lies in none of the mapped paths",
        "name the one or the other",
    ] {
        assert!(ran.err.contains(said), "no {said:?} in {}", ran.err);
    }
}

#[test]
fn keys_are_found_as_they_are_asked_for() {
    with_store(
        r#"
        save() { mkdir -p "$W/d"; echo "$1" >"$W/d/f"; "$H" cache save --path "$W/d" --key "$@" >&2; }
        found() { rm -rf "$W/d"; "$H" cache restore "$@" >"$T/said" 2>/dev/null; sed -n 's/^cache_[a-z]*=//p' "$T/said" | tr '\n' ' '; cat "$W/d/f" 2>/dev/null; }
        save deps-1; save deps-2; save deps-10; save other
        is "$(found --key deps-1)" "true complete deps-1"
        is "$(found --key deps-)" "false "
        # The newest that begins so, and none that only contains it; the best prefix first.
        save deps-3
        is "$(found --key deps-x --restore-key deps-)" "true partial deps-3"
        is "$(found --key x --restore-key ps- --restore-key oth --restore-key deps-)" "true partial other"
        is "$(found --key x --restore-key zzz)" "false "
        # A key that is there is nobody's to replace without being told so.
        echo second >"$W/second"; save deps-1
        is "$("$H" cache save --key deps-1 --path "$W/second")" "not saved 'deps-1': the key is taken"
        is "$(found --key deps-1)" "true complete deps-1"
        rm -rf "$W/d"; mkdir "$W/d"; echo replaced >"$W/d/f"
        "$H" cache save --key deps-1 --override --path "$W/d" >&2
        is "$(found --key deps-1)" "true complete replaced"
        # Scopes.
        save fork-1 --scope fork
        is "$(found --key fork-1)" "false "
        is "$(found --key deps-2 --scope fork)" "false "
        is "$(found --key deps-2 --scope fork --scope-fallback default)" "true complete deps-2"
        is "$(found --key fork-1 --scope fork --scope-fallback default)" "true complete fork-1"
        is "$("$H" cache list --scope fork | wc -l) $("$H" cache list --all-scopes | wc -l)" "1 6"
        # Which way.
        is "$(found --key deps-2 --policy push)" "false "
        save no --policy pull
        is "$(found --key no)" "false "
        code 3 "$H" cache restore --key no --fail-if-key-not-found
        code 3 "$H" cache show no
        code 3 "$H" cache rm no
        "$H" cache rm deps-2
        is "$(found --key deps-2)" "false "
        # A part of what was saved.
        mkdir "$W/e"; echo e >"$W/e/f"; "$H" cache save --key both --path "$W/d" --path "$W/e" --override >&2 || true
        save d; "$H" cache save --key both --path "$W/d" --path "$W/e" >&2
        rm -rf "$W/d" "$W/e"
        "$H" cache restore --key both --path "$W/e" >&2
        is "$(cat "$W/e/f") $(ls "$W" | tr '\n' ' ')" "e e file second "
        code 3 "$H" cache restore --key both --path "$W/second"
        "$H" cache prune --keep 2 --unused-for 0s >&2
        is "$("$H" cache list --all-scopes | wc -l)" 2
        "$H" cache verify >&2
        "#,
    );
}

#[test]
fn a_store_that_fails_is_no_miss_and_damage_is_no_hit() {
    let ran = with_store(
        r#"
        mkdir "$W/deps"; head -c 300000 /dev/urandom >"$W/deps/large"; echo s >"$W/deps/small"
        "$H" cache save --key k --path "$W/deps" >&2
        # A server that is not there.
        gone='s3://bucket/x?endpoint=http://127.0.0.1:9&retries=0'
        export AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b
        is "$("$H" cache restore --key k --from "$gone" 2>/dev/null)" cache_hit=false
        code 1 "$H" cache restore --key k --from "$gone" --on-store-error fail
        code 0 "$H" cache save --key k --path "$W/deps" --to "$gone" >&2
        code 1 "$H" cache save --key k --path "$W/deps" --to "$gone" --on-store-error fail
        code 2 "$H" cache save --key k --path "$W/deps" --to nowhere
        # Every blob, damaged and cut short and gone: the stage stays as it is.
        rm -rf "$W/deps"; mkdir "$W/deps"; echo mine >"$W/deps/mine"
        for blob in "$T"/store/blobs/sha256/*; do
            cp "$blob" "$T/kept"
            flip "$blob" $(($(stat -c %s "$blob") / 2))
            code 1 "$H" cache restore --key k
            code 1 "$H" cache verify k
            truncate -s -1 "$blob"; code 1 "$H" cache restore --key k
            rm "$blob"; code 1 "$H" cache restore --key k
            cp "$T/kept" "$blob"
        done
        is "$(ls "$W/deps")" mine
        ref=$(find "$T/store/refs" -type f); cp "$ref" "$T/kept"
        echo '{}' >"$ref"; code 1 "$H" cache restore --key k
        cp "$T/kept" "$ref"
        is "$(ls "$W/deps")" mine
        is "$("$H" log | grep -c import || true)" 0
        # Somebody writes there.
        "$H" step background writer -- sh -c 'exec 3>>"$W/deps/mine"; echo ready >"$W/ready"; exec sleep 60' & writer=$!
        until [ -s "$W/ready" ]; do :; done
        code 1 "$H" cache restore --key k
        is "$(ls "$W/deps")" mine
        "$H" step stop writer >&2; wait "$writer" || true
        "$H" cache restore --key k >&2
        is "$(ls "$W/deps" | tr '\n' ' ')" "large small "
        is "$(ls -A "$HARNESS_FS_STATE_DIR/objects")" ""
        "#,
    );
    assert!(
        ran.err
            .contains("/deps/mine is open for writing outside of steps"),
        "{}",
        ran.err
    );
}

#[test]
fn steps_save_and_restore_on_the_stage_and_may_nothing_else() {
    let ran = with_store(
        r#"
        mkdir "$W/deps"; echo stage >"$W/deps/f"
        code 0 "$H" step run save -- sh -c 'echo step >deps/f; "$H" cache save --key k --path "$W/deps" >&2'
        code 0 "$H" step run restore -- sh -c '"$H" cache restore --key k >&2; cat deps/f'
        is "$(cat "$W/deps/f")" stage
        code 3 "$H" step run other -- "$H" status
        code 0 "$H" step run raw -- python3 -c '
import json, os, socket
at = socket.socket(socket.AF_UNIX)
at.connect(os.environ["HARNESS_FS_STATE_DIR"] + "/step.sock")
wire = at.makefile("rw")
hello = json.loads(wire.readline())
for request in [{"protocol": hello["protocol"], "version": hello["version"]}, {"unmount": {}}, {"step_discard": {"step": "raw"}}, {"status": {}}]:
    wire.write(json.dumps(request) + "\n"); wire.flush()
    if "protocol" not in request:
        print(next(iter(json.loads(wire.readline()))))
'
        "#,
    );
    assert_eq!(ran.out.lines().next(), Some("step"), "{}", ran.out);
    assert!(ran.out.contains("failure\nfailure\nreport"), "{}", ran.out);
}

#[test]
fn of_two_who_save_at_once_one_is_first_and_both_are_whole() {
    with_store(
        r#"
        mkdir "$W/a" "$W/b"; head -c 100000 /dev/urandom >"$W/a/f"; head -c 100000 /dev/urandom >"$W/b/f"
        for n in 1 2 3 4 5; do
            "$H" cache save --key "$n" --path "$W/a" >"$T/a" 2>/dev/null & one=$!
            "$H" cache save --key "$n" --path "$W/b" >"$T/b" 2>/dev/null & two=$!
            wait "$one"; wait "$two"
            is "$(cat "$T/a" "$T/b" | grep -c '^saved')" 1
            "$H" cache verify "$n" >&2
        done
        "#,
    );
}

#[test]
fn files_of_root_bring_no_privileges() {
    let ran = with_store(
        r#"
        mkdir "$W/deps"; for f in suid sgid both mine cap; do echo x >"$W/deps/$f"; done
        chown 5:5 "$W/deps/mine"; chmod 4755 "$W/deps/suid" "$W/deps/mine"; chmod 2755 "$W/deps/sgid"; chmod 6755 "$W/deps/both"
        python3 -c 'import os, sys; os.setxattr(sys.argv[1], "security.capability", bytes.fromhex("0100000202000000000000000000000000000000"))' "$W/deps/cap"
        mknod "$W/deps/null" c 1 3; ln "$W/deps/null" "$W/deps/null-2"
        tree "$W/deps" >"$T/before"; getcap() { getfattr -hn security.capability -e hex "$1" 2>/dev/null | grep -c security || true; }
        "$H" cache save --key k --path "$W/deps" >&2
        again true
        "$H" cache restore --key k
        is "$(cd "$W/deps"; stat -c '%n %a' * | tr '\n' ' ')" "both 755 cap 644 mine 4755 sgid 755 suid 755 "
        is "$(getcap "$W/deps/cap")" 0
        "$H" cache restore --key k --trust >&2
        is "$(cd "$W/deps"; stat -c '%n %a' * | tr '\n' ' ')" "both 6755 cap 644 mine 4755 null 644 null-2 644 sgid 2755 suid 4755 "
        is "$(getcap "$W/deps/cap")" 1
        tree "$W/deps" | diff "$T/before" - >&2
        "#,
    );
    for said in [
        "/deps/suid (that it is setuid, root's)",
        "/deps/cap (its extended attribute security.capability)",
        "/deps/null-2 (a device)",
    ] {
        assert!(ran.out.contains(said), "no {said:?} in {}", ran.out);
    }
}
