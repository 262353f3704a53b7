"""The images as pods run them. Built once (tests/cluster/image.sh), then looked at from inside and from outside."""

import json
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.cluster.conftest import Measured
from tests.cluster.images import IMAGE, ROOT, Container, build, inspect, master
from tests.training.tiny import tiny_dense
from tests.training.world import World, make_world

DEMO = master(ROOT / "tests" / "golden" / "manifests" / "demo.yaml")
"""The container that kctl renders for a run without GPUs."""
ENVIRONMENT = tuple(f"{entry['name']}={entry['value']}" for entry in DEMO["env"] if "value" in entry)
INSIDE = ROOT / "tests" / "cluster" / "inside_image.py"
UIDS = (10001, 1000660000)
"""The image's own user, and one that no file of it knows: OpenShift chooses such."""
START_SECONDS = 15.0
TORCH_SECONDS = 400.0

pytestmark = pytest.mark.timeout(3000)


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """Both images of this checkout."""
    built = build()
    assert built.returncode == 0, "tests/cluster/image.sh failed; its messages stand above"
    assert [line.split()[0] for line in built.stdout.splitlines()] == ["kctl", "trainer"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, qwen3_folder: Path) -> Iterator[World]:
    """A tiny model and data, in the folders that become the pod's volumes."""
    with make_world(tmp_path_factory.mktemp("image")) as made:
        for file in tiny_dense(made.models / "dense", tokenizer=qwen3_folder).iterdir():
            file.chmod(0o644)
        runs = made.root / ".kctl" / "runs"
        runs.mkdir()
        runs.chmod(0o777)
        yield made


def _trainer(uid: int = 10001, **more: Any) -> Container:
    return Container(f"{IMAGE}:trainer", uid, ENVIRONMENT, (f"{INSIDE}:/inside_image.py:ro",), **more)


def _slim(uid: int = 10001) -> Container:
    return Container(f"{IMAGE}:kctl", uid)


@pytest.mark.parametrize("uid", UIDS)
@pytest.mark.parametrize("check", ["imports", "inductor", "triton_stub"])
def test_what_the_trainer_needs_works(check: str, uid: int) -> None:
    _trainer(uid).ok("python", "/inside_image.py", check, timeout=TORCH_SECONDS)


@pytest.mark.parametrize("uid", UIDS)
def test_only_the_mounts_can_be_written(uid: int) -> None:
    found = _trainer(uid).ok("python", "/inside_image.py", "writable").split()
    assert set(found) == {"/tmp", "/dev/shm", "/dev/mqueue"}


def test_no_file_of_the_image_belongs_to_its_user() -> None:
    find = "find / -xdev -writable -not -type l 2>/dev/null || true"
    writable = _trainer(read_only=False).ok("sh", "-c", find).split()
    assert {path for path in writable if not path.startswith(("/dev", "/proc"))} == {"/tmp", "/var/tmp", "/run/lock"}


@pytest.mark.parametrize("uid", UIDS)
def test_the_launcher_is_the_entry(uid: int) -> None:
    assert "usage: python -m trainer.launch" in _trainer(uid).ok("python", "-m", "trainer.launch", "--help")
    assert _trainer(uid).ok("tini", "--version", entrypoint="/usr/bin/env").startswith("tini version")
    assert _trainer(uid).ok("id", "-u").strip() == str(uid)


@pytest.mark.parametrize("uid", UIDS)
def test_the_slim_image_is_kctl_alone(uid: int) -> None:
    assert "Commands:" in _slim(uid).ok("--help")
    assert "kind: PyTorchJob" in _slim(uid).ok("render", "lora_di3")
    assert "healthCheckExprs" in _slim(uid).ok("gitops", "health")
    for absent in ("gcc", "g++", "cc", "c++", "clang", "torchrun"):
        assert _slim(uid).run("-c", f"command -v {absent}", entrypoint="/bin/sh").returncode == 127
    missing = _slim(uid).run("-c", "import torch", entrypoint="python")
    assert "No module named 'torch'" in missing.stderr


@pytest.mark.parametrize("container", [_trainer(), _slim()], ids=["trainer", "kctl"])
def test_an_image_holds_the_pinned_versions(container: Container) -> None:
    pins = set((ROOT / "images" / "constraints.txt").read_text().lower().splitlines())
    frozen = container.ok("/opt/venv/freeze.txt", entrypoint="cat").lower().replace("_", "-").splitlines()
    assert len(frozen) > 20 and set(frozen) <= pins


@pytest.mark.parametrize("target", ["trainer", "kctl"])
def test_our_code_is_a_small_last_layer(target: str) -> None:
    found = inspect(f"{IMAGE}:{target}")
    filled = [entry for entry in found["History"] if not entry.get("empty_layer")]
    assert "/opt/app" in filled[-1]["created_by"]
    assert len(filled) == len(found["RootFS"]["Layers"]) <= 9
    assert found["Config"]["User"] == "10001:10001"
    size = int(_slim().ok("-sk", "/opt/app", entrypoint="du").split()[0])
    assert size < 6144, f"{size} KiB"
    with_secrets = [line for line in json.dumps(found["History"]).split('"') if "://" in line]
    assert with_secrets == []


def _train(world: World) -> float:
    """Seconds from starting the container of a whole run to rank 0's line of versions and devices."""
    run_file = world.root / "tmp" / "config.json"
    run_file.write_text(world.run_file("start").to_json())
    modes = {"models": "ro", "data": "ro", "runs": "rw"}
    folders = [f"{world.root}/.kctl/{name}:/{name}:{mode}" for name, mode in modes.items()]
    volumes = (f"{run_file}:/etc/kctl/config.json:ro", *folders)
    environment = (*ENVIRONMENT, "PET_NNODES=1", "PET_NPROC_PER_NODE=2", "TRAINER_POD_UID=first")
    entry, *arguments = DEMO["command"]
    command = Container(f"{IMAGE}:trainer", UIDS[1], environment, volumes).command(*arguments, entrypoint=entry)
    start, first, lines = time.monotonic(), None, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            if first is None and re.search(r"torch \S+ transformers \S+ .* 2 ranks on cpu", line):
                first = time.monotonic() - start
    assert process.returncode == 0 and first is not None, "".join(lines)
    return first


def test_a_run_starts_in_time_and_ends_with_an_adapter(world: World, measured: Measured) -> None:
    world.config("start", max_steps=2)
    times: list[float] = []
    while not times or (times[-1] > START_SECONDS and len(times) < 4):  # again where the machine had other things to do
        times.append(_train(world))
        assert (world.folder("start").adapter / "MANIFEST.json").is_file()
        shutil.rmtree(world.folder("start").root)
    measured(f"container start to rank 0's first line: {', '.join(f'{seconds:.1f}' for seconds in times)} s")
    assert times[-1] <= START_SECONDS


def _wheel(path: Path) -> Path:
    """A small flash-attn 2: as the real one it brings a folder cute, which is no longer flash-attn 4's."""
    info = "flash_attn-2.0.0+test.dist-info"
    files = {
        "flash_attn/__init__.py": '__version__ = "2.0.0+test"\n',
        "flash_attn/cute/__init__.py": "raise ImportError('an old copy')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.0.0+test\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


@pytest.fixture
def other_name() -> Iterator[str]:
    """An image name whose tags are removed again."""
    name = f"{IMAGE}-flash-2"
    yield name
    for target in ("trainer", "kctl"):
        subprocess.run(["podman", "rmi", "--ignore", "--force", f"{name}:{target}"], check=False)


def test_flash_attn_2_is_a_wheel_by_its_name(other_name: str) -> None:
    wheel = _wheel(ROOT / "images" / "flash_attn-2.0.0+test-py3-none-any.whl")
    try:
        built = build(IMAGE=other_name, FLASH_ATTN=wheel.name)
    finally:
        wheel.unlink()
    assert built.returncode == 0, built.stdout[-3000:]
    container = Container(f"{other_name}:trainer", 10001, ENVIRONMENT, (f"{INSIDE}:/inside_image.py:ro",))
    assert container.ok("python", "/inside_image.py", "flash_2", timeout=TORCH_SECONDS).strip() == "2.0.0+test"
    assert f"flash-attn @ file:///images/{quote(wheel.name)}\n" in container.ok("cat", "/opt/venv/freeze.txt")


def test_flash_attn_2_from_source_asks_for_nvcc(other_name: str) -> None:
    built = build(IMAGE=other_name, FLASH_ATTN="flash-attn==2.8.3")
    assert built.returncode != 0
    assert "error: FLASH_ATTN=flash-attn==2.8.3 is built with nvcc, which BASE lacks" in built.stdout
