"""What is asked of a plan: config, model, card and lengths, and where each of them is from."""

import contextlib
import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from kctl import console
from kctl.config.profile import ClusterProfile
from kctl.config.run_config import LoadedConfig, load
from kctl.errors import UsageError
from kctl.plan.earlier import Earlier, Measured, earlier
from kctl.plan.lengths import Lengths, guessed, of_data, of_file, of_report, told
from trainer.errors import ConfigError
from trainer.schema.config import TrainConfig
from trainer.schema.gpus import GPUS, Gpu, Machine
from trainer.schema.parameters import Shape, known_models, known_shape, shape_of


@dataclass(frozen=True)
class Asked:
    """What a command line says beside the config."""

    sets: tuple[str, ...] = ()
    gpu: str | None = None
    nodes: int | None = None
    data: Path | None = None
    stats: Path | None = None
    items: int | None = None
    mean_tokens: float | None = None
    model: str | None = None

    def checked(self) -> "Asked":
        """UsageError where flags do not go together."""
        if (self.items is None) != (self.mean_tokens is None):
            raise UsageError("--items and --mean-tokens go together: say how many items, and how long they are")
        if sum((self.data is not None, self.stats is not None, self.items is not None)) > 1:
            raise UsageError("--data, --stats and --items each say how long items are: name one of them")
        return self


@dataclass(frozen=True)
class Question:
    """What is planned: a run of a model on a machine, with what is known of its data."""

    loaded: LoadedConfig
    shape: Shape
    model: str
    """Where the shape is from."""
    machine: Machine | None
    """None: a run on CPUs, of which an earlier run alone tells time and memory."""
    lengths: Lengths
    measured: Measured | None

    @property
    def train(self) -> TrainConfig:
        return self.loaded.config.train

    @property
    def step_items(self) -> int:
        """Items of a step: all, where there are fewer than global_batch_size."""
        size = self.train.global_batch_size
        return min(size, self.lengths.items or size)

    @property
    def ranks(self) -> int:
        return self.machine.ranks if self.machine else self.loaded.config.cluster.ranks


def question(config: str, asked: Asked) -> Question:
    """The config, found and checked as every verb does, and what is known of the rest."""
    nodes = [] if asked.nodes is None else [f"cluster.nodes={asked.nodes}"]
    loaded = load(config, [*asked.sets, *nodes])
    before = earlier(loaded)
    shape, source = _shape(loaded, asked.model)
    measured = before.measured if asked.gpu is None else None
    return Question(loaded, shape, source, _machine(loaded, asked.gpu), _lengths(loaded, asked, before), measured)


def _shape(loaded: LoadedConfig, model: str | None) -> tuple[Shape, str]:
    """Of --model, a folder or a name; else of the config's model, if it is a common one."""
    if model is not None and Path(model).is_dir():
        path = Path(model) / "config.json"
        try:
            return shape_of(json.loads(path.read_text(encoding="utf-8"))), str(path)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}: --model takes a model's folder, or a name") from None
        except (ValueError, AttributeError, RecursionError) as error:
            raise UsageError(f"{path}: no config.json of a model: {error}") from None
        except ConfigError as error:
            raise UsageError(f"{path.parent}/{error}") from None
    own = loaded.config.train.model
    name = model or own.path or (own.hub.id if own.hub else "")
    shape = known_shape(name)
    last = name.rstrip("/").rpartition("/")[2]
    if shape is None:
        near = difflib.get_close_matches(last, known_models(), n=3, cutoff=0.4) or list(known_models())[:3]
        raise UsageError(
            f"model {name!r}: its sizes are not known here: add --model FOLDER, where its config.json is, or --model "
            f"NAME of a model with the same sizes, e.g. {', '.join(near)} (there are {len(known_models())})"
        )
    return shape, f"the shipped sizes of {last}"


def _machine(loaded: LoadedConfig, name: str | None) -> Machine | None:
    cluster, profile = loaded.config.cluster, loaded.profile
    if cluster.gpus_per_node == 0:
        if name is not None:
            more = "add --set cluster.gpus_per_node=1 --set cluster.processes_per_node=null"
            raise UsageError(f"--gpu {name}: {loaded.path} runs on CPUs (cluster.gpus_per_node: 0): {more}")
        return None
    return Machine(card(profile, name), cluster.nodes, cluster.gpus_per_node, rdma=bool(profile.rdma))


def card(profile: ClusterProfile, name: str | None) -> Gpu:
    """The card that `name` or the profile means; of one that is not known the speed is 0."""
    if name is not None:
        if name not in GPUS:
            raise UsageError(f"--gpu {name}: there are: {', '.join(GPUS)}")
        return GPUS[name]
    if profile.gpu is None:
        raise UsageError(f"the cluster profile has no GPUs (gpu: null): add --gpu, one of {', '.join(GPUS)}")
    model, memory = (profile.gpu.model or "").lower(), profile.gpu.memory_gib
    alike = [gpu for gpu in GPUS.values() if gpu.name.partition("-")[0] in model]
    near = [gpu for gpu in alike if abs(int(gpu.name.partition("-")[2]) - memory) <= 4]
    return near[0] if near else Gpu(profile.gpu.model or "GPU", memory, 0.0, 0.0)


def _lengths(loaded: LoadedConfig, asked: Asked, before: Earlier) -> Lengths:
    train = loaded.config.train
    if asked.stats is not None:
        return of_file(asked.stats, train)
    if asked.data is not None:
        model = Path(asked.model) if asked.model is not None else None
        return of_data(asked.data, train.data, model, console.say)
    if asked.items is not None and asked.mean_tokens is not None:
        return told(train, asked.items, asked.mean_tokens)
    if before.report is not None:
        run, report = before.report
        with contextlib.suppress(ValueError, TypeError, ArithmeticError):  # a damaged one is as if it were not there
            return of_report(report, f"the earlier run {run}")
    return guessed(train)
