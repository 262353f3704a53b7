# Sourced by up.sh and down.sh: what a node leaves in this machine's kernel besides its processes, and how it is removed.
# Everything is found by what only this cluster has: its binaries and folders in command lines, its ids in cgroups.
TASKS=$RUN/containerd-state/io.containerd.runtime.v2.task/k8s.io
SYSCTLS="net.ipv4.ip_forward vm.overcommit_memory kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"

# Pids of containerd's shims.
shims() {
  local folder words
  for folder in /proc/[0-9]*; do
    mapfile -d '' -t words 2>/dev/null <"$folder/cmdline" || continue
    [ "${words[0]:-}" = "$BIN/containerd-shim-runc-v2" ] || continue
    case " ${words[*]} " in *" $RUN/containerd.sock "*) echo "${folder#/proc/}" ;; esac
  done
}

# Pids of the containers' first processes; the kernel ends the others of a container with its first.
containers() {
  local file id pid word
  for file in "$TASKS"/*/init.pid; do
    pid=$(cat "$file" 2>/dev/null) || continue
    id=$(basename "$(dirname "$file")")
    grep -qs "$id" "/proc/$pid/cgroup" || continue
    # A command line that is empty is a zombie's: nothing of it runs.
    if IFS= read -r -d '' word 2>/dev/null <"/proc/$pid/cmdline"; then echo "$pid"; fi
  done
}

# Ends every container and shim, whether containerd lives or not.
end_containers() {
  local pids
  for _ in $(seq 100); do
    pids="$(containers) $(shims)"
    [ -n "${pids// /}" ] || return 0
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
  fail "containers do not end: processes" $pids
}

# Mount points below the cluster's folder, the newest first.
mounts() { awk -v folder="$RUN/" 'index($5 "/", folder) == 1 { print $5 }' /proc/self/mountinfo | tac; }

# Volumes, root file systems and the pods' network namespaces: containerd keeps these as mounts below its folder.
unmount_all() {
  local target
  for _ in $(seq 20); do
    mounts | while read -r target; do umount "$target" 2>/dev/null || true; done
    [ -n "$(mounts)" ] || return 0
    sleep 0.2
  done
  fail "still mounted: $(mounts | tr '\n' ' '): look who uses it with 'fuser -vm'"
}

# What a reboot would do to the node: containers, mounts and network namespaces are gone, images and volumes stay.
reset_node() {
  local file
  shopt -s nullglob
  end_containers
  unmount_all
  for file in "$TASKS"/*/address; do rm -f "$(sed 's#^unix://##' "$file")"; done
  for file in "$RUN"/containerd-state/io.containerd.grpc.v1.cri/sandboxes/*; do rm -f /var/lib/cni/results/*-"${file##*/}"-*; done
  shopt -u nullglob
  rm -rf --one-file-system "$RUN/containerd-state" "$RUN/runc" "$RUN/addresses"
}

# The bridge carries its owner's folder as alias: a second cluster of another folder would take its addresses.
make_bridge() {
  local owner
  if owner=$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null); then
    [ "$owner" = "$RUN" ] || fail "another test cluster is on this machine: end it first: KCTL_CACHE=${owner%/cluster/run} make cluster-down"
    return 0
  fi
  if iptables-save 2>/dev/null | grep -q '^:KUBE-SERVICES'; then
    fail "another Kubernetes node is on this machine; use it: KUBECONFIG=... make test-cluster"
  fi
  [ -e /proc/sys/net/bridge ] || modprobe br_netfilter || fail "the kernel has no br_netfilter: pods could not reach services"
  sysctl -e $SYSCTLS >"$RUN/sysctl.conf" 2>/dev/null
  ip link add "$BRIDGE" type bridge
  ip link set "$BRIDGE" alias "$RUN"
  ip addr add "$PODS.1/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
}

# Leaves the machine's network, cgroups and kernel settings as they were.
restore_machine() {
  local tool port
  [ "$(cat "/sys/class/net/$BRIDGE/ifalias" 2>/dev/null)" = "$RUN" ] || return 0
  for tool in iptables ip6tables; do "$tool-save" 2>/dev/null | without_kube | "$tool-restore" --noflush --wait; done
  for port in "/sys/class/net/$BRIDGE/brif"/*; do
    [ -e "$port" ] && { ip link del "$(basename "$port")" 2>/dev/null || true; }
  done
  find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
  find /var/log/containers -lname "$RUN/*" -delete 2>/dev/null || true
  sysctl -q -p "$RUN/sysctl.conf" >/dev/null 2>&1 || true
  # Last: the bridge says whose the rest is, should this be interrupted.
  ip link del "$BRIDGE"
}

# From iptables-save to the iptables-restore that empties kube-proxy's chains, unlinks and removes them, and only them.
without_kube() {
  awk '/^\*/ { table = $0; empty = unlink = remove = "" }
    /^:KUBE-/ { name = substr($1, 2); empty = empty ":" name " - [0:0]\n"; remove = remove "-X " name "\n" }
    /^-A / && $2 !~ /^KUBE-/ && / -[jg] KUBE-/ { sub(/^-A/, "-D"); unlink = unlink $0 "\n" }
    /^COMMIT/ && empty != "" { printf "%s\n%s%s%sCOMMIT\n", table, empty, unlink, remove }'
}
