"""One rank of a model that is loaded for full-parameter training and saved again, under torchrun.

    torchrun ... whole_model.py BASE OUT

OUT/model is what was saved, values.safetensors the same by the model's own names; rank-N.json has the peak of a rank's
own memory (no pages of files) while it loaded and saved, in bytes.
"""

import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file

from tests.training.tiny import train_config
from trainer import whole_model
from trainer.adapters import save_adapter
from trainer.distributed import end_process, join, leave
from trainer.engine import deepspeed_config
from trainer.full_state import shard_at_load, whole_values
from trainer.model import load_model

FILE = 32 << 20


def own_memory() -> int:
    """Bytes of this process that no file backs; the kernel can drop the others."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@contextlib.contextmanager
def peak(found: dict[str, int], name: str) -> Iterator[None]:
    """found[name]: the most that was added meanwhile, looked at every 2 ms."""
    before, over = own_memory(), threading.Event()
    found[name] = 0

    def watch() -> None:
        while not over.wait(0.002):
            found[name] = max(found[name], own_memory() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    over.set()
    thread.join()


def main() -> None:
    base, out = Path(sys.argv[1]), Path(sys.argv[2])
    ranks, train, found = join(), train_config(method="full", precision="bf16"), {}
    whole_model.FILE_BYTES = FILE
    import deepspeed.runtime.zero  # noqa: F401 (its memory is not the model's)

    sharding = shard_at_load(deepspeed_config(train, False))
    with peak(found, "load"):
        model = load_model(train, base, ranks.device)
    del sharding
    with peak(found, "save"):
        values = whole_values(model, ranks.first)
        if ranks.first:
            save_adapter(model, values, out / "model", train, "full-0", {"step": 1}, base)
        for _ in values:
            pass
    (out / f"rank-{ranks.rank}.json").write_text(json.dumps(found))
    values = dict(whole_values(model, ranks.first))
    if ranks.first:
        save_file(values, out / "values.safetensors")
    leave()


if __name__ == "__main__":
    main()
    end_process()
