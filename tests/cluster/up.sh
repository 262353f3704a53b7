#!/usr/bin/env bash
# Brings the test cluster up, or completes one of which a part died: a Kubernetes of one node with the training operator
# and its webhook, and a registry. Prints the path of its kubeconfig. Half a minute when built, 10 minutes when not.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
. "$HERE/versions.env"
. "$HERE/process.sh"
. "$HERE/machine.sh"
. "$HERE/node.sh"
PORTS="API ETCD PEER KUBELET HEALTH METRICS DNS READY REGISTRY"
export KUBECONFIG=$PKI/admin.kubeconfig

# Signs a certificate: file name, subject, alternative names.
certificate() {
  openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$PKI/$1.key" -out "$PKI/$1.csr" 2>/dev/null
  openssl x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 3650 -out "$PKI/$1.crt" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth' "${3:-DNS:none}") 2>/dev/null
}

make_pki() {
  [ -f "$PKI/complete" ] && return
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=kctl-test-ca -keyout "$PKI/ca.key" -out "$PKI/ca.crt" 2>/dev/null
  openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null
  certificate apiserver /CN=kube-apiserver \
    "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:$SERVICES.1,IP:$PODS.1"
  certificate admin /O=system:masters/CN=admin
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate kube-proxy /CN=system:kube-proxy
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$PODS.1"
  touch "$PKI/complete"
}

port_free() { ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

old_ports_free() {
  local name
  for name in $PORTS; do port_free "${!name}" || return 1; done
}

# A restarted process keeps its address; when nothing runs any more, somebody else may have the old ports.
choose_ports() {
  local name port=$((20000 + RANDOM % 9000))
  if [ -f "$RUN/ports.env" ]; then
    . "$RUN/ports.env"
    for name in "${PROCESSES[@]}"; do running "$name" && return; done
    old_ports_free && return
  fi
  for name in $PORTS; do
    until port_free $((++port)); do :; done
    echo "$name=$port"
  done >"$RUN/ports.env.new"
  mv "$RUN/ports.env.new" "$RUN/ports.env"
  . "$RUN/ports.env"
}

write_kubeconfig() {
  cat >"$PKI/$1.kubeconfig.new" <<K
apiVersion: v1
kind: Config
clusters: [{name: kctl-test, cluster: {server: "https://127.0.0.1:$API", certificate-authority: $PKI/ca.crt}}]
users: [{name: $1, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: kctl-test, context: {cluster: kctl-test, user: $1}}]
current-context: kctl-test
K
  mv "$PKI/$1.kubeconfig.new" "$PKI/$1.kubeconfig"
}

api() { curl -sf --max-time 5 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" "https://127.0.0.1:$API$1"; }

start_etcd() {
  running etcd && return
  start etcd --data-dir "$RUN/etcd" --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$ETCD" \
    --advertise-client-urls "http://127.0.0.1:$ETCD" --listen-peer-urls "http://127.0.0.1:$PEER" \
    --initial-advertise-peer-urls "http://127.0.0.1:$PEER" --initial-cluster "default=http://127.0.0.1:$PEER"
  wait_for etcd curl -sf "http://127.0.0.1:$ETCD/health"
}

# Pods reach it by the bridge's address, so it listens on every one; without a certificate it answers nobody. A kubelet's
# own certificate is not checked: tests add nodes whose kubelet they play.
start_apiserver() {
  running kube-apiserver && return
  start kube-apiserver --etcd-servers="http://127.0.0.1:$ETCD" --bind-address=0.0.0.0 --advertise-address="$PODS.1" \
    --secure-port="$API" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --client-ca-file="$PKI/ca.crt" --anonymous-auth=false --authorization-mode=Node,RBAC --allow-privileged=true \
    --enable-admission-plugins=NodeRestriction --service-cluster-ip-range="$SERVICES.0/24" \
    --kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key" \
    --kubelet-preferred-address-types=InternalIP --enable-aggregator-routing=true \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-signing-key-file="$PKI/sa.key" --service-account-key-file="$PKI/sa.key"
  wait_for kube-apiserver api /readyz
  # After an outage they would wait up to a minute before they look again.
  for name in kube-controller-manager kube-scheduler; do stop "$name"; done
}

start_controller_manager() {
  running kube-controller-manager && return
  start kube-controller-manager --kubeconfig="$PKI/controller-manager.kubeconfig" --secure-port=0 --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key"
  wait_for kube-controller-manager api /api/v1/namespaces/default/serviceaccounts/default
}

start_scheduler() {
  running kube-scheduler && return
  start kube-scheduler --kubeconfig="$PKI/scheduler.kubeconfig" --secure-port=0 --leader-elect=false
}

apply_operator() {
  [ -f "$RUN/operator-applied" ] && return
  "$BIN/kubectl" apply --server-side --force-conflicts -k "$CACHE/operator" >/dev/null
  touch "$RUN/operator-applied"
}

# What the API server says of the operator's pod may be of before a crash: the webhook itself must answer.
operator_answers() {
  "$BIN/kubectl" create --dry-run=server -f - <<K
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: answers, namespace: default}
spec: {pytorchReplicaSpecs: {Master: {replicas: 1, template: {spec: {containers: [{name: pytorch, image: none}]}}}}}
K
}

# The image that tests use where they need no trainer: a shell and its tools, 2 MB.
push_busybox() {
  local container
  [ "$(cat "$CACHE/registry/busybox-of" 2>/dev/null)" = "$(cat "$CACHE/built")" ] && return
  container=$(buildah from scratch)
  buildah copy -q "$container" "$CACHE/busybox" / >/dev/null
  buildah config --user 65532:65532 --env PATH=/bin "$container"
  buildah commit -q --rm --tls-verify=false "$container" "docker://localhost:$REGISTRY/busybox:test" >/dev/null
  cp "$CACHE/built" "$CACHE/registry/busybox-of"
}

root_only
"$HERE/build.sh"
for tool in awk buildah curl ip iptables openssl sysctl; do need "$tool" "install it and run again"; done
exec 9>"$CACHE/up.lock"
flock 9
# Other scripts or other binaries than the ones that run: a new cluster.
STAMP=$(cat "$CACHE/built" "$HERE"/*.sh | cksum)
[ "$(cat "$RUN/stamp" 2>/dev/null)" = "$STAMP" ] || KCTL_LOCKED=1 "$HERE/down.sh"
mkdir -p "$PKI" "$RUN/log" "$RUN/pid"
echo "$STAMP" >"$RUN/stamp"
make_bridge
make_pki
choose_ports
for user in admin controller-manager scheduler kube-proxy kubelet; do write_kubeconfig "$user"; done
start_etcd
start_apiserver
start_controller_manager
start_scheduler
start_containerd
start_kubelet
start_proxy
start_coredns
start_registry
apply_operator
wait_for kubelet operator_answers
push_busybox
echo "$KUBECONFIG"
