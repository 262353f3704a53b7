"""What a cluster keeps elsewhere, as files here: ConfigMaps as folders, the runs volume as RunFiles."""

from collections.abc import Iterator
from pathlib import Path

from kctl.errors import NotFound, UsageError
from kctl.manifest import Manifest

_CHUNK = 1 << 20


class LocalFiles:
    """RunFiles on a folder; nothing outside of it is read, also not through a link."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted."""
        path = self._inside(folder)
        return sorted(entry.name for entry in path.iterdir() if entry.is_file()) if path.is_dir() else []

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` on."""
        inside = self._inside(path)
        try:
            file = inside.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"{inside}: no such file; has the run written it yet?") from None
        with file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk

    def _inside(self, path: str) -> Path:
        found = self._root / path
        if not found.resolve().is_relative_to(self._root.resolve()):
            raise NotFound(f"{path}: not below {self._root}")
        return found


def write_config_maps(folder: Path, job: Manifest, manifests: list[Manifest]) -> None:
    """Write each ConfigMap volume of the job to `folder`/<volume name>/<key>."""
    maps = {one["metadata"]["name"]: one for one in manifests if one.get("kind") == "ConfigMap"}
    for spec in job["spec"]["pytorchReplicaSpecs"].values():
        for volume in spec["template"]["spec"].get("volumes", []):
            source = volume.get("configMap")
            if source is None:
                continue
            if source["name"] not in maps:
                raise UsageError(
                    f"volume {volume['name']}: ConfigMap {source['name']} is not among the rendered manifests"
                )
            data = maps[source["name"]].get("data", {})
            chosen = source.get("items") or [{"key": key, "path": key} for key in data]
            for item in chosen:
                path = folder / volume["name"] / item["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(data[item["key"]], encoding="utf-8")
