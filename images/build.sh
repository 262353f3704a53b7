#!/usr/bin/env bash
# Builds both images, pushes them where asked, and prints one line for each: TARGET NAME@sha256:... as the registry knows it.
# `make image` calls this with IMAGE, PUSH, BUILDER, BUILD_FLAGS, PUSH_FLAGS, BASE and FLASH_ATTN in the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
IMAGE=${IMAGE:-kctl} PUSH=${PUSH:-}
read -ra build_flags <<<"${BUILD_FLAGS:-}"
read -ra push_flags <<<"${PUSH_FLAGS:-}"

fail() { echo "error: make image: $*" >&2; exit 1; }

builder() { # the first that works: docker's client is often there without its daemon
  command -v buildah || command -v podman && return
  docker info >/dev/null 2>&1 && command -v docker && return
  fail "no image builder works here: apt-get install buildah"
}

digest() { # digest TARGET: pushes it; the digest of its manifest in the registry
  local name=$IMAGE:$1 file
  if [ "$tool" = docker ]; then
    "$BUILDER" push --quiet "${push_flags[@]}" "$name" >&2
    "$BUILDER" image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$name" | sed -n "s#^$IMAGE@##p" | head -n 1
  else
    file=$(mktemp)
    "$BUILDER" push --digestfile "$file" "${push_flags[@]}" "$name" >&2
    cat "$file"
    rm -f "$file"
  fi
}

BUILDER=${BUILDER:-$(builder)}
tool=$(basename "$BUILDER")
# buildah alone makes one layer of everything unless told otherwise.
[ "$tool" != buildah ] || build_flags=(--layers "${build_flags[@]}")
[ -z "${BASE:-}" ] || build_flags+=(--build-arg "BASE=$BASE")
[ -z "${FLASH_ATTN:-}" ] || build_flags+=(--build-arg "FLASH_ATTN=$FLASH_ATTN")
for target in kctl trainer; do
  "$BUILDER" build "${build_flags[@]}" --target "$target" --tag "$IMAGE:$target" . >&2
done
for target in kctl trainer; do
  if [ -n "$PUSH" ]; then
    found=$(digest "$target")
    [[ $found = sha256:* ]] || fail "$IMAGE:$target was pushed, but $tool names no digest of it: got '$found'"
    echo "$target $IMAGE@$found"
  else
    echo "$target $IMAGE:$target"
  fi
done
[ -n "$PUSH" ] || echo "not pushed, and only a registry gives the digest to pin: make image IMAGE=REGISTRY/NAME PUSH=1" >&2
