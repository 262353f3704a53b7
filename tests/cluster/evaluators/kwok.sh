#!/usr/bin/env bash
# Builds kwok, which plays the kubelets of nodes that do not exist, into $KCTL_CACHE/cluster/bin. 2 minutes on 2 cores,
# once.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/../paths.sh"
VERSION=v0.7.0
mkdir -p "$BIN"
[ "$(cat "$CACHE/kwok-built" 2>/dev/null)" = "$VERSION" ] && exit 0
command -v go >/dev/null || fail "go is missing: install Go 1.24 or newer (it builds kwok)"
echo "building kwok in $BIN (2 minutes the first time)" >&2
CGO_ENABLED=0 GOBIN=$BIN nice -n 10 go install -trimpath -ldflags "-s -w" "sigs.k8s.io/kwok/cmd/kwok@$VERSION" >"$CACHE/kwok.log" 2>&1 ||
  { tail -n 20 "$CACHE/kwok.log" >&2; fail "kwok did not build; the whole log is $CACHE/kwok.log"; }
echo "$VERSION" >"$CACHE/kwok-built"
