"""What is wrong on a volume or in the environment: the launcher's code and one sentence with what, where, the remedy.

A part goes the whole way through kctl, the rest straight to the launcher, where kctl adds nothing. No rank starts.
"""

import json
import os
import sys
import sysconfig
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import small_tokenizer
from tests.training.world import Done, World, make_world
from tests.unit.test_launch_atomic import on_tmpfs
from trainer.schema.identity import run_name
from trainer.schema.loading import RunFile

ROOT = Path(__file__).parents[2]
PAIR = json.dumps({"prompt": "why not", "completion": "maybe"}).encode() + b"\n"
ROW = json.dumps({"user_hash": "ab", "task": {}}).encode()
CHAT = {"messages": [{"role": "user", "content": "why"}, {"role": "assistant", "content": None}]}


@dataclass(frozen=True)
class Case:
    """A data file, a model or a change of the config that cannot work."""

    name: str
    code: int
    words: tuple[str, ...]
    """What the sentence must hold."""
    content: bytes | None = PAIR * 6
    format: str = "prompt_completion"
    train: dict[str, Any] = field(default_factory=dict)

    def write(self, world: World) -> None:
        """Its config, which names a data file of its own."""
        path = f"{self.name}.data"
        if self.content is not None:
            (world.data / path).write_bytes(self.content)
        data = {"path": path, "format": self.format, "validation": {"path": None, "ratio": 0.3}}
        world.config(self.name, processes=1, **{"data": data, **self.train})


CASES = (
    Case("missing", 3, ("data/missing.data: no such file", "correct train.data.path"), content=None),
    Case("empty", 3, ("data/empty.data: the file is empty: expected one JSON object a line",), content=b""),
    Case(
        "empty-array",
        3,
        ("empty-array.data: holds no items (0 rows)", "is data.format chameleons right?"),
        b"[]",
        "chameleons",
    ),
    Case(
        "truncated",
        3,
        (f"data/truncated.data: row 2 (line 2, byte {len(ROW) + 23}): the file ends inside this row",),
        b"[" + ROW + b",\n" + ROW[:-9],
        "chameleons",
    ),
    Case(
        "cut-line",
        3,
        (f"data/cut-line.data: line 3, byte {2 * len(PAIR) + 20}: not valid JSON",),
        PAIR + PAIR + PAIR[:20],
    ),
    Case("number", 3, ("number.data: line 1: expected a JSON array of rows, got a number",), b"42\n", "chameleons"),
    Case("number-line", 3, (f"line 2, byte {len(PAIR)}): a line must be an object, got a number",), PAIR + b"42\n"),
    Case(
        "null",
        3,
        ("data/null.data: row 1 (line 1, byte 0): messages[1].content must be a string, got null",),
        json.dumps(CHAT).encode(),
        "messages",
    ),
    Case(
        "not-utf8-array",
        3,
        (f"data/not-utf8-array.data: line 2, byte {len(ROW) + 6}: not valid UTF-8",),
        b"[" + ROW + b',\n"ab\xff"]',
        "chameleons",
    ),
    Case("deep", 3, ("data/deep.data: ", "line 1, byte ", "nested too deep"), b"[" * 200_000, "chameleons"),
    Case("deep-line", 3, (f"line 2, byte {len(PAIR)}: nested too deep",), PAIR + b'{"a":' * 100_000),
    Case(
        "all-dropped",
        3,
        ("all-dropped.data: nothing is left to train on (4 empty answer): check the file, data.format",),
        PAIR.replace(b"maybe", b" ") * 4,
    ),
    Case("other-format", 3, ("row 1 (line 1, byte 0): messages must be a list of {role, content}",), format="messages"),
    Case("no-model", 2, ("no such model folder", "correct train.model.path"), train={"model": {"path": "nowhere"}}),
    Case("no-tokenizer", 2, ("no tokenizer.json in the model folder",), train={"model": {"path": "no-tokenizer"}}),
    Case("bad-tokenizer", 2, ("bad-tokenizer", "tokenizer.json"), train={"model": {"path": "bad-tokenizer"}}),
    Case("read-only", 7, (".kctl/runs/read-only-", "mount the volume read-write and submit again")),
)
THROUGH_KCTL = (
    Case(
        "not-utf8",
        3,
        (f"data/not-utf8.data: line 2, byte {len(PAIR) + 11}: not valid UTF-8",),
        PAIR + PAIR[:11] + b"\xff",
    ),
    Case(
        "no-config",
        2,
        ("models/no-config: no config.json in the model folder: copy the model there", "correct train.model.path"),
        train={"model": {"path": "no-config"}},
    ),
    Case("no-peft", 2, ("this Python has no peft: pip install 'kctl[trainer]', or use the trainer's image",)),
    Case("full-disk", 7, (".kctl/runs/full-disk-", "No space left on device: make room there", "submit again")),
    Case("foreign", 7, (": belongs to run other-", "not to foreign-", "move that folder away and submit again")),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("bad-input")) as world:
        tokenizer = small_tokenizer(world.root / "tokenizer", [world.data / "train.jsonl"])
        for model, missing in (("dense", ""), ("no-config", "config.json"), ("no-tokenizer", "tokenizer.json")):
            write_model(world.models / model, tokenizer, missing)
        write_model(world.models / "bad-tokenizer", tokenizer, "")
        (world.models / "bad-tokenizer" / "tokenizer.json").write_text('{"model": 1}')
        (world.root / ".kctl" / "runs").mkdir()
        yield world


def write_model(folder: Path, tokenizer: Path, missing: str) -> None:
    """A model folder as far as the launcher looks into it, without the file `missing`."""
    folder.mkdir()
    names = ("tokenizer.json", "tokenizer_config.json")
    for name, content in [("config.json", "{}"), ("model.safetensors", ""), *[(one, None) for one in names]]:
        if name != missing:
            (folder / name).write_text((tokenizer / name).read_text() if content is None else content)


def tmpfs(folder: Path, options: str) -> list[str]:
    """In front of a command: with a tmpfs at `folder` that nobody else sees and that ends with it."""
    shell = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    unshare = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-r", "-m"]
    return [*unshare, "sh", "-c", shell, "sh", options, str(folder)]


@pytest.fixture(scope="module")
def launched(world: World) -> dict[str, tuple[int, str]]:
    """Code and output of the launcher for every case, two at a time."""

    def launch(case: Case) -> tuple[int, str]:
        case.write(world)
        read_only = tmpfs(world.root / ".kctl" / "runs", "ro") if case.name == "read-only" else []
        return world.launch(case.name, prefix=read_only)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip([case.name for case in CASES], pool.map(launch, CASES), strict=True))


@pytest.fixture(scope="module")
def submitted(world: World) -> dict[str, Done]:
    """`kctl submit --local --wait` of every case, two at a time."""

    def submit(case: Case) -> Done:
        case.write(world)
        prefix, python = [], sys.executable
        if case.name == "full-disk":
            prefix = tmpfs(world.root / ".kctl" / "runs", "size=300k")
        if case.name == "no-peft":
            python = python_without(world.root / "venv", "peft")
        if case.name == "foreign":
            occupy(world, "foreign")
        return world.kctl("submit", case.name, "--local", "--wait", prefix=prefix, python=python)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip([case.name for case in THROUGH_KCTL], pool.map(submit, THROUGH_KCTL), strict=True))


def python_without(folder: Path, package: str) -> str:
    """A Python with everything that this one has, but for one package."""
    venv.create(folder, symlinks=True)
    seen = folder / "packages"
    seen.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith((package, "__pycache__")):
            (seen / entry.name).symlink_to(entry)
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(own, "seen.pth").write_text(f"{seen}\n{ROOT}\n")
    return str(folder / "bin" / "python")


def occupy(world: World, config: str) -> None:
    """Another run's config.json in the run's folder."""
    file = world.run_file(config)
    folder = world.root / ".kctl" / "runs" / file.run
    folder.mkdir()
    other = file.train.model_copy(update={"seed": 7})
    (folder / "config.json").write_text(RunFile(run_name("other", other), other).to_json())


def check_words(case: Case, said: str) -> None:
    for word in case.words:
        assert word in said, f"{word!r} is not in: {said}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_launcher_says_what_is_wrong(world: World, launched: dict[str, tuple[int, str]], case: Case) -> None:
    code, output = launched[case.name]
    last = output.splitlines()[-1]
    assert code == case.code and last.endswith(f"(code {case.code})") and last.startswith("Failed: "), output
    check_words(case, last)
    assert "Traceback" not in output
    assert not list((world.root / "tmp").glob("kctl-*")), "the scratch folder is gone"


@pytest.mark.parametrize("case", THROUGH_KCTL, ids=lambda case: case.name)
def test_kctl_shows_the_sentence_and_the_code(world: World, submitted: dict[str, Done], case: Case) -> None:
    done = submitted[case.name]
    assert done.code == 3, done.out + done.err
    (sentence,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    check_words(case, sentence)
    assert f"failed (code {case.code}): " in sentence and f"kctl submit {case.name} --local" in sentence
    status = world.status(case.name)
    assert status["phase"] == "Failed" and status["code"] == case.code
    assert [pod["code"] for pod in status["pods"]] == [case.code]
    assert status["attempt"] == (1 if case.name == "not-utf8" else None)  # the others end before one begins
    check_words(case, status["sentence"])


def test_a_disk_that_fills_up_under_the_metrics_is_the_volumes_fault(tmp_path: Path) -> None:
    program = """
import pathlib, sys
from trainer.errors import RunsFolderError
from trainer.metrics import Metrics
from trainer.schema.contract import RunFolder
from trainer.schema.ops import Ops
log = Metrics(RunFolder(pathlib.Path(sys.argv[1])), "run", 0, Ops())
try:
    for step in range(10_000):
        log.write({"step": step, "loss": 1.0})
except RunsFolderError as error:
    print(int(error.code), error)
"""
    said = on_tmpfs(tmp_path, "size=64k", program)
    assert said.startswith(f"7 {tmp_path}/metrics.jsonl: No space left on device: make room there")
