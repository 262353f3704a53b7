#!/usr/bin/env bash
# Stops the test cluster, waits until each process is gone, takes back what it changed on this machine and removes its
# state. What build.sh made and what was pushed to the registry stay.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
. "$HERE/process.sh"
. "$HERE/machine.sh"
[ -d "$RUN" ] || exit 0
root_only
if [ -z "${KCTL_LOCKED:-}" ]; then
  exec 9>"$CACHE/up.lock"
  flock 9
fi
# The kubelet would start again what ends, and the API server waits 10 seconds for pods that listen to it.
for name in kubelet containerd; do stop "$name"; done
reset_node
for name in "${PROCESSES[@]}"; do stop "$name"; done
restore_machine
rm -rf --one-file-system "$RUN"
