"""The prepared folder: what one preparation writes and every rank maps into memory, nothing copied.

FOLDER/{train,validation}/{tokens.bin int32, kinds.bin uint8, starts.bin int64, kept.bin int32, users.bin int32,
ids.json} and report.json. The folder appears by rename.
"""

import hashlib
import json
import mmap
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from trainer.dataset.report import Report
from trainer.dataset.tokenizer import load_tokenizer
from trainer.errors import DataError

KIND_CONTEXT, KIND_ANSWER, KIND_FRAME = 0, 1, 2
"""Per token: masked; the answer's own; trained around it (answer tags, end token)."""
SPLITS = ("train", "validation")
REPORT = "report.json"


@dataclass(frozen=True)
class Items:
    """One split. ids: a stable name of each item, for fixed subsets chosen by hash."""

    ids: list[str]
    _tokens: "memoryview[int]"
    _kinds: "memoryview[int]"
    _starts: "memoryview[int]"
    _kept: "array[int]"
    _users: "array[int]"

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """sha256 over ids, tokens and kinds: equal where exactly the same is trained."""
        found = hashlib.sha256("\n".join(self.ids).encode())
        for part in (self._starts, self._tokens, self._kinds):
            found.update(part)
        return found.hexdigest()

    def length(self, i: int) -> int:
        """Tokens of item i."""
        return self._starts[i + 1] - self._starts[i]

    def kept(self, i: int) -> int:
        """Trained tokens of item i."""
        return self._kept[i]

    def user(self, i: int) -> int | None:
        """A number for the user of item i, the same for all items of that user in this split; None: not known."""
        return self._users[i] if self._users[i] >= 0 else None

    def tokens(self, i: int) -> "memoryview[int]":
        """Token ids, int32 (format "i")."""
        return self._tokens[self._starts[i] : self._starts[i + 1]]

    def kinds(self, i: int) -> "memoryview[int]":
        """KIND_* of each token, uint8 (format "B")."""
        return self._kinds[self._starts[i] : self._starts[i + 1]]


@dataclass(frozen=True)
class Prepared:
    train: Items
    validation: Items
    report: Report


class ItemsWriter:
    """Appends items to one split's files; they are complete and on disk when the with block ends well."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._tokens = (folder / "tokens.bin").open("wb")
        self._kinds = (folder / "kinds.bin").open("wb")
        self._starts = array("q", [0])
        self._kept = array("i")
        self._users = array("i")
        self._numbers: dict[str, int] = {}
        self._ids: list[str] = []

    def add(self, name: str, tokens: "array[int]", kinds: bytes, user: str | None = None) -> None:
        tokens.tofile(self._tokens)
        self._kinds.write(kinds)
        self._starts.append(self._starts[-1] + len(tokens))
        self._kept.append(len(kinds) - kinds.count(KIND_CONTEXT))
        self._users.append(-1 if user is None else self._numbers.setdefault(user, len(self._numbers)))
        self._ids.append(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._tokens.close()
            self._kinds.close()

    def _finish(self) -> None:
        for file in (self._tokens, self._kinds):
            file.flush()
            os.fsync(file.fileno())
        (self._folder / "starts.bin").write_bytes(self._starts.tobytes())
        (self._folder / "kept.bin").write_bytes(self._kept.tobytes())
        (self._folder / "users.bin").write_bytes(self._users.tobytes())
        (self._folder / "ids.json").write_text(json.dumps(self._ids), encoding="ascii")


def load_prepared(folder: Path) -> Prepared:
    """Both splits, memory mapped, and the report. DataError where the folder is incomplete."""
    try:
        report = Report.from_json((folder / REPORT).read_text(encoding="utf-8"))
        train, validation = (_load_items(folder / split) for split in SPLITS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: prepared data is damaged ({error}): delete the folder and start again") from None
    return Prepared(train, validation, report)


def _load_items(folder: Path) -> Items:
    ids = json.loads((folder / "ids.json").read_text(encoding="ascii"))
    starts = _mapped(folder / "starts.bin", "q")
    kinds, tokens = _mapped(folder / "kinds.bin", "B"), _mapped(folder / "tokens.bin", "i")
    kept = array("i", (folder / "kept.bin").read_bytes())
    users = array("i", (folder / "users.bin").read_bytes())
    by_item = {len(starts) - 1, len(kept), len(users), len(ids)}
    if len(by_item) > 1 or not starts[-1] == len(kinds) == len(tokens):
        raise ValueError(f"{folder.name}: sizes of the files do not match")
    return Items(ids, tokens, kinds, starts, kept, users)


def _mapped(path: Path, code: Literal["B", "i", "q"]) -> "memoryview[int]":
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"").cast(code)  # an empty file cannot be mapped
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)).cast(code)


def show_item(items: Items, index: int, model_folder: Path) -> str:
    """Item `index` as text: the prompt plain, answers as <<answer|...>>, what is trained around them <<frame|...>>."""
    tokenizer = load_tokenizer(model_folder)
    tokens, kinds = items.tokens(index).tolist(), items.kinds(index).tolist()
    pieces, start = [], 0
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or kinds[end] != kinds[start]:
            text = tokenizer.decode(tokens[start:end], skip_special_tokens=False)
            label = {KIND_ANSWER: "answer", KIND_FRAME: "frame"}.get(kinds[start])
            pieces.append(f"<<{label}|{text}>>" if label else text)
            start = end
    return "".join(pieces)
