"""`python -m trainer.export`: the adapter as plain linear layers, read back by PEFT's conversion of old adapters."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.planted_secrets import PLANTED
from tests.training.finished_runs import FinishedRun, finished_run, remanifest
from trainer.adapters import verify_adapter
from trainer.after.deltas import empty_model, pairs_of
from trainer.after.finished import finished
from trainer.base_model import base_digest
from trainer.errors import TrainerError
from trainer.export import compare, export, linear_layers
from trainer.merge import merge
from trainer.schema.redaction import HIDDEN

IDS = torch.randint(0, 100, (1, 17), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def volumes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets this process see a run's volumes, as a pod of it does."""

    def see(made: FinishedRun) -> FinishedRun:
        for name in ("MODELS", "DATA", "RUNS"):
            monkeypatch.setenv(f"TRAINER_{name}", made.environ[f"TRAINER_{name}"])
        return made

    return see


def exported(made: FinishedRun) -> Path:
    export(finished(made.run, False), made.folder.exported)
    return made.folder.exported


def linear_model(base: Path) -> torch.nn.Module:
    """The base's weights as transformers had them before 5: a linear layer an expert and projection."""
    root = torch.nn.Module()
    for name, weight in sorted(tensors(base).items()):
        if weight.ndim == 2:
            at, parts = root, name.removesuffix(".weight").split(".")
            for part in parts[:-1]:
                if not hasattr(at, part):
                    at.add_module(part, torch.nn.Module())
                at = at.get_submodule(part)
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight.data = weight
            at.add_module(parts[-1], layer)
    return root


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("qwen3_moe", {"rank": 4, "alpha": 8, "expert_rank": 16}),
        ("qwen3_moe", {"rank": 16, "expert_rank": 8, "rslora": True}),
        ("qwen2_moe", {"rank": 8, "expert_rank": 8}),
        ("qwen3", {"rank": 4, "rslora": True}),
    ],
)
def test_on_linear_experts_peft_merges_what_we_merge(
    family: str, lora: dict[str, Any], tmp_path: Path, volumes: Any
) -> None:
    made = volumes(finished_run(tmp_path, family, lora=lora))
    folder = exported(made)
    verify_adapter(folder)
    config = LoraConfig.from_pretrained(folder)
    config.task_type = config.base_model_name_or_path = None  # the bare layers cannot generate
    wrapped = get_peft_model(linear_model(made.base), config)
    result = set_peft_model_state_dict(wrapped, load_file(folder / "adapter_model.safetensors"))
    assert not result.unexpected_keys and not [name for name in result.missing_keys if "lora" in name]
    theirs = wrapped.merge_and_unload().state_dict()
    run = finished(made.run, False)
    merge(run, made.folder.merged)
    ours, base = tensors(made.folder.merged), tensors(made.base)
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() <= 1e-6, name
    adapted = {name for name in ours if not torch.equal(ours[name], base[name])}
    assert len(adapted) == len(load_file(folder / "adapter_model.safetensors")) / 2


def test_pefts_conversion_of_old_adapters_reads_it(tmp_path: Path, volumes: Any) -> None:
    """What PEFT does today with adapters of linear experts; it knows one rank for all experts and layers."""
    made = volumes(finished_run(tmp_path, "mixtral", lora={"rank": 8, "expert_rank": 8}))
    folder = exported(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(made.base)
        loaded = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        ours, theirs = loaded(input_ids=IDS).logits, made.merged_by_peft()(input_ids=IDS).logits
        untrained = AutoModelForCausalLM.from_pretrained(made.base)(input_ids=IDS).logits
    assert (ours - theirs).abs().max() <= 2e-5
    assert (untrained - theirs).abs().max() > 0.1


def test_what_vllm_reads(tmp_path: Path, volumes: Any) -> None:
    made = volumes(finished_run(tmp_path, "qwen3_moe", lora={"rank": 16, "alpha": 32, "expert_rank": 8}))
    folder = exported(made)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_parameters"]) == (16, 32, None)
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["rank_pattern"] == {
        rf"model\.layers\.\d+\.mlp\.experts\.\d+\.{name}_proj": 8 for name in ("down", "gate", "up")
    }
    state = load_file(folder / "adapter_model.safetensors")
    assert len(state) == 2 * 2 * (4 + 8 * 3)
    gate = "base_model.model.model.layers.1.mlp.experts.7.gate_proj.lora"
    assert state[f"{gate}_A.weight"].shape == (8, 64) and state[f"{gate}_B.weight"].shape == (32, 8)


# --------------------------------------------------------------------------------------------------------------
# a mismatch is never silent


def _swap(state: dict[str, torch.Tensor], one: str, other: str) -> None:
    stem = "base_model.model.model.layers.0.mlp.experts."
    first, second = stem + one, stem + other
    state[first], state[second] = state[second].clone(), state[first].clone()


DAMAGES: dict[str, Any] = {
    "gate for up": lambda state: _swap(state, "2.gate_proj.lora_B.weight", "2.up_proj.lora_B.weight"),
    "another expert's A": lambda state: _swap(state, "2.gate_proj.lora_A.weight", "3.gate_proj.lora_A.weight"),
    "another expert's B": lambda state: _swap(state, "0.down_proj.lora_B.weight", "7.down_proj.lora_B.weight"),
    "one value": lambda state: state["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][0, 0].add_(1),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinishedRun, Path]:
    """A run and its export, which nobody changes."""
    made = finished_run(tmp_path_factory.mktemp("sound"), "qwen3_moe")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MODELS", "DATA", "RUNS"):
            patch.setenv(f"TRAINER_{name}", made.environ[f"TRAINER_{name}"])
        return made, exported(made)


def recheck(made: FinishedRun, folder: Path) -> None:
    """What export does before its folder appears."""
    model, weights = empty_model(made.base), load_file(made.folder.adapter / "adapter_model.safetensors")
    for pair in pairs_of(empty_model(made.base), made.folder.adapter):
        a, b = weights[pair.a], weights[pair.b]
        compare(folder, pair, a, b, [name for name, _, _ in linear_layers(model, pair, a, b)])


def _expert_major(state: dict[str, torch.Tensor], made: FinishedRun) -> None:
    """The layout that others once wrote: B's columns by expert, not by rank."""
    stem = "base_model.model.model.layers.0.mlp.experts"
    stored = load_file(made.folder.adapter / "adapter_model.safetensors")[f"{stem}.lora_B.weight"]
    for expert in range(8):
        state[f"{stem}.{expert}.down_proj.lora_B.weight"] = stored.view(64, 8, 16)[:, expert].clone()


@pytest.mark.parametrize("damage", [None, *DAMAGES, "expert-major"])
def test_a_form_that_does_something_else_is_refused(
    damage: str | None, sound: tuple[FinishedRun, Path], tmp_path: Path
) -> None:
    made, folder = sound
    if damage is None:
        recheck(made, folder)
        return
    state = load_file(folder / "adapter_model.safetensors")
    if damage == "expert-major":
        _expert_major(state, made)
    else:
        DAMAGES[damage](state)
    save_file(state, tmp_path / "adapter_model.safetensors")
    shutil.copyfile(folder / "adapter_config.json", tmp_path / "adapter_config.json")
    with pytest.raises(TrainerError, match=r"the export is not what .* does: serve the merged model instead"):
        recheck(made, tmp_path)


def test_nothing_to_export(tmp_path: Path, volumes: Any) -> None:
    with pytest.raises(TrainerError, match="method full trains the whole model: there is no adapter"):
        exported(volumes(finished_run(tmp_path, method="full", lora=None)))


def test_a_traceback_and_what_libraries_say_lose_credentials(tmp_path: Path) -> None:
    """As in a pod: what the launcher does to a training's log the filter does to a program's."""
    made, (words, secret) = finished_run(tmp_path), PLANTED["a repository"]
    config = json.loads((made.base / "config.json").read_text())
    (made.base / "config.json").write_text(json.dumps({**config, "hidden_act": words}))
    remanifest(made.folder.adapter, base=base_digest(made.base))
    done = made.program("trainer.pod.filtered", "-m", "trainer.export", made.run)
    assert done.returncode == 1 and "Traceback" in done.stdout and done.stderr == ""
    assert HIDDEN in done.stdout.splitlines()[-1] and secret not in done.stdout
    done = made.program("trainer.pod.filtered", "-m", "trainer.export", words)  # no run's name
    assert done.returncode == 2 and done.stdout.startswith("error: ")
    assert HIDDEN in done.stdout and secret not in done.stdout
