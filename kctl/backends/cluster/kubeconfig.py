"""Which API server, as whom, in which namespace: kubeconfig, context, in-cluster account, by the official client.

The client logs a failing credential plugin and goes on as anonymous; here that is an error with the plugin's words.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kctl.backends.cluster.errors import cut
from kctl.errors import Refused, UsageError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own credentials and namespace."""


@dataclass(frozen=True)
class Connection:
    """The client's configuration (host, TLS, credentials that renew themselves) and what it was chosen by."""

    configuration: Any
    context: str | None
    """Kube context; None inside a cluster."""
    namespace: str
    """The context's own namespace, `default` where it names none."""

    @property
    def kubectl(self) -> str:
        """How kubectl is asked about the same cluster, for messages."""
        return f"kubectl --context {self.context}" if self.context else "kubectl"


def connection(context: str | None) -> Connection:
    """From $KUBECONFIG or ~/.kube/config, else from the pod's account. UsageError where there is neither."""
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if any(Path(name).expanduser().is_file() for name in files.split(os.pathsep) if name):
        return _from_files(files, context)
    if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and (ACCOUNT / "token").is_file():
        return _in_cluster()
    raise UsageError(
        f"no kubeconfig: {files} is not there; set KUBECONFIG, or run on this machine: kctl submit CONFIG --local"
    )


def _in_cluster() -> Connection:
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_incluster_config

    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except (ConfigException, OSError) as error:
        raise UsageError(f"{ACCOUNT}: {cut(str(error))}; mount the pod's service account or set KUBECONFIG") from None
    return Connection(configuration, None, namespace or "default")


def _from_files(files: str, wanted: str | None) -> Connection:
    import yaml
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, list_kube_config_contexts, load_kube_config

    configuration = Configuration()
    try:
        contexts, active = _contexts(files, list_kube_config_contexts)
        name = wanted or active
        chosen = contexts.get(name or "")
        if name is None or chosen is None:
            raise _unknown_context(files, name, sorted(contexts))
        with _complaints() as complaints:
            load_kube_config(files, name, configuration)  # type: ignore[no-untyped-call]
    except (ConfigException, yaml.YAMLError, OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise UsageError(f"{files}: no usable kubeconfig: {cut(str(error))}; see: kubectl config view") from None
    if complaints and not configuration.api_key and not configuration.cert_file:
        raise Refused(f"{files}: context {name}: no credentials: {cut(complaints[0])}; log in, then run it again")
    return Connection(configuration, name, str(chosen.get("namespace") or "default"))


def _contexts(files: str, listing: Any) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Contexts by name and the active one; None where the file names none or names one that is not there."""
    from kubernetes.config import ConfigException
    from kubernetes.config.kube_config import KubeConfigMerger

    try:
        found, active = listing(files)
    except ConfigException:
        # No valid current-context: that is no reason to refuse a context named on the command line.
        merged = KubeConfigMerger(files).config  # type: ignore[no-untyped-call]
        if merged is None or "contexts" not in merged:
            raise
        found, active = [node.value for node in merged["contexts"]], None
    by_name = {str(entry["name"]): entry.get("context") or {} for entry in found}
    return by_name, str(active["name"]) if active else None


def _unknown_context(files: str, name: str | None, known: list[str]) -> UsageError:
    what = f"there is no context {name!r}" if name else "no current context is set"
    return UsageError(f"{files}: {what}; choose one with --context: {', '.join(known[:10]) or 'none is defined'}")


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Messages that the client logs at level error meanwhile, instead of on stderr."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield said
    finally:
        root.removeHandler(handler)
