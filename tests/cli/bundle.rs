//! `debug bundle` of a stage that is at work.

use super::mounted::in_stage_of;
use super::rig::Rig;

/// Secrets in each place that a careless bundle would take along.
const SECRETS: [&str; 5] = [
    "s3cret-of-the-daemons-environment",
    "s3cret-of-an-environment",
    "s3cret-in-an-argument",
    "s3cret-in-a-file",
    "s3cret-in-an-attribute",
];

#[test]
fn no_secret_of_a_live_stage_is_in_it() {
    let rig = Rig::new();
    in_stage_of(
        &rig,
        r#"
        "$H" unmount
        export HARNESS_FS_LOG=debug TOKEN=s3cret-of-the-daemons-environment
        "$H" mount --workspace "$W"
        export TOKEN=s3cret-of-an-environment
        echo s3cret-in-a-file >"$W/in-the-stage"
        # What fails, what is left behind, and what is refused goes to the log.
        code 7 "$H" step run --on-failure keep kept -- sh -c 'echo "$TOKEN $1" >kept-file; exit 7' - s3cret-in-an-argument
        code 0 "$H" step run --grace 1s left -- sh -c 'sh -c "sleep 1000; : $1" >/dev/null 2>&1 &' - s3cret-in-an-argument
        code 127 "$H" step run none -- ./no-such s3cret-in-an-argument
        "$H" snapshot create saved
        mkfifo "$T/ready" "$T/go"
        "$H" step run live-step -- sh -euc '
            printf "%s %s" "$TOKEN" s3cret-in-a-file >new-file
            setfattr -n user.note -v s3cret-in-an-attribute new-file
            echo >"$2/ready"
            cat "$2/go"' - s3cret-in-an-argument "$T" & live=$!
        cat "$T/ready"
        cd "$T"
        is "$("$H" debug bundle --output live.tar.zst)" live.tar.zst
        cd /
        echo >"$T/go"
        wait "$live"
        code 0 "$H" step discard kept
        "#,
    );
    let packed = std::fs::read(rig.path().join("tmp/live.tar.zst")).unwrap();
    let bundle = zstd::decode_all(&*packed).unwrap();
    let holds = |text: &str| {
        let mut parts = bundle.windows(text.len());
        parts.any(|part| part == text.as_bytes())
    };
    // It is of the live stage, and what it is meant to hold is there.
    for text in ["daemon.log", "mountinfo", "live-step", "saved", "transport"] {
        assert!(holds(text), "no {text}");
    }
    for secret in SECRETS {
        assert!(!holds(secret), "{secret} is in the bundle");
    }
}
