#!/usr/bin/env bash
# Scenario 1: a clone as CI does it, into a workspace that is not empty.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

origin=file://$CACHE/git/project.git
files=$(cat "$CACHE/git/files")
sha=$(git -C "$CACHE/git/project.git" rev-parse main)
export GIT_CONFIG_GLOBAL=$TMP/gitconfig GIT_CONFIG_NOSYSTEM=1
git config --global --add safe.directory '*'
git config --global user.name Scenario
git config --global user.email scenario@example.invalid

map /harness
odd_tree /harness/before
mount_stage
(cd /harness && find . -mindepth 1 ! -type d | LC_ALL=C sort) >"$TMP/untracked"

note "clone"
# shellcheck disable=SC2016
expect 0 hfs step run clone -- sh -euc '
    [ "$PWD" = /harness ]
    [ -d .git ] || git init -q
    git remote add origin "$1"
    git fetch -q --depth=50 origin "+refs/heads/main:"
    git checkout -q "$2" -B main' - "$origin" "$sha"

# git_is_clean GIT... : nothing changed, the untracked files are those of
# before, and the object store is sound.
git_is_clean() {
    expect 0 timeout 120 "$@" -C /harness status --porcelain --untracked-files=no
    [ ! -s "$OUT" ] || fail "git status is not clean"
    timeout 120 "$@" -C /harness ls-files -z --others |
        python3 -c 'import sys
for name in sys.stdin.buffer.read().split(b"\0")[:-1]: sys.stdout.buffer.write(b"./" + name + b"\n")' |
        LC_ALL=C sort >"$TMP/untracked-now"
    # (git lists neither FIFOs nor what it cannot read)
    [ "$(grep -c . "$TMP/untracked-now")" -ge 8 ] || fail "the files of before are not all there"
    LC_ALL=C comm -13 "$TMP/untracked" "$TMP/untracked-now" >"$TMP/new"
    [ ! -s "$TMP/new" ] || { cat "$TMP/new" >&3; fail "git status lists files that nobody made"; }
    expect 0 timeout 180 "$@" -C /harness fsck --full --no-progress
}

note "status and fsck in the stage view, in a step, and as another user"
git_is_clean git
assert_same "$(git -C /harness ls-files | wc -l)" "$files" "number of tracked files"
assert_same "$(git -C /harness rev-parse HEAD)" "$sha" "HEAD"
expect 0 hfs step run check -- git status --porcelain --untracked-files=no
[ ! -s "$OUT" ] || fail "git status in a step is not clean"
expect 0 hfs step run check-fsck -- git fsck --full --no-progress
user=(setpriv --reuid 1000 --regid 1000 --clear-groups
    env GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent GIT_OPTIONAL_LOCKS=0)
git_is_clean "${user[@]}" git -c 'safe.directory=*'
expect 0 hfs step run as-user -- "${user[@]}" git -c 'safe.directory=*' status --porcelain --untracked-files=no
[ ! -s "$OUT" ] || fail "git status as another user in a step is not clean"
expect 0 hfs step run user-writes -- "${user[@]}" sh -c 'mkdir by-user && echo mine >by-user/file'
assert_same "$(stat -c %u:%g /harness/by-user/file)" 1000:1000 "owner of what uid 1000 made"
# Without an exception git must still see that the directory is somebody else's.
expect 128 timeout 60 "${user[@]}" git -C /harness status

note "a pull request: fetch, merge"
expect 0 hfs step run pull-request -- sh -euc '
    rm -r by-user
    git fetch -q origin "+refs/heads/feature:"
    git merge -q --no-edit FETCH_HEAD'
git_is_clean git
mkdir "$TMP/plain"
git clone -q --branch feature "$origin" "$TMP/plain/harness" 2>/dev/null
chmod 0777 "$TMP/plain/harness"
same_tree /harness "$TMP/plain/harness" "the tree of the pull request" \
    --no-mtime --exclude .git --exclude before
note "repack, prune and a branch in the stage view itself"
echo more >>/harness/build.sh
timeout 60 git -C /harness commit -qam 'One more'
timeout 120 git -C /harness repack -dq
timeout 120 git -C /harness prune
timeout 120 git -C /harness checkout -q -b local
git_is_clean git
unmount_stage
