# Sourced by the scripts beside it: where the test cluster lives. Nothing of it lies in the checkout.
CACHE=${KCTL_CACHE:-$HOME/.cache/kctl}/cluster
BIN=$CACHE/bin
RUN=$CACHE/run

fail() {
  echo "tests/cluster: $*" >&2
  exit 1
}
