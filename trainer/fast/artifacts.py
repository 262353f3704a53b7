"""What the compiler made, kept in the run's folder, so that a run that starts again does not compile again.

One folder a kind of GPU and set of versions, with the file and its sha256. It is code that will be executed: read from
this run's own folder alone, whole or not at all. Who may write there may change it together with its sha256.
"""

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from trainer.atomic import replace_folder, temporary

PACKAGES = ("torch", "triton", "transformers", "peft", "flash-attn-4", "quack-kernels")
CONTENT, SHA256 = "artifacts.bin", "artifacts.sha256"


def key(device: torch.device) -> str:
    """Names the GPU, the versions and this package's own files: what was compiled for others is not looked at."""
    found = hashlib.sha256()
    found.update(torch.cuda.get_device_name(device).encode() if device.type == "cuda" else b"cpu")
    for name in PACKAGES:
        try:
            found.update(f"{name}=={version(name)}\n".encode())
        except PackageNotFoundError:
            continue
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def load(folder: Path, device: torch.device) -> bool:
    """Hand what this run compiled before to the compiler; False where there is nothing, or it is damaged."""
    place = folder / key(device)
    try:
        content, told = (place / CONTENT).read_bytes(), (place / SHA256).read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    if told != hashlib.sha256(content).hexdigest():
        return False
    return torch.compiler.load_cache_artifacts(content) is not None


def save(folder: Path, device: torch.device) -> None:
    """Keep what was compiled by now."""
    made = torch.compiler.save_cache_artifacts()
    if made is None:
        return
    place = folder / key(device)
    temp = temporary(place)
    temp.mkdir(parents=True)
    (temp / CONTENT).write_bytes(made[0])
    (temp / SHA256).write_text(hashlib.sha256(made[0]).hexdigest(), encoding="ascii")
    replace_folder(temp, place)
