"""Runs inside the trainer's image, mounted there: `python inside_image.py NAME` does one of the checks below.

Knows nothing of the tests that call it; a check that fails raises.
"""

import importlib
import os
import pkgutil
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import triton
import triton.language as tl

PACKAGES = ("accelerate", "deepspeed", "peft", "safetensors", "tokenizers", "torch", "transformers", "triton")
REPORT = ("PIL", "pynvml", "tensorboardX", "wandb")
FLASH_4 = ("flash_attn.cute", "flash_attn.cute.interface", "cutlass", "quack")


@triton.jit
def doubled(x, size):  # type: ignore[no-untyped-def]  # Triton takes no annotations
    """x[i] *= 2 for every i below size, one program each."""
    position = tl.program_id(0)
    if position < size:
        tl.store(x + position, tl.load(x + position) * 2)


def imports() -> None:
    """Every module of ours, and what it stands on."""
    ours = [importlib.import_module("trainer")]
    names = [one.name for module in ours for one in pkgutil.walk_packages(module.__path__, "trainer.")]
    assert len(names) > 40, names
    for name in (*PACKAGES, *REPORT, *FLASH_4, *names):
        importlib.import_module(name)


def inductor() -> None:
    """torch.compile builds a C++ kernel for the CPU with the image's compiler, forwards and backwards."""
    import torch

    def wave(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x.cos() + x).sum(dim=1)

    compiled = torch.compile(wave, fullgraph=True)
    plain, other = (torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in "ab")
    torch.testing.assert_close(compiled(plain), wave(other))
    compiled(plain).sum().backward()
    wave(other).sum().backward()
    torch.testing.assert_close(plain.grad, other.grad)
    assert list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.so")), "inductor compiled nothing"


def triton_stub() -> None:
    """Triton's launcher in C is compiled and linked (loading it takes a GPU); a kernel becomes code for an H100."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime import build

    nvidia = Path(triton.__file__).parent / "backends" / "nvidia"
    with tempfile.TemporaryDirectory() as folder:
        source = shutil.copy(nvidia / "driver.c", folder)
        stub = build._build("cuda_utils", source, folder, [str(nvidia / "lib")], [str(nvidia / "include")], [], [])
        assert Path(stub).stat().st_size > 10_000
    kernel = ASTSource(doubled, {"x": "*fp32", "size": "i32"})
    compiled = triton.compile(kernel, target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1_000


def writable() -> None:
    """Prints each folder in which this user can make a file."""
    for folder, names, _ in os.walk("/"):
        names[:] = [name for name in names if f"{folder}/{name}" not in ("//proc", "//sys")]
        probe = Path(folder) / ".probe"
        try:
            probe.touch()
        except OSError:
            continue
        probe.unlink()
        print(folder)


def flash_2() -> None:
    """The package that the build argument named, beside flash-attn 4."""
    module: ModuleType = importlib.import_module("flash_attn")
    importlib.import_module("flash_attn.cute.interface")
    print(module.__version__)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
