#!/usr/bin/env bash
# Makes the image that our Dockerfile starts from, where no registry of the world has it: Debian's own packages, put
# together by debootstrap from the mirror that this machine uses. usage: base_image.sh [IMAGE-NAME]; a minute, once.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
. "$HERE/versions.env"
. "$HERE/debian.sh"
NAME=${1:-docker.io/library/debian:$DEBIAN-slim}

root_only
need apt-get "the base image is made from Debian's packages; with docker or podman: pull $NAME"
mkdir -p "$CACHE"
exec 9>"$CACHE/base.lock"
flock 9
install_packages buildah debootstrap
buildah inspect --type image "$NAME" >/dev/null 2>&1 && exit 0
MIRROR=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Codename: $DEBIAN" "Component: main" | head -n 1)
[ -n "$MIRROR" ] || fail "apt has no mirror of Debian $DEBIAN: add one to /etc/apt/sources.list"
work=$(mktemp -d -p "$CACHE")
trap 'rm -rf --one-file-system "$work"' EXIT
debootstrap --variant=minbase --include=ca-certificates "$DEBIAN" "$work/root" "$MIRROR" >"$CACHE/base.log" 2>&1 ||
  { tail -n 5 "$CACHE/base.log" >&2; fail "debootstrap failed; the whole log is $CACHE/base.log"; }
rm -rf "$work"/root/var/{cache/apt/archives,lib/apt/lists}/* "$work"/root/usr/share/{man,locale}/*
container=$(buildah from scratch)
buildah copy -q "$container" "$work/root" / >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd bash "$container"
buildah commit -q --rm "$container" "$NAME" >/dev/null
