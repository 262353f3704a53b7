#!/usr/bin/env bash
# Builds what only some tests need, `tool.sh kwok` or `tool.sh stern`, into $KCTL_CACHE/cluster/bin. 2 minutes on 2
# cores, once.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
NAME=${1:-}
case $NAME in
  kwok) PACKAGE=sigs.k8s.io/kwok/cmd/kwok@v0.7.0 ;; # plays the kubelets of nodes that do not exist
  stern) PACKAGE=github.com/stern/stern@v1.33.1 ;; # kctl's log reading is measured against it
  *) fail "no tool '$NAME': write $0 kwok, or $0 stern" ;;
esac
mkdir -p "$BIN"
[ "$(cat "$CACHE/$NAME-built" 2>/dev/null)" = "$PACKAGE" ] && exit 0
need go "install Go 1.24 or newer (it builds $NAME)"
echo "building $NAME in $BIN (2 minutes the first time)" >&2
CGO_ENABLED=0 GOBIN=$BIN nice -n 10 go install -trimpath -ldflags "-s -w" "$PACKAGE" >"$CACHE/$NAME.log" 2>&1 ||
  { tail -n 20 "$CACHE/$NAME.log" >&2; fail "$NAME did not build; the whole log is $CACHE/$NAME.log"; }
echo "$PACKAGE" >"$CACHE/$NAME-built"
