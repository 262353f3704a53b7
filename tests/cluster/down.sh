#!/usr/bin/env bash
# Stops the test cluster, waits until each process is gone and removes its state. What build.sh made stays.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
. "$HERE/process.sh"
[ -d "$RUN" ] || exit 0
exec 9>"$RUN/lock"
flock 9
for name in kube-controller-manager kube-apiserver etcd; do stop "$name"; done
rm -rf "$RUN/etcd" "$RUN/log" "$RUN/ports.env" "$RUN/crds-applied"
