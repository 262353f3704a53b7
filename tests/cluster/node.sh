# Sourced by up.sh: the node's own processes and their files: containerd, kubelet, kube-proxy, CoreDNS, the registry.

start_containerd() {
  running containerd && return
  # Whatever is left of its containers has nobody to look after it.
  stop kubelet
  reset_node
  mkdir -p "$RUN/cni"
  cat >"$RUN/cni/10-kctl.conflist" <<K
{"cniVersion": "0.4.0", "name": "kctl", "plugins": [{"type": "bridge", "bridge": "$BRIDGE", "isGateway": true,
 "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "$RUN/addresses", "routes": [{"dst": "0.0.0.0/0"}],
 "ranges": [[{"subnet": "$PODS.0/24", "rangeStart": "$PODS.10"}]]}}]}
K
  cat >"$RUN/containerd.toml" <<K
version = 2
root = "$RUN/containerd"
state = "$RUN/containerd-state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$RUN/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$RUN/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:$PAUSE"
  # Without CAP_SYS_RESOURCE, as in a virtual machine's container, a score cannot be lowered.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$BIN/cni"
    conf_dir = "$RUN/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "$BIN/runc"
      Root = "$RUN/runc"
      SystemdCgroup = false
K
  # containerd looks for its shim on the path.
  PATH=$BIN:$PATH start containerd -c "$RUN/containerd.toml"
  wait_for containerd "$BIN/ctr" -a "$RUN/containerd.sock" version
  local archive
  for archive in "$CACHE"/images/*.tar; do
    "$BIN/ctr" -a "$RUN/containerd.sock" -n k8s.io images import "$archive" >/dev/null
  done
}

start_kubelet() {
  running kubelet && return
  cat >"$RUN/kubelet.yaml" <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $PODS.1
port: $KUBELET
healthzPort: 0
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: $PKI/ca.crt}, webhook: {enabled: true}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet.crt
tlsPrivateKeyFile: $PKI/kubelet.key
containerRuntimeEndpoint: unix://$RUN/containerd.sock
podLogsDir: $RUN/pod-logs
volumePluginDir: $RUN/volume-plugins
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
# Its other defaults guard a disk that is not this cluster's alone.
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
clusterDNS: ["$SERVICES.10"]
clusterDomain: cluster.local
K
  AWS_EC2_METADATA_DISABLED=true start kubelet --config="$RUN/kubelet.yaml" --kubeconfig="$PKI/kubelet.kubeconfig" \
    --hostname-override="$NODE" --node-ip="$PODS.1" --root-dir="$RUN/kubelet" --cert-dir="$PKI"
  wait_for kubelet "$BIN/kubectl" get --raw "/api/v1/nodes/$NODE/proxy/healthz"
}

start_proxy() {
  running kube-proxy && return
  cat >"$RUN/proxy.yaml" <<K
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: $PODS.1
healthzBindAddress: 127.0.0.1:$HEALTH
metricsBindAddress: 127.0.0.1:$METRICS
clusterCIDR: $PODS.0/24
mode: iptables
iptables: {localhostNodePorts: false}
hostnameOverride: $NODE
clientConnection: {kubeconfig: $PKI/kube-proxy.kubeconfig}
# The machine's own limits stay.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
K
  start kube-proxy --config="$RUN/proxy.yaml"
  wait_for kube-proxy curl -sf "http://127.0.0.1:$HEALTH/healthz"
}

# Names of services and pods; of the world outside nothing is known.
start_coredns() {
  running coredns && return
  cat >"$RUN/Corefile" <<K
.:$DNS {
    bind $PODS.1
    kubernetes cluster.local {
        kubeconfig $KUBECONFIG
    }
    ready 127.0.0.1:$READY
}
K
  start coredns -conf "$RUN/Corefile"
  wait_for coredns curl -sf "http://127.0.0.1:$READY/ready"
  "$BIN/kubectl" apply --server-side --force-conflicts -f - >/dev/null <<K
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $SERVICES.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: $DNS, protocol: UDP}, {name: dns-tcp, port: $DNS, protocol: TCP}]
endpoints: [{addresses: ["$PODS.1"]}]
K
}

# Images that were pushed outlive the cluster: the layers of the trainer are gigabytes.
start_registry() {
  running docker-registry && return
  cat >"$RUN/registry.yaml" <<K
version: 0.1
storage: {filesystem: {rootdirectory: $CACHE/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$REGISTRY"}
log: {level: warn}
K
  start docker-registry serve "$RUN/registry.yaml"
  wait_for docker-registry curl -sf "http://127.0.0.1:$REGISTRY/v2/"
}
