"""Fixtures that several tiers share. Real inputs come from the cache that `make demo` fills as well."""

from pathlib import Path

import pytest

from demo.inputs import qwen3_tokenizer


@pytest.fixture(scope="session")
def qwen3_folder() -> Path:
    """Folder with the tokenizer of Qwen3: tokenizer.json and tokenizer_config.json."""
    return qwen3_tokenizer()
