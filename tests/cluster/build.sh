#!/usr/bin/env bash
# Builds what the test cluster is made of into $KCTL_CACHE/cluster/bin: the Kubernetes binaries and the training operator's
# CRDs from the Go module proxy, etcd from Debian's package. About 5 minutes on 2 cores the first time, nothing after that.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
. "$HERE/versions.env"
BINARIES="kube-apiserver kube-controller-manager kubectl"
STAMP="kubernetes $KUBERNETES operator $TRAINING_OPERATOR binaries $BINARIES"

need() { command -v "$1" >/dev/null || fail "$1 is missing: $2"; }

# A file below a Go module's folder; the module is downloaded and checked against the checksum database.
module_dir() { go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'; }

# Debian's package is unpacked, not installed: installing it would start a service of its own.
fetch_etcd() {
  [ -x "$BIN/etcd" ] && return
  if command -v etcd >/dev/null; then ln -sf "$(command -v etcd)" "$BIN/etcd"; return; fi
  need apt-get "install etcd (3.4 or newer) and run again"
  need dpkg-deb "install etcd (3.4 or newer) and run again"
  local work; work=$(mktemp -d)
  if ! (cd "$work" && apt-get download -q etcd-server >/dev/null 2>&1); then
    [ "$(id -u)" = 0 ] || fail "apt knows no etcd-server and only root may refresh its lists: run 'sudo apt-get update' or install etcd"
    apt-get update -q >/dev/null
    (cd "$work" && apt-get download -q -o APT::Sandbox::User=root etcd-server >/dev/null)
  fi
  dpkg-deb -x "$work"/etcd-server_*.deb "$work/root"
  install -m 755 "$work/root/usr/bin/etcd" "$BIN/etcd"
  rm -rf "$work"
}

# Kubernetes replaces its staging modules by ./staging; the same modules are published as k8s.io/* v0.MINOR.PATCH.
build_kubernetes() {
  local source version="v$KUBERNETES" staging="v0.${KUBERNETES#1.}" packages=() name
  source=$(module_dir "k8s.io/kubernetes@$version")
  [ -n "$source" ] || fail "the Go module proxy has no k8s.io/kubernetes@$version: check KUBERNETES in $HERE/versions.env"
  mkdir -p "$CACHE/module" "$BIN.new"
  {
    echo "module testcluster"
    grep -E '^(go|godebug) ' "$source/go.mod"
    echo "require k8s.io/kubernetes $version"
    echo "replace ("
    sed -n "s#^[[:space:]]*\(k8s.io/[a-z0-9-]*\) => ./staging.*#\1 => \1 $staging#p" "$source/go.mod"
    echo ")"
  } >"$CACHE/module/go.mod"
  for name in $BINARIES; do packages+=("k8s.io/kubernetes/cmd/$name"); done
  local stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/client-go/pkg/version.gitVersion=$version"
  (cd "$CACHE/module" && CGO_ENABLED=0 nice -n 10 go build -mod=mod -trimpath -ldflags "-s -w $stamp" -o "$BIN.new/" "${packages[@]}") >"$CACHE/build.log" 2>&1 ||
    { tail -n 20 "$CACHE/build.log" >&2; fail "Kubernetes $version did not build; the whole log is $CACHE/build.log"; }
  for name in $BINARIES; do mv -f "$BIN.new/$name" "$BIN/$name"; done
  rmdir "$BIN.new"
}

fetch_crds() {
  local source; source=$(module_dir "github.com/kubeflow/training-operator@$TRAINING_OPERATOR")
  [ -n "$source" ] || fail "the Go module proxy has no training-operator@$TRAINING_OPERATOR: check $HERE/versions.env"
  rm -rf "$CACHE/crds"
  cp -r "$source/manifests/base/crds" "$CACHE/crds"
  chmod -R u+w "$CACHE/crds"
}

need openssl "install openssl"
need curl "install curl"
need flock "install util-linux"
mkdir -p "$BIN"
exec 9>"$CACHE/build.lock"
flock 9
[ "$(cat "$CACHE/built" 2>/dev/null)" = "$STAMP" ] && exit 0
need go "install Go 1.24 or newer (it builds Kubernetes), or give a cluster of yours: KUBECONFIG=... make test-cluster"
echo "building the test cluster's parts in $CACHE (5 minutes the first time)" >&2
fetch_etcd
fetch_crds
build_kubernetes
echo "$STAMP" >"$CACHE/built"
