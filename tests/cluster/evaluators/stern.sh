#!/usr/bin/env bash
# Builds stern, which kctl's log reading is measured against, into $KCTL_CACHE/cluster/bin. 2 minutes on 2 cores, once.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/../paths.sh"
VERSION=v1.33.1
mkdir -p "$BIN"
[ "$(cat "$CACHE/stern-built" 2>/dev/null)" = "$VERSION" ] && exit 0
command -v go >/dev/null || fail "go is missing: install Go 1.24 or newer (it builds stern)"
echo "building stern in $BIN (2 minutes the first time)" >&2
CGO_ENABLED=0 GOBIN=$BIN nice -n 10 go install -trimpath -ldflags "-s -w" "github.com/stern/stern@$VERSION" >"$CACHE/stern.log" 2>&1 ||
  { tail -n 20 "$CACHE/stern.log" >&2; fail "stern did not build; the whole log is $CACHE/stern.log"; }
echo "$VERSION" >"$CACHE/stern-built"
