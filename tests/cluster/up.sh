#!/usr/bin/env bash
# Brings the test cluster up, or completes one of which a part died: etcd, API server, controller manager, then the
# operator's CRDs. No node yet, so no pod runs. Prints the path of its kubeconfig. Seconds when built, 5 minutes when not.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/paths.sh"
. "$HERE/process.sh"
SERVICES=10.96.0
PKI=$RUN/pki
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
    "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:$SERVICES.1"
  certificate admin /O=system:masters/CN=admin
  certificate controller-manager /CN=system:kube-controller-manager
  touch "$PKI/complete"
}

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: </dev/tcp/127.0.0.1/$port) 2>/dev/null || break
  done
  echo "$port"
}

# A restarted API server keeps its address; when nothing runs any more, somebody else may have the old ports.
choose_ports() {
  running etcd || running kube-apiserver || rm -f "$RUN/ports.env"
  [ -f "$RUN/ports.env" ] || printf 'API=%s\nETCD=%s\nPEER=%s\n' "$(free_port)" "$(free_port)" "$(free_port)" >"$RUN/ports.env"
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

start_apiserver() {
  running kube-apiserver && return
  start kube-apiserver --etcd-servers="http://127.0.0.1:$ETCD" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
    --secure-port="$API" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --client-ca-file="$PKI/ca.crt" --authorization-mode=Node,RBAC --allow-privileged=true \
    --enable-admission-plugins=NodeRestriction --service-cluster-ip-range="$SERVICES.0/24" \
    --endpoint-reconciler-type=none --service-account-issuer=https://kubernetes.default.svc \
    --service-account-signing-key-file="$PKI/sa.key" --service-account-key-file="$PKI/sa.key"
}

start_controller_manager() {
  running kube-controller-manager && return
  start kube-controller-manager --kubeconfig="$PKI/controller-manager.kubeconfig" --secure-port=0 --leader-elect=false \
    --use-service-account-credentials --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key"
}

apply_crds() {
  [ -f "$RUN/crds-applied" ] && return
  "$BIN/kubectl" apply --server-side --force-conflicts -k "$CACHE/crds" >/dev/null
  "$BIN/kubectl" wait --for=condition=Established --timeout=60s -f "$CACHE/crds/kubeflow.org_pytorchjobs.yaml" >/dev/null
  touch "$RUN/crds-applied"
}

"$HERE/build.sh"
mkdir -p "$PKI" "$RUN/log" "$RUN/pid"
exec 9>"$RUN/lock"
flock 9
make_pki
choose_ports
for user in admin controller-manager; do write_kubeconfig "$user"; done
start_etcd
start_apiserver
wait_for kube-apiserver api /readyz
start_controller_manager
wait_for kube-controller-manager api /api/v1/namespaces/default/serviceaccounts/default
apply_crds
echo "$KUBECONFIG"
