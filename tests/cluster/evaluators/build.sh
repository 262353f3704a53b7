#!/usr/bin/env bash
# Builds Argo CD's and Flux's own evaluators of health checks, each with a small main, into $KCTL_CACHE/cluster/bin.
# About 4 minutes on 2 cores the first time, nothing after that.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/../paths.sh"
. "$HERE/../versions.env"
STAMP="argo-cd $ARGO_CD flux $FLUX_RUNTIME sources $(cat "$HERE/build.sh" "$HERE"/*/main.go | cksum)"

# Builds $1/main.go on module $2 at version $3. Its go.mod is written here, so that versions.env alone has versions; it
# takes over what the module's own go.mod replaces by versions, which Go would ignore in a dependency.
build() {
  local source work=$CACHE/evaluators/$1
  source=$(go mod download -json "$2@$3" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  [ -n "$source" ] || fail "the Go module proxy has no $2@$3: check $(dirname "$HERE")/versions.env"
  mkdir -p "$work"
  cp "$HERE/$1/main.go" "$work/main.go"
  {
    echo "module evaluator"
    grep -E '^go ' "$source/go.mod"
    echo "require $2 $3"
    sed -n 's/^\(replace\)\{0,1\}[[:space:]]*\([a-z0-9./-]* => [a-z0-9./-]* v[^ ]*\)$/replace \2/p' "$source/go.mod"
  } >"$work/go.mod"
  (cd "$work" && CGO_ENABLED=0 nice -n 10 go build -mod=mod -trimpath -ldflags "-s -w" -o "$BIN/evaluate-$1.new" .) >"$work/build.log" 2>&1 ||
    { tail -n 20 "$work/build.log" >&2; fail "the evaluator of $1 did not build; the whole log is $work/build.log"; }
  mv -f "$BIN/evaluate-$1.new" "$BIN/evaluate-$1"
}

mkdir -p "$BIN" "$CACHE/evaluators"
exec 9>"$CACHE/evaluators/lock"
flock 9
[ "$(cat "$CACHE/evaluators/built" 2>/dev/null)" = "$STAMP" ] && exit 0
command -v go >/dev/null || fail "go is missing: install Go 1.26 or newer (it builds the evaluators of Argo CD and Flux)"
echo "building the evaluators of Argo CD and Flux in $BIN (4 minutes the first time)" >&2
build argocd github.com/argoproj/argo-cd/v3 "$ARGO_CD"
build flux github.com/fluxcd/pkg/runtime "$FLUX_RUNTIME"
echo "$STAMP" >"$CACHE/evaluators/built"
