#!/bin/sh
# Writes the files of this folder anew, options.txt aside, with the program that wrote them: it builds commit 3832b2e in a
# folder of its own, with make.rs as one more test. Times in the files differ from run to run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(git -C "$here" rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'git -C "$root" worktree remove --force "$work/tree"; rm -rf "$work"' EXIT
git -C "$root" worktree add --quiet --detach "$work/tree" 3832b2eac7ef9b13f0e054a5afc2a07bc266490a
ln -s "$(readlink -f "$root/.libtorch")" "$work/tree/.libtorch"
cp "$here/make.rs" "$work/tree/tests/make.rs"
echo 'mod make;' >> "$work/tree/tests/main.rs"
cd "$work/tree"
COZ_FIXTURES="$work/out" XDG_CONFIG_HOME="$work/config" cargo test --test main make::
for name in "$work/out"/*; do rm -rf "$here/${name##*/}"; done
cp -r "$work/out"/* "$here/"
