"""What a user types, from beginning to end: three stories that run side by side, since one start of torchrun takes
12 s of two cores. test_end_to_end looks at what they left."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.training.tiny import SMALL_VOCABULARY, small_tokenizer, tiny_dense, tiny_mixture
from tests.training.world import OTHER_WORDS, WORDS, Done, World, ended, frozen, make_world, send, wait_for, write_pairs

MAIN: dict[str, Any] = {
    "model": {"path": "dense-qwen3"},
    "data": {"path": "train.json", "format": "chameleons", "validation": {"path": "held.json"}},
    "lora": {"rank": 8, "dropout": 0.1},
    "optim": {"lr": 1e-2, "warmup_steps": 2},
    "precision": "fp32",
    "global_batch_size": 8,
    "evaluation": {"per_epoch": 1},
    "ops": {
        "log_every": 2,
        "checkpoint": {"every": "4 steps"},
        "generate": {"items": 2},
        "wandb": {"project": "kctl-tests"},
        "tensorboard": True,
    },
}
"""6 steps over Qwen3's own vocabulary."""
STORY: dict[str, Any] = {
    "model": {"path": "mixture"},
    "data": {"validation": {"path": "other.jsonl"}},
    "lora": {"rank": 8, "alpha": 64, "dropout": 0.1},
    "optim": {"lr": 2e-2, "schedule": "constant"},
    "precision": "fp32",
    "epochs": 10,
    "evaluation": {"per_epoch": 1, "patience": 2},
    "ops": {"checkpoint": {"every": "2 steps"}},
}
"""120 steps, were it not for the held-out answers, which are made of words that training never sees."""
FULL: dict[str, Any] = {
    "method": "full",
    "lora": None,
    "data": {"path": "chats.jsonl", "format": "messages", "validation": {"path": None, "ratio": 0.2}},
    "precision": "bf16",
    "epochs": 6,
    "evaluation": {"per_epoch": 1},
    "ops": {"checkpoint": {"every": "3 steps"}},
}
UNJUDGED: dict[str, Any] = {"data": {"validation": {"path": "empty.jsonl"}}, "evaluation": {"patience": 1}}
"""Its validation file has no usable item."""
DIVERGING: dict[str, Any] = {"lora": {"alpha": 1e30}, "precision": "bf16"}


@dataclass
class Stories:
    """What was typed and how it ended."""

    world: World
    done: dict[str, Done] = field(default_factory=dict)
    status: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_chats(world: World) -> None:
    """Conversations with two assistant turns."""
    said = [("user", "tell me why"), ("assistant", "never"), ("user", "why not"), ("assistant", "maybe the rain")]
    turns = [{"role": role, "content": content} for role, content in said]
    lines = [{"messages": [{"role": "system", "content": f"house {number}"}, *turns]} for number in range(20)]
    (world.data / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def uninterrupted(told: Stories) -> None:
    """The run of Qwen3's vocabulary, then the one that the interrupted run must equal."""
    world = told.world
    world.config("main", **MAIN)
    told.done["main"] = world.kctl("submit", "main", "--local", "--follow")
    world.config("whole", processes=1, **STORY)
    told.done["whole"] = world.kctl("submit", "whole", "--local", "--wait")


def interrupted(told: Stories) -> None:
    """Out of time after a few steps; then everything is killed; then cancelled; and on to the end."""
    world = told.world
    world.config("torn", processes=1, **STORY)
    told.done["late"] = out_of_time(world, "torn")
    told.status["late"] = world.status("torn")
    world.ok("submit", "torn", "--local")
    world.until_checkpoint("torn", 6)
    assert world.kill("torn") >= 4, "supervisor, launcher, torchrun, rank"
    told.status["killed"] = world.status("torn")
    told.done["resubmit"] = world.ok("submit", "torn", "--local")
    world.until_checkpoint("torn", 14)
    told.done["cancel"] = cancelled(world, "torn")
    told.done["wait cancelled"] = world.kctl("wait", "torn", "--local")
    told.status["cancelled"] = world.status("torn")
    told.done["torn"] = world.kctl("submit", "torn", "--local", "--follow")


def out_of_time(world: World, config: str) -> Done:
    """A submit whose max_hours is over in mid-training: the launcher sleeps until there is something to save."""
    late = world.start("submit", config, "--local", "--wait", "--set", "cluster.max_hours=0.004")
    wait_for(lambda: world.pids(config, "torch.distributed.run"))
    with ExitStack() as asleep:
        with frozen(world.pids(config, "-m\0trainer.launch\0")):
            world.until_checkpoint(config, 2)
            asleep.enter_context(frozen(world.ranks(config)))
        wait_for(lambda: list((world.root / "tmp").glob("kctl-*/stop")))
    return ended(late)


def cancelled(world: World, config: str) -> Done:
    """`kctl cancel` that meets a rank in mid-training."""
    with frozen(world.ranks(config)):
        cancel = world.start("cancel", config, "--local")
        wait_for(lambda: list((world.root / "tmp").glob("kctl-*/stop")))
    return ended(cancel)


def others(told: Stories) -> None:
    """All parameters under ZeRO-3 on two nodes, one of which loses its rank; then a run that diverges."""
    world = told.world
    world.config("full", nodes=2, processes=1, **FULL)
    follower = world.start("submit", "full", "--local", "--follow")
    world.until_checkpoint("full", 3)
    (rank,) = world.ranks("full", node=1)
    send(rank, signal.SIGKILL)
    told.done["full"] = ended(follower)
    world.config("diverging", processes=1, **DIVERGING)
    told.done["diverging"] = world.kctl("submit", "diverging", "--local", "--wait")
    told.status["diverging"] = world.status("diverging")
    world.config("unjudged", processes=1, **UNJUDGED)
    told.done["unjudged"] = world.kctl("submit", "unjudged", "--local", "--wait")


def tell_all(root: Path, qwen3_folder: Path) -> Iterator[Stories]:
    """A world below `root` and everything that happens in it."""
    with make_world(root) as world:
        write_pairs(world.data / "train.jsonl", WORDS, 48)
        write_pairs(world.data / "other.jsonl", OTHER_WORDS, 9)
        (world.data / "empty.jsonl").write_text(json.dumps({"prompt": "why", "completion": " "}) + "\n")
        write_chats(world)
        tokenizer = small_tokenizer(world.root / "tokenizer", [world.data / "train.jsonl", world.data / "other.jsonl"])
        tiny_dense(world.models / "dense-qwen3", tokenizer=qwen3_folder)
        tiny_dense(world.models / "dense", tokenizer=tokenizer, vocabulary=SMALL_VOCABULARY)
        tiny_mixture(world.models / "mixture", tokenizer=tokenizer, vocabulary=SMALL_VOCABULARY)
        told = Stories(world)
        with ThreadPoolExecutor() as pool:
            for story in [pool.submit(tell, told) for tell in (interrupted, uninterrupted, others)]:
                story.result()
        yield told
