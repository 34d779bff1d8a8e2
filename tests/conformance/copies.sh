#!/usr/bin/env bash
# rsync, GNU tar and coreutils (Debian) copy a tree with all that a tree can hold, and change it: round trips, whose results
# are compared as whole trees. `new` is made in the place, `lower` lies below.
# shellcheck source=tests/conformance/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DIGEST=$REPO/tests/scenarios/tree-digest
TAR=(tar --warning=no-timestamp --xattrs --xattrs-include='*' --acls --sparse --numeric-owner)

suite_describe() { echo 'rsync -aHAXS, GNU tar and coreutils: round trips of a tree with links, holes, attributes, ACLs, capabilities, devices and odd names; Debian'; }

suite_install() {
    apt_install rsync tar coreutils attr acl libcap2-bin
    dpkg-query -W -f='${Package} ${Version} ' rsync tar | sed 's/ $//'
}

suite_populate() { make_tree "$1/lower/tree"; }

# All times lie in the past and are the same each time.
make_tree() {
    local tree=$1 name number
    mkdir -p "$tree"/{plain,linked/far,attributes,special,empty,many,sticky}
    umask 022
    for name in a b c; do printf 'content of %s\n' "$name" >"$tree/plain/$name"; done
    seq 300000 >"$tree/plain/big"
    for name in $'new\nline' $'tab\t' ' space ' '-dash' 'back\slash' $'\xff\xfe' 'ü' '.wh.x' '.wh..wh..opq' "$(printf 'n%.0s' {1..255})" '*' "'\""; do
        printf '%s' "$name" >"$tree/plain/$name"
    done
    printf 'one file\n' >"$tree/linked/1"
    ln "$tree/linked/1" "$tree/linked/2"
    ln "$tree/linked/1" "$tree/linked/far/3"
    ln -s ../plain/a "$tree/linked/soft"
    ln -P "$tree/linked/soft" "$tree/linked/soft-too"
    ln -s /nowhere "$tree/linked/dangling"
    chown -h 1:2 "$tree/linked/dangling"
    truncate -s 20M "$tree/holes"
    printf 'middle' | dd of="$tree/holes" bs=1 seek=10000000 conv=notrunc status=none
    truncate -s 5M "$tree/nothing-but-hole"
    for name in user trusted empty; do printf '%s\n' "$name" >"$tree/attributes/$name"; done
    setfattr -n user.note -v 'a value' "$tree/attributes/user"
    setfattr -n user.large -v "$(printf 'v%.0s' {1..1500})" "$tree/attributes/user"
    setfattr -n user.binary -v 0x00ff0a00 "$tree/attributes/user"
    setfattr -n trusted.ours -v 1 "$tree/attributes/trusted"
    setfattr -n trusted.overlay.opaque -v y "$tree/attributes/trusted"
    setfattr -n user.directory -v 1 "$tree/attributes"
    printf 'tool\n' >"$tree/attributes/capable"
    chmod 755 "$tree/attributes/capable"
    setcap cap_net_raw=ep "$tree/attributes/capable"
    printf 'tool\n' >"$tree/attributes/acl"
    setfacl -m u:1234:rw,g:4321:r,m::rw "$tree/attributes/acl"
    setfacl -m u:1234:rwx -m d:u:1234:rwx,d:g:4321:rx "$tree/sticky"
    printf 'mine\n' >"$tree/sticky/inherits"
    chmod 1777 "$tree/sticky"
    for name in 4755 2755 6711 0000 0444 1644; do
        printf 'mode\n' >"$tree/special/mode-$name"
        chown 1000:1001 "$tree/special/mode-$name"
        chmod "$name" "$tree/special/mode-$name"
    done
    mkfifo -m 640 "$tree/special/fifo"
    mknod "$tree/special/null" c 1 3
    mknod "$tree/special/zero" c 0 0
    mknod "$tree/special/loop" b 7 200
    ln "$tree/special/fifo" "$tree/special/fifo-too"
    for number in $(seq 400); do printf '%s\n' "$number" >"$tree/many/$number"; done
    mkdir "$tree/locked"
    printf 'inside\n' >"$tree/locked/inside"
    chmod 0500 "$tree/locked"
    find "$tree" -depth -exec touch -h -d '2001-02-03 04:05:06.123456789' {} +
    touch -d '1969-12-31 23:59:58.5' "$tree/plain/a"
    touch -d '2040-01-01 00:00:00.000000001' "$tree/plain/b"
    touch -h -d '1999-09-09 09:09:09.999999999' "$tree/linked/dangling" "$tree/empty"
}

# case_of NAME COMMAND… : its exit code and what it prints are the outcome.
case_of() {
    local name=$1 code=0 said
    shift
    said=$("$@" 2>&1) || code=$?
    [ "${#said}" -lt 400 ] || said=$(sha256sum <<<"$said")
    echo "$kind: $name	$([ $code = 0 ] && echo pass || echo "fail ($code)")${said:+: $(tr '\n\t' ';;' <<<"$said")}"
}

# same A B [OPTION…] : the trees are equal; says which entries are not. Its digest is part of the outcome.
same() {
    local a=$1 b=$2
    shift 2
    diff <("$DIGEST" --list "$@" "$a") <("$DIGEST" --list "$@" "$b") && "$DIGEST" "$@" "$b"
}

holes_kept() { [ "$(du -k "$1/holes" | cut -f1)" -lt 200 ] && [ "$(du -k "$1/nothing-but-hole" | cut -f1)" -lt 50 ]; }

change() {
    chmod 600 "$1/plain/b"
    printf 'more\n' >>"$1/plain/c"
    printf 'X' | dd of="$1/plain/big" bs=1 seek=1000000 conv=notrunc status=none
    rm "$1/linked/2"
    printf 'changed\n' >>"$1/linked/far/3"
    mv "$1/many" "$1/moved"
    rm -r "$1/empty"
    printf 'now a file\n' >"$1/empty"
    setfacl -b "$1/attributes/acl"
    setfattr -x user.note "$1/attributes/user"
    find "$1" -depth -newermt 2003-01-01 -not -newermt 2039-01-01 -exec touch -h -d '2002-02-03 04:05:06.123456789' {} +
}

list_archive() { tar -tf "$1" | LC_ALL=C sort; }

archive_and_back() {
    local from=$1 to=$2
    mkdir "$to"
    "${TAR[@]}" -C "$from" -cf "$to.tar" . && "${TAR[@]}" -C "$to" -xpf "$to.tar"
}

incremental() {
    local tree=$1
    rm -rf snar back
    "${TAR[@]}" --listed-incremental=snar -cf level-0.tar "$tree" && sleep 0.05
    change "$tree"
    "${TAR[@]}" --listed-incremental=snar -cf level-1.tar "$tree"
    tar -tf level-1.tar | grep -v /many/ | LC_ALL=C sort
    mkdir back
    "${TAR[@]}" -C back --listed-incremental=/dev/null -xpf level-0.tar && "${TAR[@]}" -C back --listed-incremental=/dev/null -xpf level-1.tar
}

suite_run() {
    local kind kinds=(lower)
    [ "$2" != full ] || kinds=(new lower)
    export LC_ALL=C TZ=UTC
    for kind in "${kinds[@]}"; do
        mkdir -p "$1/$kind"
        cd "$1/$kind"
        [ "$kind" = lower ] || make_tree "$1/new/tree"
        case_of 'the tree' "$DIGEST" tree
        case_of 'rsync' rsync -aHAXS --numeric-ids tree/ rsync
        case_of 'rsync: the copy' same tree rsync
        case_of 'rsync: holes' holes_kept rsync
        case_of 'rsync again' rsync -aHAXSi --numeric-ids tree/ rsync
        case_of 'rsync by checksums' rsync -aHAXSic --numeric-ids tree/ rsync
        case_of 'rsync to another disk and back' away_and_back tree
        case_of 'rsync to another disk and back: the copy' same tree back-from-other
        case_of 'tar' archive_and_back tree tar
        case_of 'tar: the copy' same tree tar --exclude special/fifo-too # (of which tar makes a second one)
        case_of 'tar: holes' holes_kept tar
        case_of 'tar: compare' tar --xattrs --acls -C tree -df tar.tar
        case_of 'tar: list' list_archive tar.tar
        case_of 'cp -a' cp -a tree cp
        case_of 'cp -a: the copy' same tree cp
        case_of 'cp -a: holes' holes_kept cp
        case_of 'cp -al' cp -al tree cp-l
        case_of 'cp -al: one file' test tree/plain/big -ef cp-l/plain/big
        case_of 'cp -al: the copy' same tree cp-l
        case_of 'cp -al: names' stat -c '%h %n' tree/plain/big tree/linked/1 tree/special/fifo cp-l/linked/far/3
        case_of 'rm of the copy' rm -rf cp-l
        case_of 'rm of the copy: names' stat -c '%h %n' tree/plain/big tree/linked/1 tree/special/fifo
        case_of 'rsync --link-dest' rsync -aHAX --numeric-ids --link-dest="$PWD/tree" tree/ link-dest
        case_of 'rsync --link-dest: the copy' same tree link-dest
        case_of 'rsync --link-dest: names' find link-dest -type f -links 1
        case_of 'change' change rsync
        case_of 'change: the tree' "$DIGEST" --no-mtime-dirs rsync
        case_of 'rsync --delete' rsync -aHAXSi --numeric-ids --delete tree/ rsync
        case_of 'rsync --delete: the copy' same tree rsync
        case_of 'change in place' change cp
        case_of 'rsync --inplace' rsync -aHAX --numeric-ids --inplace --no-whole-file --delete tree/ cp
        case_of 'rsync --inplace: the copy' same tree cp
        case_of 'rsync --append-verify' append tar
        case_of 'rsync --append-verify: the copy' same tree tar
        case_of 'mv' mv tree moved
        case_of 'mv: the tree' same moved cp
        case_of 'mv back' mv moved tree
        case_of 'tar, incremental' incremental tree
        case_of 'tar, incremental: the copy' same tree back/tree --no-mtime-dirs --exclude special/fifo-too
        case_of 'rm' rm -rf tree rsync back tar cp link-dest back-from-other
        case_of 'rm: left' ls -A
    done
}

append() {
    head -c 100000 tree/plain/big >"$1/plain/big"
    rsync -aHAXS --numeric-ids --append-verify --ignore-times tree/ "$1"
}

away_and_back() {
    local other=$CONFORMANCE_OTHER_FILESYSTEM/copies
    rsync -aHAXS --numeric-ids "$1/" "$other/" && rsync -aHAXS --numeric-ids "$other/" back-from-other && rm -rf "$other"
}

suite "$@"
