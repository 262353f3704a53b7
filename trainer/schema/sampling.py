"""How answers to a test file are drawn: `kctl generate --set temperature=0.5` to `python -m trainer.generate`."""

from pydantic import Field

from trainer.schema.section import Section


class Sampling(Section):
    """The defaults are those of the scripts whose leaderboard these answers are for."""

    samples: int = Field(5, ge=1, le=100)
    """Continuations of each item."""
    temperature: float = Field(0.7, ge=0, le=10)
    """0: always the likeliest token, so all samples of an item are the same."""
    top_k: int = Field(50, ge=1, le=1000)
    """Drawn among so many of the likeliest tokens."""
    top_p: float = Field(0.85, gt=0, le=1)
    """Drawn among the likeliest tokens that together have this probability."""
    repetition_penalty: float = Field(1.1, gt=0, le=10)
    """Scores of tokens that stand in prompt or answer already are divided by it (multiplied where negative)."""
    max_new_tokens: int = Field(256, ge=1, le=8192)
    """An answer that has not ended by then is a failed sample."""
    seed: int = Field(42, ge=0, lt=2**63)
    """With the item and the number of the sample it is what an answer depends on."""
