#!/usr/bin/env bash
# Makes the Dockerfile's base image from Debian's packages, for machines that no hub answers: one minute, once.
set -euo pipefail
NAME=docker.io/library/debian:bookworm-slim

fail() { echo "error: tests/cluster/base_image.sh: $*" >&2; exit 1; }

command -v buildah >/dev/null || fail "buildah is missing: apt-get install buildah"
buildah inspect --type image "$NAME" >/dev/null 2>&1 && exit 0
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
[ "$(id -u)" = 0 ] || fail "debootstrap makes device files and needs root: sudo $0"

# Where apt already gets bookworm from; elsewhere debootstrap knows a mirror itself.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' | sort -u | head -n 1)
work=$(mktemp -d)
container=
trap '[ -z "$container" ] || buildah rm "$container" >/dev/null; rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" ${mirror:+"$mirror"} >"$work/log" 2>&1 ||
  { tail -n 20 "$work/log" >&2; fail "debootstrap did not finish: see above"; }
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
tar -C "$work/root" --create --file "$work/root.tar" .
container=$(buildah from scratch)
buildah add --quiet "$container" "$work/root.tar" / >/dev/null
buildah config --cmd bash "$container"
buildah commit --quiet "$container" "$NAME" >/dev/null
