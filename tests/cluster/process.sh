# Sourced by up.sh and down.sh: processes known by a pid file, believed only while the command line is still ours.

# Every process of the cluster, in the order in which they are stopped; each is started as $BIN/NAME.
PROCESSES=(kubelet containerd kube-proxy coredns docker-registry kube-scheduler kube-controller-manager kube-apiserver etcd)

# True while process $1 of this cluster lives: its pid file names a process that runs our binary with our folder.
running() {
  local pid line
  pid=$(cat "$RUN/pid/$1" 2>/dev/null) || return 1
  line=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") 2>/dev/null || return 1
  case $line in "$BIN/$1 "*"$RUN/"*) return 0 ;; esac
  return 1
}

# Starts binary $1 of $BIN with the remaining arguments, detached from this terminal; its output goes to $RUN/log.
start() {
  local name=$1
  shift
  setsid "$BIN/$name" "$@" >>"$RUN/log/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$RUN/pid/$name"
  # On a busy machine it takes a while until the new process has its own command line, by which it is known.
  until running "$name" || ! kill -0 $!; do sleep 0.02; done 2>/dev/null
}

# Asks process $1 to end, waits 10 seconds, then kills it and waits until it is gone.
stop() {
  local name=$1 pid signal
  for signal in TERM KILL; do
    running "$name" || break
    pid=$(cat "$RUN/pid/$name")
    kill "-$signal" "$pid" 2>/dev/null || break
    for _ in $(seq 100); do
      running "$name" || break
      sleep 0.1
    done
  done
  ! running "$name" || fail "$name (process $pid) does not end: look at $RUN/log/$name.log"
  rm -f "$RUN/pid/$name"
}

# Repeats a command until it succeeds, for at most 2 minutes; on failure shows the end of process $1's log.
wait_for() {
  local name=$1 until=$((SECONDS + 120))
  shift
  while [ $SECONDS -lt $until ]; do
    "$@" >/dev/null 2>&1 && return
    running "$name" || break
    sleep 0.2
  done
  tail -n 20 "$RUN/log/$name.log" >&2
  fail "$name is not ready; its log is $RUN/log/$name.log"
}
