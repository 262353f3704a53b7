"""What the data is, which items are used, how a prompt is built and what is held out."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from trainer.schema.section import Section


def _below_root(path: str) -> str:
    if not path or path.startswith("/") or ".." in path.split("/") or "\x00" in path:
        raise ValueError(f"must be a path below the volume's root, without '..', got {path!r}")
    return path


RelativePath = Annotated[str, AfterValidator(_below_root)]
"""A path below a volume's root: no leading slash, no `..`."""

Block = Literal["profile", "history", "context"]
"""A part of the prompt that can be switched off; the seven non-empty sets are the seed's ablations."""

DEFAULT_TASK = (
    "Below is what is known of one character in a film. "
    "Learn how this person speaks from it and predict the line the person says next."
)
DEFAULT_INSTRUCTION = (
    "Continue the dialogue as the character:\n\n"
    "Note: write nothing but the reply itself, between [ANSWER] and [/ANSWER]; no reasoning, no remarks."
)


class Sample(Section):
    """Which part of the training data is used. Drawn once, never again per epoch."""

    unit: Literal["item", "row"] = "item"
    """What is counted: items (training examples) or JSON rows."""
    max: int = Field(ge=1)
    """At most this many per group."""
    per: Literal["row", "user"] = "user"
    """The group: one JSON row (the seed's sampler, in file order from one random stream) or one user
    (by hash, so independent of the order of the file)."""
    seed: int = 42
    """Seed of the choice."""

    @model_validator(mode="after")
    def _rows_per_row(self) -> Self:
        if self.unit == "row" and self.per == "row":
            raise ValueError("unit row needs per: user (a row holds one row)")
        return self


class Prompt(Section):
    """How an item of format chameleons becomes text. The same function serves training and generation."""

    style: Literal["simple"] = "simple"
    """simple: one system message with tagged blocks, then the assistant's header."""
    blocks: tuple[Block, ...] = ("context",)
    """Which blocks are shown: any non-empty set of profile, history, context. Order does not matter."""
    task: str = DEFAULT_TASK
    """The [TASK] block's text."""
    instruction: str = DEFAULT_INSTRUCTION
    """The text after the blocks."""
    history_items: int = Field(15, ge=1, le=100)
    """At most this many earlier utterances of the user in the history block."""

    @model_validator(mode="after")
    def _blocks_once(self) -> Self:
        if not self.blocks or len(set(self.blocks)) != len(self.blocks):
            raise ValueError("blocks must name at least one of profile, history, context, each once")
        return self


class Validation(Section):
    """What is held out. Decided by hash: the same items whatever the order of the file."""

    unit: Literal["item", "user", "row"] = "item"
    """item: a part of each user's items, as the seed; user: whole users; row: whole JSON rows."""
    ratio: float = Field(0.1, gt=0, lt=1)
    """Share that is held out. The report says what it came to."""
    seed: int = 42
    """Seed of the hash."""
    path: RelativePath | None = None
    """Another file of the same format below the data volume; then nothing of `data.path` is held out."""


class Data(Section):
    """The training data, below the data volume."""

    path: RelativePath
    """A file below the data volume, e.g. chameleons/train.json."""
    format: Literal["chameleons", "messages", "prompt_completion"]
    """chameleons: a JSON array of users with dialogue; messages: JSONL of {"messages": [{role, content}]};
    prompt_completion: JSONL of {"prompt", "completion"}."""
    sample: Sample | None = None
    """null: every item is used."""
    prompt: Prompt | None = None
    """Only for chameleons, where null means the defaults of this section."""
    validation: Validation = Validation()
    """What is held out for the evaluation loss."""
    max_length: int = Field(1024, ge=32, le=1_048_576)
    """Tokens of one item, prompt and answer together. Older turns are dropped until it fits."""

    @model_validator(mode="after")
    def _prompt_needs_chameleons(self) -> Self:
        if self.prompt is not None and self.format != "chameleons":
            raise ValueError(
                f"prompt belongs to format chameleons, not {self.format}: remove it "
                "(or write prompt: null if it is inherited)"
            )
        return self
