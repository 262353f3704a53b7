"""Made-up records and small tokenizers for the tests of trainer.dataset."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from trainer.dataset.chat_template import Chat, load_chat
from trainer.dataset.drafts import Composer
from trainer.dataset.encoding import Encoder
from trainer.dataset.items import Example, Item, Turn, User, build_row
from trainer.dataset.tokenizer import control_tokens, load_tokenizer
from trainer.schema.data import Prompt

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""One that inserts a system turn of its own, as SmolLM2's does."""
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""One without a system role and with a beginning-of-text token, as Gemma's."""
CONTROLS = ("<s>", "<|im_start|>", "<|im_end|>")
CORPUS = ["User: Where did you put the ledger?\nAssistant: Under the floor.\n[ANSWER]\nWhich floor?\n[/ANSWER]"] * 8


def write_model(folder: Path, family: str = "gpt2", template: str | None = CHATML) -> Path:
    """A model folder with a small BPE tokenizer: gpt2 (bytes, trimmed offsets), spaces (as SentencePiece) or words."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>" if family != "gpt2" else None))
    alphabet: list[str] = []
    if family == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif family == "spaces":  # no pre-tokenizer at all: a token may reach over lines and words
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *CONTROLS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    end = {"__type": "AddedToken", "content": "<|im_end|>", "special": True}  # the older way to write it
    config: dict[str, Any] = {"bos_token": "<s>", "eos_token": end, "pad_token": "<|im_end|>"}
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@functools.cache
def load_model(folder: Path) -> tuple[Any, Chat, frozenset[str]]:
    """Tokenizer, chat template and control tokens of a folder."""
    tokenizer = load_tokenizer(folder)
    controls = control_tokens(tokenizer)
    return tokenizer, load_chat(folder, controls), controls


def make_encoder(folder: Path, prompt: Prompt | None, max_length: int = 1024, every_turn: bool = False) -> Encoder:
    tokenizer, chat, controls = load_model(folder)
    return Encoder(tokenizer, Composer(chat, prompt, every_turn), max_length, controls)


def make_item(turns: Sequence[tuple[str, str]], answer: str, user: str | None = "u1", **more: Any) -> Item:
    """One item; more: query, time, order."""
    order = more.pop("order", 0)
    example = Example(tuple(Turn(*turn) for turn in turns), answer, **more)
    return build_row(User(user), [example], order).items[0]


def record(name: str, items: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One chameleons row; more: user_hash, profile, personality, collections."""
    user: dict[str, Any] = {"profile": {"name": name, **more.pop("profile", {})}}
    if "personality" in more:
        user["personality"] = more.pop("personality")
    collections = more.pop("collections", [{"type": "dialogue", "data": list(items)}])
    return {"user": user, "task": {"description": "x", "task_behavior_collections": collections}, **more}


def entry(context: Sequence[tuple[str, str]], continuation: str, **more: Any) -> dict[str, Any]:
    """One data item of a collection."""
    return {
        "context": [{"source": source, "content": content} for source, content in context],
        "continuation": continuation,
        **more,
    }


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, values: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path
