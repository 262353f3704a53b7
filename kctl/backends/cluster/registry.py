"""What an image's registry says of it, asked from this machine and without a login (OCI distribution specification)."""

import re
from typing import Any

from kctl.errors import NotFound, Refused, Unreachable

SECONDS = 4.0
_KINDS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CHALLENGE = re.compile(r'(realm|service|scope)="([^"]*)"')


def digest_of(image: str) -> str:
    """`sha256:...` of the image as its registry has it now.

    NotFound where it does not have it, Refused where it wants a login, Unreachable where it does not answer from here.
    """
    from urllib3 import PoolManager, Retry, Timeout
    from urllib3.exceptions import HTTPError

    host, name, reference = parts(image)
    url = f"{'http' if _plain(host) else 'https'}://{host}/v2/{name}/manifests/{reference}"
    pool = PoolManager(retries=Retry(connect=0, read=0, redirect=3), timeout=Timeout(connect=SECONDS, read=SECONDS))
    headers = {"accept": ", ".join(_KINDS), "user-agent": "kctl"}
    try:
        response = pool.request("HEAD", url, headers=headers)
        if response.status == 401 and (token := _token(pool, response.headers.get("www-authenticate", ""))):
            response = pool.request("HEAD", url, headers=headers | {"authorization": f"Bearer {token}"})
    except (HTTPError, OSError) as error:
        raise Unreachable(f"{host} does not answer from here ({type(error).__name__})") from None
    if response.status in (401, 403):
        raise Refused(f"{host} wants a login for {name}")
    if response.status == 404:
        raise NotFound(f"{host} has no {name} {reference}")
    if response.status != 200:
        raise Unreachable(f"{host} answers {response.status}")
    return str(response.headers.get("docker-content-digest") or reference)


def parts(image: str) -> tuple[str, str, str]:
    """(registry, repository, digest or tag) of an image's name, with Docker Hub's defaults."""
    name, _, digest = image.partition("@")
    first, slash, rest = name.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    host, path = (first, rest) if named else ("registry-1.docker.io", name if slash else f"library/{name}")
    path, _, tag = path.partition(":")
    return host, path, digest or tag or "latest"


def _plain(host: str) -> bool:
    """Registries of this machine speak HTTP, as container runtimes take it."""
    return host.partition(":")[0] in ("localhost", "127.0.0.1")


def _token(pool: Any, challenge: str) -> str:
    """A token that anybody gets; empty where the registry gives none without a login."""
    asked = dict(_CHALLENGE.findall(challenge))
    realm = asked.pop("realm", "")
    if not challenge.startswith("Bearer ") or not realm.startswith(("https://", "http://")):
        return ""
    answer = pool.request("GET", realm, fields=asked)
    if answer.status != 200:
        return ""
    found = answer.json()
    return str(found.get("token") or found.get("access_token") or "") if isinstance(found, dict) else ""
