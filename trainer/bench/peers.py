"""The same work by others, each as its own documentation says it is fastest; nothing of this trainer runs in them."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from trainer.bench.ours import ATTENTION, memory
from trainer.bench.work import ANSWER_SHARE, Row, item_lengths, random_model

IGNORED = -100
"""A label that does not count."""
ROW = 8192
"""Tokens of TRL's packed rows."""


def measure(row: Row) -> dict[str, Any]:
    """Figures by name, as ours.measure gives them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = time.monotonic()
    model: Any = random_model(row, device)
    experts = "eager" if "eager" in row.options else "grouped_mm"
    if model._can_set_experts_implementation():
        model.set_experts_implementation(experts)
    ready = time.monotonic() - start
    seconds, tokens = hf(row, model, device) if row.engine == "hf" else trl(row, model)
    later = statistics.median(seconds[1:])
    found = {"tokens": tokens, "seconds": later, "tokens_per_s": tokens / later, "ready_seconds": ready}
    return {**found, "first_seconds": seconds[0], **memory(device)}


def adapters(row: Row) -> LoraConfig:
    return LoraConfig(
        r=row.rank, lora_alpha=2 * row.rank, lora_dropout=row.dropout, target_modules=ATTENTION, task_type="CAUSAL_LM"
    )


def examples(row: Row, vocabulary: int) -> list[dict[str, list[int]]]:
    """A step's items: input_ids, and labels for the answers alone."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for length in item_lengths(row):
        ids, answer = torch.randint(0, vocabulary, (length,), generator=draw).tolist(), max(8, length // ANSWER_SHARE)
        found.append({"input_ids": ids, "labels": [IGNORED] * (length - answer) + ids[-answer:]})
    return found


# --------------------------------------------------------------------------------------------------------------
# a plain loop over transformers and PEFT, rows padded to the longest of a few items


def hf(row: Row, model: Any, device: torch.device) -> tuple[list[float], int]:
    """Seconds of each step, tokens of one: bf16 autocast over fp32 adapters, clipping, fused AdamW. eager is slow: its
    first step is one row."""
    words = dict(word.partition("=")[::2] for word in row.options.split())
    model.set_attn_implementation("sdpa")
    model = get_peft_model(model, adapters(row)).train()
    if "checkpointing" in words:
        model.enable_input_require_grads()
        model.get_base_model().gradient_checkpointing_enable()
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=2e-4, fused=device.type == "cuda")
    batches = list(padded(examples(row, model.config.vocab_size), int(words["padded"]), device))
    seconds = []
    for step in range(row.steps):
        chosen = batches[:1] if "eager" in words and step == 0 else batches
        begun = time.monotonic()
        for batch in chosen:
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(**batch, use_cache=False).loss / len(chosen)
            loss.backward()
        float(torch.nn.utils.clip_grad_norm_(learnt, 0.5))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - begun)
    return seconds, sum(item_lengths(row))


def padded(items: list[dict[str, list[int]]], size: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    for start in range(0, len(items), size):
        part = items[start : start + size]
        longest = max(len(item["input_ids"]) for item in part)
        filled = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
        rows: dict[str, list[list[int]]] = {name: [] for name in filled}
        for item in part:
            item = {**item, "attention_mask": [1] * len(item["input_ids"])}
            for name, value in filled.items():
                rows[name].append(item[name] + [value] * (longest - len(item[name])))
        yield {name: torch.tensor(value, device=device) for name, value in rows.items()}


# --------------------------------------------------------------------------------------------------------------
# TRL


def trl(row: Row, model: Any) -> tuple[list[float], int]:
    """Seconds of each step of SFTTrainer, tokens of one: rows packed best fit first over the items of all steps, with
    flash-attn 4 where it is installed."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.begun = 0.0
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.monotonic() - self.begun)

    model.set_attn_implementation("flash_attention_4" if find_spec("flash_attn") else "sdpa")
    items = examples(row, model.config.vocab_size)
    rows = -(-sum(item_lengths(row)) // ROW)
    clock = Clock()
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_steps=row.steps, per_device_train_batch_size=1, report_to="none",
        gradient_accumulation_steps=rows, packing=True, packing_strategy="bfd", max_length=max(ROW, row.longest),
        gradient_checkpointing="checkpointing" in row.options, bf16=True, learning_rate=2e-4, max_grad_norm=0.5,
        optim="adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch", save_strategy="no",
        logging_steps=1000, use_cpu=not torch.cuda.is_available(), dataset_num_proc=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(items * row.steps), peft_config=adapters(row),
        processing_class=words(), callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    return clock.seconds, round(trainer.state.log_history[-1]["num_tokens"] / row.steps)


def words() -> Any:
    """SFTTrainer wants a tokenizer, and never asks it anything: the items are token ids already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    known = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=known, pad_token="<pad>", eos_token="<end>")
