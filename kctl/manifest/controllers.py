"""What a GitOps controller must be told of PyTorchJobs, from the files of k8s/ that an administrator applies."""

from pathlib import Path

from kctl.manifest import Manifest
from kctl.manifest.render import to_yaml

_PACKAGE = Path(__file__).resolve().parents[1]
KIND = "kubeflow.org_PyTorchJob"
"""As Argo CD spells group and kind in its keys."""


def _shipped() -> Path:
    """k8s/ of the wheel, or of the checkout where kctl is installed editable."""
    inside = _PACKAGE / "k8s"
    return inside if inside.is_dir() else _PACKAGE.parent / "k8s"


def argocd(until_the_end: bool) -> str:
    """Two keys of Argo CD's own ConfigMap: how a PyTorchJob is, and what queues change in one."""
    folder = _shipped() / "argocd"
    health = "health-until-the-end.lua" if until_the_end else "health.lua"
    config_map: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "argocd-cm",
            "namespace": "argocd",
            "labels": {"app.kubernetes.io/part-of": "argocd"},
        },
        "data": {
            f"resource.customizations.health.{KIND}": (folder / health).read_text(encoding="utf-8"),
            f"resource.customizations.ignoreDifferences.{KIND}": (folder / "ignore-differences.yaml").read_text(
                encoding="utf-8"
            ),
        },
    }
    head = "# kctl gitops health argocd | kubectl apply --server-side -f -    (leaves all other keys as they are)\n"
    return head + to_yaml([config_map])


def flux() -> str:
    """The example Kustomization, whose patches and healthCheckExprs are what matters; comments included."""
    text = (_shipped() / "flux" / "runs.yaml").read_text(encoding="utf-8")
    head = "# Of your Kustomization take over prune, wait, timeout, patches and healthCheckExprs.\n"
    return head + text.partition("\n---\n")[2]
