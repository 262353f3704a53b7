"""A folder of a Git repository that a GitOps controller brings into its cluster: one file a run, and a list of them.

A run may be training from its file, so a file is written once: later renders only add. What is asked for by name is
rewritten or removed. kustomization.yaml lists the runs and nothing else, so it follows from the files beside it.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kctl.config.yaml_reader import MAX_BYTES, parse_yaml
from kctl.errors import KctlError, NotFound, UsageError
from kctl.manifest import Manifest
from kctl.manifest.differences import differences, fields_of
from kctl.manifest.render import Rendered, digest_of, to_yaml
from trainer.schema.contract import ANNOTATION_MANIFEST

LISTING = "kustomization.yaml"
_HEAD = "# Written by kctl gitops render. Your own settings go into a kustomization that lists this folder.\n"
_KEYS = ("apiVersion", "kind", "resources")
_RUN = re.compile(r"[a-z][a-z0-9-]*-[0-9a-f]{8}")


class State(StrEnum):
    """What a run's file is, beside what its config renders today."""

    NEW = "new"
    """There is no file yet."""
    SAME = "same"
    OLDER = "older"
    """kctl wrote it, from a config, a profile or a kctl of before."""
    EDITED = "edited"
    """It is not what kctl wrote."""
    KEPT = "kept"
    """kctl wrote it, and none of the configs renders this run any more."""


@dataclass(frozen=True)
class Entry:
    """One run of the folder or of the configs."""

    run: str
    state: State
    path: Path
    fields: tuple[str, ...] = ()
    """Of OLDER: what differs."""


def entries_of(folder: Path, rendered: Mapping[str, Rendered]) -> list[Entry]:
    """Every run of the folder and of the configs, by name. UsageError where the folder's list is not kctl's."""
    listed(folder)
    return [_entry(folder / f"{run}.yaml", rendered.get(run)) for run in sorted({*runs_in(folder), *rendered})]


def _entry(path: Path, wanted: Rendered | None) -> Entry:
    run = path.stem
    if not path.exists():
        return Entry(run, State.NEW, path)
    there = _written_by_kctl(path)
    if there is None:
        return Entry(run, State.EDITED, path)
    if wanted is None:
        return Entry(run, State.KEPT, path)
    if there == wanted.manifests:
        return Entry(run, State.SAME, path)
    fields = tuple(one.field for one in differences(fields_of(there), fields_of(wanted.manifests)))
    return Entry(run, State.OLDER, path, fields or ("metadata",))


def _written_by_kctl(path: Path) -> list[Manifest] | None:
    """The objects of the file where they are as kctl rendered them, by the digest that the last one carries."""
    try:
        parts = re.split(r"(?m)^---[ \t\r]*$", _read(path).decode("utf-8-sig"))
        manifests = [value for part in parts if (value := parse_yaml(part, str(path))) is not None]
        job = manifests[-1]
        told = job["metadata"]["annotations"][ANNOTATION_MANIFEST]
        right = job["metadata"]["name"] == path.stem and told == digest_of(manifests)
    except (UsageError, UnicodeDecodeError, LookupError, TypeError, AttributeError, ValueError):
        return None
    return manifests if right else None


def runs_in(folder: Path) -> list[str]:
    """The runs that have a file there, by name."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KctlError(f"{folder}: {error.strerror}: name a folder with -o") from None
    stems = [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]
    return sorted(stem for stem in stems if _RUN.fullmatch(stem))


def listing(runs: Iterable[str]) -> str:
    """kustomization.yaml of these runs."""
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "resources:"]
    resources = [f"- {run}.yaml" for run in sorted(runs)]
    return _HEAD + "\n".join([*lines, *resources] if resources else [*lines[:-1], "resources: []"]) + "\n"


def listed(folder: Path) -> list[str] | None:
    """The runs of kustomization.yaml, None without such a file. UsageError where it is not as kctl writes it."""
    path = folder / LISTING
    if not path.exists():
        return None
    remedy = "delete it, and render again: it follows from the files beside it"
    try:
        value: Any = parse_yaml(_read(path), str(path))
    except UsageError as error:
        raise UsageError(f"{error}: {remedy}") from None
    more = [str(key) for key in value if key not in _KEYS] if isinstance(value, dict) else ["its content"]
    names = (value.get("resources") or []) if isinstance(value, dict) else []
    for one in names if isinstance(names, list) else [names]:
        if not isinstance(one, str) or not _RUN.fullmatch(one.removesuffix(".yaml")):
            more.append(str(one)[:60])
    if more:
        raise UsageError(
            f"{path}: {', '.join(more)}: not kctl's. Put that into a kustomization of your own that lists this folder; "
            f"here {remedy}"
        )
    return [one.removesuffix(".yaml") for one in names]


def stale(folder: Path, runs: Iterable[str]) -> bool:
    """True where kustomization.yaml does not list exactly these runs."""
    return listed(folder) != sorted(runs)


def write_run(folder: Path, rendered: Rendered) -> Path:
    """Write or replace the run's file, and list it."""
    path = folder / f"{rendered.run}.yaml"
    _write(path, to_yaml(rendered.manifests))
    return path


def write_listing(folder: Path) -> None:
    """Make kustomization.yaml say what lies beside it. Done last: it never lists a file that is not there."""
    runs = runs_in(folder)
    if stale(folder, runs):
        _write(folder / LISTING, listing(runs))


def remove_run(folder: Path, run: str) -> Path:
    """Take the run from the list, then its file."""
    listed(folder)
    path = folder / f"{run}.yaml"
    _write(folder / LISTING, listing(set(runs_in(folder)) - {run}))
    try:
        path.unlink()
    except OSError as error:
        raise KctlError(f"{path}: {error.strerror}: remove it by hand, then render again") from None
    return path


def chosen(text: str, runs: Iterable[str], where: str) -> str:
    """The run that `text` names: its name, or a unique prefix. NotFound, or UsageError where it is ambiguous."""
    names = sorted(runs)
    found = [text] if text in names else [name for name in names if text and name.startswith(text)]
    if len(found) > 1:
        raise UsageError(f"{text!r} is ambiguous {where}: {', '.join(found[:10])}; write more of the name")
    if not found:
        raise NotFound(f"no run {text!r} {where}; there are: {', '.join(names[:10]) or 'none'}")
    return found[0]


def text_of(path: Path) -> str:
    """What the file says; bytes that are no UTF-8 are replaced."""
    return _read(path).decode("utf-8", errors="replace")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KctlError(f"{path}: cannot be read: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    """Appears by rename: whoever commits meanwhile commits the old text or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).chmod(0o644)
            Path(beside).replace(path)
        finally:
            Path(beside).unlink(missing_ok=True)
    except OSError as error:
        raise KctlError(f"{path}: cannot be written: {error.strerror}") from None
