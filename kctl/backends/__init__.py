"""Where runs live: pods of a cluster or processes of this machine, behind the verbs of kctl.backends.protocol."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kctl.backends.cluster.backend import Cluster
    from kctl.backends.protocol import Backend
    from kctl.config.profile import ClusterProfile


def open_backend(
    local: bool, namespace: str | None, context: str | None, profile: "ClusterProfile | None"
) -> "Backend":
    """The local backend, or a cluster."""
    if local:
        from kctl.backends.local.backend import Local

        return Local()
    return open_cluster(namespace, context, profile)


def open_cluster(namespace: str | None, context: str | None, profile: "ClusterProfile | None") -> "Cluster":
    """A cluster: what is given wins over the profile, which wins over the kube config."""
    from kctl.backends.cluster.backend import Cluster

    return Cluster(
        namespace or (profile.namespace if profile else None), context or (profile.context if profile else None)
    )
