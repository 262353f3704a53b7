#!/usr/bin/env bash
# Builds what the test cluster is made of into $KCTL_CACHE/cluster: Kubernetes, CoreDNS and the training operator from the
# Go module proxy, the rest from Debian's packages. About 10 minutes on 2 cores the first time, nothing after that.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
. "$HERE/versions.env"
. "$HERE/debian.sh"
COMMANDS="kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl"
# Another version or another way of building is another cluster.
STAMP=$(cat "$HERE/versions.env" "$HERE/build.sh" "$HERE/debian.sh" | cksum)

# The folder of a Go module; it is downloaded and checked against the checksum database.
module_dir() {
  local folder
  folder=$(go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') || true
  [ -n "$folder" ] || fail "the Go module proxy has no $1: check $HERE/versions.env and 'go env GOPROXY'"
  echo "$folder"
}

# Runs the rest of the command line, which builds what $1 names.
compile() {
  local what=$1
  shift
  CGO_ENABLED=0 nice -n 10 "$@" >"$CACHE/build.log" 2>&1 ||
    { tail -n 20 "$CACHE/build.log" >&2; fail "$what did not build; the whole log is $CACHE/build.log"; }
}

fetch_debian() {
  local root name
  root=$(mktemp -d)
  unpack_packages "$root" etcd-server containerd runc containernetworking-plugins docker-registry busybox-static
  for name in bin/etcd bin/containerd bin/containerd-shim-runc-v2 bin/ctr sbin/runc bin/docker-registry; do
    install -m 755 "$root/usr/$name" "$BIN/"
  done
  rm -rf "$CACHE/busybox"
  install -D -m 755 -t "$CACHE/busybox/bin" "$root/bin/busybox"
  for name in $("$root/bin/busybox" --list); do
    [ "$name" = busybox ] || ln -s busybox "$CACHE/busybox/bin/$name"
  done
  install -D -m 755 -t "$BIN/cni" "$root"/usr/lib/cni/{bridge,host-local,loopback}
  rm -rf "$root"
}

# Kubernetes replaces its staging modules by ./staging; the same modules are published as k8s.io/* v0.MINOR.PATCH.
build_kubernetes() {
  local version="v$KUBERNETES" staging="v0.${KUBERNETES#1.}" packages=() name stamp source
  source=$(module_dir "k8s.io/kubernetes@$version")
  mkdir -p "$CACHE/module"
  {
    echo "module testcluster"
    grep -E '^(go|godebug) ' "$source/go.mod"
    echo "require k8s.io/kubernetes $version"
    echo "replace ("
    sed -n "s#^[[:space:]]*\(k8s.io/[a-z0-9-]*\) => ./staging.*#\1 => \1 $staging#p" "$source/go.mod"
    echo ")"
  } >"$CACHE/module/go.mod"
  for name in $COMMANDS; do packages+=("k8s.io/kubernetes/cmd/$name"); done
  stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/client-go/pkg/version.gitVersion=$version"
  (cd "$CACHE/module" && compile "Kubernetes $version" \
    go build -mod=mod -trimpath -ldflags "-s -w $stamp" -o "$BIN.new/" "${packages[@]}")
  compile "the pause container" gcc -Os -static "-DVERSION=$PAUSE" -o "$BIN.new/pause" "$source/build/pause/linux/pause.c"
}

build_commands() {
  local package
  for package in "github.com/coredns/coredns@$COREDNS" \
    "github.com/kubeflow/training-operator/cmd/training-operator.v1@$TRAINING_OPERATOR"; do
    GOBIN=$BIN.new compile "$package" go install -trimpath -ldflags "-s -w" "$package"
  done
}

# An image of one static program: name, program, its path inside. Goes to a file that up.sh gives to containerd.
make_image() {
  local container file=${1##*/}
  file=$CACHE/images/${file%:*}.tar
  container=$(buildah from scratch)
  buildah copy -q --chmod 755 "$container" "$2" "$3" >/dev/null
  buildah config --user 65532:65532 --entrypoint "[\"$3\"]" "$container"
  rm -f "$file"
  buildah commit -q --rm "$container" "docker-archive:$file:$1" >/dev/null
}

# The operator's manifests come with its module. The image gets another name, and readiness is asked for at once: the
# first time after 10 seconds, then every 15, is most of the time that a cluster takes to come up.
copy_manifests() {
  rm -rf "$CACHE/operator"
  mkdir "$CACHE/operator"
  cp -r "$(module_dir "github.com/kubeflow/training-operator@$TRAINING_OPERATOR")/manifests" "$CACHE/operator/"
  chmod -R u+w "$CACHE/operator"
  cat >"$CACHE/operator/kustomization.yaml" <<K
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [manifests/overlays/standalone]
images:
  - {name: ghcr.io/kubeflow/training-v1/training-operator, newName: localhost/training-operator, newTag: $TRAINING_OPERATOR}
patches:
  - target: {kind: Deployment}
    patch: |
      - {op: replace, path: /spec/template/spec/containers/0/readinessProbe/initialDelaySeconds, value: 1}
      - {op: replace, path: /spec/template/spec/containers/0/readinessProbe/periodSeconds, value: 1}
K
}

need flock "install util-linux"
mkdir -p "$BIN" "$CACHE/images"
exec 9>"$CACHE/build.lock"
flock 9
[ "$(cat "$CACHE/built" 2>/dev/null)" = "$STAMP" ] && exit 0
root_only
need apt-get "the test cluster is made for Debian; give a cluster of yours: KUBECONFIG=... make test-cluster"
need go "install Go 1.24 or newer (it builds Kubernetes), or give a cluster of yours: KUBECONFIG=... make test-cluster"
echo "building the test cluster's parts in $CACHE (10 minutes the first time)" >&2
rm -rf "$BIN.new"
mkdir "$BIN.new"
install_packages openssl curl iproute2 iptables buildah libseccomp2 gcc libc6-dev
fetch_debian
build_kubernetes
build_commands
mv -f "$BIN.new"/* "$BIN/"
rmdir "$BIN.new"
make_image "localhost/pause:$PAUSE" "$BIN/pause" /pause
make_image "localhost/training-operator:$TRAINING_OPERATOR" "$BIN/training-operator.v1" /manager
copy_manifests
echo "$STAMP" >"$CACHE/built"
