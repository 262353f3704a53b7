"""The model folder's tokenizer.json, and the control tokens that no data may spell."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""What may be in a model folder of tokenizer and chat template."""


def load_tokenizer(folder: Path) -> Any:
    """A tokenizers.Tokenizer that neither cuts nor pads. ConfigError where there is none that can be read."""
    from tokenizers import Tokenizer, processors

    path = folder / "tokenizer.json"
    try:
        content = path.read_text(encoding="utf-8")
        json.loads(content)
    except OSError:
        raise ConfigError(
            f"{path}: no such file: the model folder needs a fast tokenizer (save_pretrained writes one)"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: damaged ({error}): copy the model folder again") from None
    try:
        tokenizer: Any = Tokenizer.from_str(content)
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        raise ConfigError(f"{path}: no tokenizer ({error}): copy the model folder again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Special tokens are written by the chat template. Whole offsets, or spaces would belong to no token.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the files of the model folder that say how text becomes tokens."""
    found = hashlib.sha256()
    for name in FILES:
        if (folder / name).is_file():
            found.update(f"{name}\0".encode() + (folder / name).read_bytes())
    return found.hexdigest()


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """Texts that the tokenizer reads as special tokens: they are split off before anything else is looked at."""
    added = tokenizer.get_added_tokens_decoder().values()
    return frozenset(token.content for token in added if token.special and not token.normalized)


def control_pattern(controls: frozenset[str]) -> re.Pattern[str]:
    """Finds any control token, the longest first; matches nothing where there are none."""
    longest_first = sorted(controls, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
