#!/usr/bin/env bash
# The cluster tier: runs in pods beside the tests of everything else, then what must have the cluster to itself.
# Each phase is a pytest of its own, which sets PHASE. Exit code 1 where any of them failed.
set -uo pipefail
cd "$(dirname "$0")/.."
set -m # a background job that Ctrl-C can reach
output=$(mktemp)
failed=0

phase() { # phase NAME MARKS
  PHASE=$1 .venv/bin/python -m pytest tests/cluster -m "$2"
}

phase pods pods >"$output" 2>&1 &
pods=$!
trap 'kill -INT -- -$pods 2>/dev/null && wait "$pods"; rm -f "$output"' EXIT
phase beside "not pods and not alone" || failed=1
wait "$pods" || failed=1
cat "$output"
phase alone alone || failed=1
exit "$failed"
