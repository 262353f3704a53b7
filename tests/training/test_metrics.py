"""What a killed attempt leaves in the records of a run, and what the next one makes of it."""

import json
from pathlib import Path

import pytest

from trainer.metrics import Metrics
from trainer.schema.contract import RunFolder
from trainer.schema.ops import Ops

ANSWER = json.dumps({"step": 3, "item": "a", "answer": "gewöhnlich"}, ensure_ascii=False)


@pytest.mark.parametrize(
    "torn", [ANSWER.encode().split("ö".encode())[0] + b"\xc3", b"7", b"[]", b'{"step": "x"}', b"\xff"]
)
def test_what_was_cut_off_is_dropped(tmp_path: Path, torn: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.write_bytes(ANSWER.encode() + b"\n" + torn)
    folder.metrics.write_bytes(b'{"step": 3, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n' + torn)
    log = Metrics(folder, "run", 3, Ops())
    log.close()
    assert folder.samples.read_text(encoding="utf-8") == ANSWER + "\n"
    assert folder.metrics.read_text() == '{"step": 3, "loss": 1.0}\n'
