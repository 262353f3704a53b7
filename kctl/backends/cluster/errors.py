"""From what the API server or the network says to kctl.errors, once, for every call.

Status codes and urllib3's exceptions end here. Bodies may carry secrets: they lose what looks like one, and are cut to
256 characters.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kctl.errors import AlreadyExists, KctlError, NotFound, Refused, Unreachable
from trainer.schema.redaction import redacted

BODY_LIMIT = 256
"""Characters of an answer that may appear in a message."""

OPERATOR_GROUP = "/apis/kubeflow.org/"

_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?:.*in the namespace "(?P<namespace>[^"]*)")?'
)
_NO_NAMESPACE = re.compile(r'namespaces "([^"]+)" not found')


class Busy(Unreachable):
    """The server answered, but not now (408, 429, 5xx); it may say in how many seconds to come back."""

    retry_after: float = 0.0


class Uncounted(Busy):
    """403: nothing was made, since a quota's objects are not counted yet: it, or what it counts, is seconds old."""


class Gone(Refused):
    """410: the server has forgotten the version that a watch wanted to go on from."""


@dataclass(frozen=True)
class Call:
    """What was asked of whom, for the message."""

    action: str
    """In words: `create PyTorchJob demo-1a2b3c4d`."""
    kubectl: str
    """How kubectl is asked about the same cluster."""
    host: str
    """https://address:port of the API server."""
    path: str
    """Path of the request."""


def cut(text: str) -> str:
    """One line of at most BODY_LIMIT characters; what looks like a credential is taken out first, whole."""
    line = redacted(" ".join(text.split()))
    return line if len(line) <= BODY_LIMIT else line[: BODY_LIMIT - 3] + "..."


def from_status(code: int, body: bytes, call: Call, retry_after: str | None = None) -> KctlError:
    """The error for an answer other than 2xx. `body` is a Status object, or whatever a proxy in between sent."""
    status = _status(body)
    message = str(status.get("message") or body.decode("utf-8", "replace"))
    if code == 401:
        return Refused(
            f"cannot {call.action}: {call.host} does not accept the credentials (expired?); "
            f"log in again, then check with: {call.kubectl} auth whoami"
        )
    if "failed calling webhook" in message:
        return Refused(
            f"cannot {call.action}: an admission webhook does not answer: {cut(message)}; "
            f"look with: {call.kubectl} get validatingwebhookconfigurations"
        )
    if code == 403 and "status unknown for quota" in message:
        return Uncounted(
            f"cannot {call.action}: {cut(message)}; the cluster counts a new quota within half a minute: "
            f"run it again, or look with: {call.kubectl} describe resourcequota"
        )
    if code == 403:
        return _forbidden(message, call)
    if code == 404:
        return _not_found(status, message, call)
    if code == 409:
        return _conflict(status, message, call)
    if code == 410:
        return Gone(f"cannot {call.action}: {cut(message)}; run it again")
    if code in (408, 429) or code >= 500:
        busy = Busy(
            f"cannot {call.action}: {call.host} answers {code}: {cut(message)}; "
            f"try again, or look with: {call.kubectl} get --raw /readyz"
        )
        busy.retry_after = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
        return busy
    return _refused(code, message, call)


def _status(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and value.get("kind") == "Status" else {}


def _refused(code: int, message: str, call: Call) -> Refused:
    return Refused(
        f"cannot {call.action}: the cluster refuses it ({code}): {cut(message)}; "
        "change what it names, then try with --dry-run=server"
    )


def _forbidden(message: str, call: Call) -> Refused:
    match = _FORBIDDEN.search(message)
    if match is None:
        return _refused(403, message, call)
    resource, _, subresource = match["resource"].partition("/")
    right = f"{match['verb']} {resource}" + (f".{match['group']}" if match["group"] else "")
    asked = right + (f" --subresource={subresource}" if subresource else "")
    place = f" -n {match['namespace']}" if match["namespace"] else ""
    return Refused(
        f"cannot {call.action}: {cut(match['user'])} has no right to {cut(right)}"
        f"{'/' + cut(subresource) if subresource else ''}"
        f"{' in namespace ' + cut(match['namespace']) if match['namespace'] else ''}; "
        f"ask for it, then check with: {cut(f'{call.kubectl} auth can-i {asked}{place}')}"
    )


def _not_found(status: dict[str, Any], message: str, call: Call) -> KctlError:
    namespace = _NO_NAMESPACE.search(message)
    if namespace is not None:
        return NotFound(
            f"cannot {call.action}: there is no namespace {cut(namespace[1])}; "
            f"choose one with -n: {call.kubectl} get namespaces"
        )
    details = status.get("details")
    named = isinstance(details, dict) and details.get("name")
    if call.path.startswith(OPERATOR_GROUP) and not named:
        return Refused(
            f"cannot {call.action}: {call.host} knows no PyTorchJob, the training operator is not installed; "
            f"install it, then check with: {call.kubectl} get crd pytorchjobs.kubeflow.org"
        )
    return NotFound(f"cannot {call.action}: {cut(message)}; list what is there with: kctl list")


def _conflict(status: dict[str, Any], message: str, call: Call) -> Refused:
    if status.get("reason") == "AlreadyExists":
        return AlreadyExists(f"cannot {call.action}: {cut(message)}; look with: kctl list")
    return Refused(f"cannot {call.action}: somebody changed it at the same moment: {cut(message)}; run it again")


def from_transport(error: Exception, call: Call) -> Unreachable:
    """The error for a request that got no answer: `error` is one of urllib3's, of ssl's or an OSError."""
    text = str(error)
    dated = next((words for words in ("is not yet valid", "has expired") if words in text), "")
    if "CERTIFICATE_VERIFY_FAILED" in text and dated:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Unreachable(
            f"cannot {call.action}: the certificate of {call.host} {dated} "
            f"by this machine's clock ({now}); set the clock if it is wrong, then: {call.kubectl} cluster-info"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Unreachable(
            f"cannot {call.action}: the certificate of {call.host} is not signed for it by the authority in the "
            f"kubeconfig; fetch the kubeconfig again, then: {call.kubectl} cluster-info"
        )
    return Unreachable(
        f"cannot {call.action}: {call.host} does not answer ({_reason(error)}); "
        f"check the network and the context, then: {call.kubectl} cluster-info"
    )


def _reason(error: Exception) -> str:
    text = str(error)
    known = {
        "Connection refused": "connection refused",
        "NameResolutionError": "its name does not resolve",
        "Failed to resolve": "its name does not resolve",
        "Network is unreachable": "network is unreachable",
        "No route to host": "no route to host",
        "timed out": "timed out",
        "Connection reset": "connection reset",
        "closed connection": "connection closed",
    }
    return next((words for sign, words in known.items() if sign in text), type(error).__name__)
