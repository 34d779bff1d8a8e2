#!/usr/bin/env bash
# Scenario 7: a snapshot leaves as an OCI image layout. podman mounts the image,
# and a second stage is mounted from it, over nothing and over other files.
# shellcheck source=tests/scenarios/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

shared=/root/.m2
layout=$TMP/layout
# What cannot be in an image, or must not: it has to be named in the output.
unusual=(--exclude '*/.wh.x' --exclude '.wh.x' --exclude '*.sock' --exclude .netrc)

map /harness $shared
odd_tree /harness/odd
odd_tree $shared/odd
mkdir -p /harness/src/{one,two,three} /harness/removed/deep $shared/repository/{a,b}
for n in {1..200}; do
    echo "file $n" | tee "/harness/src/one/$n" "/harness/src/two/$n" "/harness/src/three/$n" >"/harness/removed/deep/$n"
done
echo base >$shared/repository/a/a.jar
echo base >$shared/repository/b/b.jar
echo base >/harness/becomes-dir
mkdir /harness/becomes-file
echo base >/harness/becomes-file/x
echo base >/harness/x
echo base >/harness/src/x
mount_stage

note "three steps and some changes in the stage itself"
# shellcheck disable=SC2016
expect 0 hfs step run add -- sh -euc '
    mkdir -p new/dir
    echo new >new/dir/file
    ln new/dir/file new/dir/same
    ln odd/file odd/another-name-of-a-base-file   # its copy-up has two names
    mkdir -p /root/.m2/repository/c
    echo new >/root/.m2/repository/c/c.jar
    mknod new/null c 1 3
    mkfifo new/pipe
    chown -R 1234:4321 new/dir
    chmod 2751 new/dir
    setfattr -n user.colour -v blue new/dir/file
    setfattr -n user.colour -v red src/one
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 odd/tool
    ln odd/tool odd/tool-too     # a further name in an archive must take nothing away
    setfacl -m u:1000:rw- src/three/1
    touch -d "2011-11-11 11:11:11.111111111" src/three/2
    touch -h -d "2011-11-11 11:11:11.222222222" odd/sub/link
    ln -s ../new/dir src/link
    python3 -c "import socket; socket.socket(socket.AF_UNIX).bind(\"new/s.sock\")"'
expect 0 hfs step run remove -- sh -euc '
    rm -r removed
    rm -r src/two && mkdir src/two && echo fresh >src/two/1     # an opaque directory
    mv src/one src/renamed                                      # a redirect
    echo more >>src/renamed/7
    rm src/renamed/8
    rm becomes-dir && mkdir becomes-dir && echo y >becomes-dir/y
    rm -r becomes-file && echo file >becomes-file
    rm odd/hard-1                                               # one of two names
    rm /root/.m2/repository/a/a.jar
    mv /root/.m2/repository/b /root/.m2/repository/bb
    chmod 0700 new'
expect 0 hfs step run awkward -- sh -euc '
    echo "not a whiteout" >.wh.x
    echo "not a whiteout" >src/.wh.x
    chmod 0750 src
    printf "machine example.invalid login a password b\n" >.netrc
    chmod 0600 .netrc'
echo 'in the stage' >/harness/outside-any-step
rm /harness/src/three/200

expect 0 hfs snapshot create saved
expect 0 hfs snapshot list
says saved
"$DIGEST" --list "${unusual[@]}" /harness $shared >"$TMP/saved"
note "what comes after the snapshot is not in it"
echo later >/harness/later
rm -r /harness/new

note "export"
expect 0 hfs export saved --to "$layout"
says .netrc
# In an image layer such names would delete x: both are named, and left out.
same_lines <(printf 'left out: %s\n' /harness/.wh.x /harness/src/.wh.x) \
    <(sed -n '/\/\.wh\./s/ (.*//p' "$OUT" "$ERR" | LC_ALL=C sort) "what is said of .wh.x"
python3 "$SCENARIOS/check-layout" "$layout" /harness $shared
expect 0 hfs export saved --to "$TMP/again"
same_lines <(cd "$layout" && find . -type f | LC_ALL=C sort) \
    <(cd "$TMP/again" && find . -type f | LC_ALL=C sort) "the second export"
expect 0 hfs export saved --to "$TMP/no-base" --without-base
assert_same "$(python3 "$SCENARIOS/check-layout" --count "$TMP/no-base" /harness $shared)" \
    "$(($(python3 "$SCENARIOS/check-layout" --count "$layout" /harness $shared) - 1))" \
    "number of layers without the base"

expect 0 hfs export saved --to "$TMP/gzip" --compat gzip

note "the snapshot, restored in the stage itself"
expect 0 hfs snapshot restore saved
"$DIGEST" --list "${unusual[@]}" /harness $shared >"$TMP/restored"
same_lines "$TMP/saved" "$TMP/restored" "the restored snapshot"
unmount_stage

note "podman mounts the image"
printf '[containers]\ndefault_ulimits = []\n' >"$TMP/containers.conf"
export CONTAINERS_CONF=$TMP/containers.conf
# Where the cache is, not where a container's own root is: podman's overlay driver
# does not take an overlayfs, and its vfs driver loses ACLs.
storage=$(mktemp -d "$CACHE/podman.XXXXXX")
REMOVED+=("$storage")
# podman's runroot must have a short name.
mkdir "$TMP/podman-run"
mount --bind "$TMP/podman-run" /mnt
cd "$TMP" # podman makes a name of the path, and names are lower case
podman=(timeout 120 podman --root "$storage" --runroot /mnt/overlay
    --storage-driver overlay --runtime runc --cgroup-manager cgroupfs)
"${podman[@]}" pull -q oci:layout >"$OUT" 2>"$ERR" </dev/null || { cat "$ERR" >&3; fail "podman does not take the image"; }
pulled=$(cat "$OUT")
image=$("${podman[@]}" image mount "$pulled")
"$DIGEST" --list "${unusual[@]}" "$image/harness" "$image$shared" >"$TMP/in-image"
same_lines "$TMP/saved" "$TMP/in-image" "the tree in the image"
assert_missing "$image/harness/.netrc"
assert_missing "$image/harness/.wh.x"
assert_missing "$image/harness/src/.wh.x"
assert_exists "$image/harness/src/x"
assert_exists "$image/harness/x"
"${podman[@]}" image unmount "$pulled" >/dev/null
"${podman[@]}" rmi "$pulled" >/dev/null
umount -l "$storage/overlay" 2>/dev/null || true
umount -l /mnt
cd /

note "skopeo copies the image, with all that says where its tables of contents are"
expect 0 skopeo --insecure-policy copy -q "oci:$layout:saved" "oci:$TMP/copy:saved"
assert_same "$(skopeo inspect --raw "oci:$TMP/copy:saved")" "$(skopeo inspect --raw "oci:$layout:saved")" \
    "manifest of the copy"
expect 0 skopeo inspect --raw "oci:$TMP/copy:saved"
says io.github.containers.zstd-chunked.manifest-position

note "umoci, which knows no zstd, unpacks the gzip form"
expect 0 umoci unpack --image "$TMP/gzip:saved" "$TMP/bundle"
"$DIGEST" --list "${unusual[@]}" "$TMP/bundle/rootfs/harness" "$TMP/bundle/rootfs$shared" >"$TMP/unpacked"
same_lines "$TMP/saved" "$TMP/unpacked" "the tree that umoci unpacked"
rm -rf "$TMP/bundle"

# from_layout WHAT : a second stage over whatever is mapped now.
from_layout() {
    mount_stage --from "$layout"
    "$DIGEST" --list "${unusual[@]}" /harness $shared >"$TMP/from"
    same_lines "$TMP/saved" "$TMP/from" "the tree from the layout, over $1"
    assert_missing /harness/.netrc
    assert_missing /harness/.wh.x
    assert_missing /harness/src/.wh.x
    assert_same "$(cat /harness/x)$(cat /harness/src/x)" basebase "the neighbours of .wh.x"
    # It is a stage like any other.
    expect 0 hfs step run use -- sh -euc 'cat src/renamed/7 && rm -r src/three && echo used >used'
    says 'file 7'
    assert_same "$(cat /harness/used)" used "used"
    assert_missing /harness/src/three
    unmount_stage
}

note "mounted from the layout over empty directories"
rm -rf "$TMP/first"
mkdir "$TMP/first"
for path in /harness $shared; do
    umount "$path"
done
mv "$TMP/base" "$TMP/first/"
MAPPED=()
map /harness $shared
from_layout "empty directories"

note "mounted from the layout over other files"
odd_tree /harness/odd
odd_tree /harness/foreign
mkdir -p /harness/removed/deep /harness/src/two /harness/new/dir/file/dir $shared/repository/a
echo other >/harness/removed/deep/1
echo other >/harness/src/two/99
echo 'a longer text than the saved file holds, and then some' >/harness/becomes-file
echo other >/harness/becomes-dir
echo other >/harness/new/dir/file/dir/x
echo other >/harness/src/renamed
echo other >$shared/repository/a/a.jar
ln -s /etc /harness/link
chmod 0700 $shared
from_layout "other files"

note "a damaged layout is refused, and changes nothing"
cp -a "$layout" "$TMP/damaged"
blob=$(find "$TMP/damaged/blobs/sha256" -type f -size +0 -printf '%s %p\n' | sort -n | tail -n 1)
printf 'XXXX' | dd of="${blob#* }" bs=1 seek=100 conv=notrunc status=none
mount_points >"$TMP/mounts-before"
"$DIGEST" --list "${MAPPED[@]}" >"$TMP/before"
shared_options
expect 1 hfs mount "${SHARED[@]}" "${MOUNT_OPTIONS[@]}" --from "$TMP/damaged"
same_mounts
"$DIGEST" --list "${MAPPED[@]}" >"$TMP/after"
same_lines "$TMP/before" "$TMP/after" "the mapped paths"
poll 10 "all processes have ended" alone
