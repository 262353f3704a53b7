"""The recorded statuses, which the health checks of k8s/ are tried on, are what the operator still writes."""

import json

import pytest

from tests.cluster.operator_statuses import FOLDER, observed
from tests.cluster.shell import Shell

pytestmark = pytest.mark.timeout(600)


def test_the_operator_still_says_what_is_recorded(restricted: Shell, busybox: str) -> None:
    recorded = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    found = observed(restricted, busybox)
    assert set(found) == set(recorded)
    changed = [state for state, job in found.items() if job.get("status") != recorded[state].get("status")]
    assert not changed, "python -m tests.cluster.operator_statuses records them; then look at k8s/argocd and k8s/flux"
