# Sourced by the scripts beside it: where the test cluster lives. Nothing of it lies in the checkout.
CACHE=$(realpath -m "${KCTL_CACHE:-$HOME/.cache/kctl}")/cluster
BIN=$CACHE/bin
RUN=$CACHE/run
PKI=$RUN/pki
# The pods' network, its bridge on this machine, and the addresses of services. The node is the bridge's own address.
BRIDGE=kctl0
PODS=10.213.0
SERVICES=10.214.0
NODE=kctl-node

fail() {
  echo "tests/cluster: $*" >&2
  exit 1
}

need() { command -v "$1" >/dev/null || fail "$1 is missing: $2"; }

root_only() {
  [ "$(id -u)" = 0 ] || fail "the test cluster needs root: run it with sudo, or give a cluster of yours: KUBECONFIG=... make test-cluster"
}
