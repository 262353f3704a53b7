"""What we save is what plain PEFT (or transformers) loads: the same logits, and every damage is named."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.tiny import DENSE, MIXTURES, awaken, tiny_dense, train_config
from trainer import whole_model
from trainer.adapters import adapter_state, model_card, save_adapter, verify_adapter
from trainer.base_model import base_digest
from trainer.errors import CheckpointError
from trainer.model import add_adapters, load_model, trained_parameters

CPU = torch.device("cpu")
IDS = torch.randint(0, 100, (1, 17), generator=torch.Generator().manual_seed(5))
DETAILS = {
    "step": 3,
    "steps": 9,
    "trained": 1234,
    "total": 56789,
    "before": {"loss": 3.5, "answer_loss": 4.7},
    "after": {"loss": 2.9, "answer_loss": 4.2},
    "losses": {"loss": 2.9},
    "data": "0d",
}


def saved(root: Path, train: Any, family: str = "qwen3") -> tuple[Path, Path, Any]:
    """(base folder, adapter folder, the trained model) of a tiny run of `family`."""
    base = tiny_dense(root / "base", family=family, vocabulary=100)
    model = load_model(train, base, CPU)
    if train.lora is not None:
        model = add_adapters(model, train)
        awaken(model)
    masters = {name: parameter.detach() for name, parameter in trained_parameters(model)}
    save_adapter(model, adapter_state(model, masters).items(), root / "adapter", train, "tiny-0", DETAILS, base)
    return base, root / "adapter", model.eval()


def plain_peft(base: Path, folder: Path) -> Any:
    """As a user loads it; nothing may be unexpected or missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # said by PEFT 0.21 of every pattern that names a parameter; the ranks apply all the same
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()


@pytest.mark.parametrize("family", DENSE + MIXTURES)
def test_plain_peft_gives_the_same_logits_and_so_does_the_merge(family: str, tmp_path: Path) -> None:
    train = train_config(lora={"rank": 4, "alpha": 8, "expert_rank": 8, "dropout": 0.05})
    base, folder, model = saved(tmp_path, train, family)
    verify_adapter(folder)
    with torch.no_grad():
        ours = model(input_ids=IDS).logits
        loaded = plain_peft(base, folder)
        theirs = loaded(input_ids=IDS).logits
        untrained = AutoModelForCausalLM.from_pretrained(base)(input_ids=IDS).logits
        merged = loaded.merge_and_unload()(input_ids=IDS).logits
    assert (ours - theirs).abs().max() <= 1e-6
    assert (ours - merged).abs().max() <= 1e-5
    assert (ours - untrained).abs().max() > 0.1


@pytest.mark.parametrize("targets", [["gate_proj", "up_proj", "down_proj"], ["down_proj"], ["q_proj", "down_proj"]])
@pytest.mark.parametrize("family", ["qwen3_moe", "qwen2_moe"])
def test_any_set_of_targets_of_a_mixture_loads(family: str, targets: list[str], tmp_path: Path) -> None:
    base, folder, model = saved(tmp_path, train_config(lora={"targets": targets}), family)
    with torch.no_grad():
        assert (plain_peft(base, folder)(input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max() <= 1e-6


def test_rslora_loads_at_its_scale(tmp_path: Path) -> None:
    base, folder, model = saved(tmp_path, train_config(lora={"rslora": True, "expert_rank": 16}), "qwen3_moe")
    with torch.no_grad():
        assert (plain_peft(base, folder)(input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max() <= 1e-6


def test_values_come_from_the_fp32_masters(tmp_path: Path) -> None:
    base = tiny_dense(tmp_path / "base", vocabulary=100)
    train = train_config(precision="bf16")
    model = add_adapters(load_model(train, base, CPU), train)
    masters = {name: parameter.detach() + 1 / 3 for name, parameter in trained_parameters(model)}
    state = adapter_state(model, masters)
    assert sorted(state) == sorted(name.replace(".default.", ".") for name in masters)
    for name, master in masters.items():
        assert torch.equal(state[name.replace(".default.", ".")], master)
    del masters[next(iter(masters))]
    with pytest.raises(CheckpointError, match="no master weights for base_model"):
        adapter_state(model, masters)


@pytest.mark.parametrize("file_bytes", [whole_model.FILE_BYTES, 40_000])
@pytest.mark.parametrize("family", ["qwen3", *MIXTURES])
def test_method_full_saves_a_model_that_transformers_loads(
    family: str, file_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_model, "FILE_BYTES", file_bytes)
    train = train_config(method="full", precision="bf16")
    base = tiny_dense(tmp_path / "base", family=family, vocabulary=100)
    (base / "tokenizer.json").write_text("{}")
    model = load_model(train, base, CPU)
    masters = {name: parameter.detach() * 1.5 for name, parameter in trained_parameters(model)}
    folder = tmp_path / "adapter"
    save_adapter(model, masters.items(), folder, train, "full-0", DETAILS, base)
    verify_adapter(folder)
    assert (folder / "tokenizer.json").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.config.use_cache and loaded.dtype == torch.bfloat16
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, masters[name]), name
    files = sorted(folder.glob("*.safetensors"))
    held = [name for path in files for name in load_file(path)]
    assert sorted(held) == sorted(load_file(base / "model.safetensors"))
    assert (len(files) == 1) == (file_bytes > 40_000) and max(path.stat().st_size for path in files) < 2 * file_bytes


# --------------------------------------------------------------------------------------------------------------
# the folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    train = train_config(lora={"dropout": 0.05}, model={"path": "some/tiny model"})
    return saved(tmp_path_factory.mktemp("saved"), train)[:2]


def test_the_config_says_what_was_trained(adapter: tuple[Path, Path]) -> None:
    config = json.loads((adapter[1] / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.05)
    assert config["base_model_name_or_path"] == "some/tiny model"
    assert (config["inference_mode"], config["task_type"], config["peft_type"]) == (True, "CAUSAL_LM", "LORA")


def test_a_mixtures_dropout_is_in_the_manifest_and_the_card(tmp_path: Path) -> None:
    # PEFT refuses to load dropout beside adapted parameters, so its own file cannot say it
    _, folder, _ = saved(tmp_path, train_config(lora={"dropout": 0.05, "expert_rank": 16}), "qwen3_moe")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_dropout"] == 0.0
    assert config["rank_pattern"] == {"mlp.experts.down_proj": 16, "mlp.experts.gate_up_proj": 16}
    assert config["alpha_pattern"] == {"mlp.experts.down_proj": 32, "mlp.experts.gate_up_proj": 32}
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert (manifest["lora_dropout"], manifest["losses"], manifest["data"]) == (0.05, DETAILS["losses"], "0d")
    card = (folder / "README.md").read_text()
    assert "dropout 0.05 while training" in card and "they name parameters, and they apply" in card


def test_the_same_adapter_gives_the_same_bytes(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    train = train_config(lora={"dropout": 0.05}, model={"path": "some/tiny model"})
    folder = saved(tmp_path, train)[1]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in adapter[1].iterdir()
    }


def test_an_adapter_replaces_the_older_one_whole(tmp_path: Path) -> None:
    _, folder, model = saved(tmp_path, train_config())
    (folder / "left-over").write_text("x")
    state = adapter_state(model, dict(model.named_parameters()))
    save_adapter(model, state.items(), folder, train_config(), "tiny-0", {"step": 4}, tmp_path / "base")
    assert sorted(path.name for path in folder.iterdir()) == [
        "MANIFEST.json",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
    assert json.loads((folder / "MANIFEST.json").read_text())["step"] == 4


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_the_card_is_valid_and_its_code_runs(adapter: tuple[Path, Path]) -> None:
    base, folder = adapter
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "some/tiny model",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "kctl"],
    }
    assert "| answer_loss | 4.7000 | 4.2000 |" in body
    assert "- steps: 3 of 9, 64 items each" in body and "trained parameters: 1,234 beside 56,789" in body
    code = body.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 5
    code = code.replace("THIS_FOLDER", str(folder)).replace("some/tiny model", str(base))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["model"](input_ids=IDS).logits.shape == (1, 17, 100)


def test_the_card_names_a_hub_model_and_its_revision() -> None:
    hub = {"hub": {"id": "Org/Model", "revision": "abc123"}}
    text = model_card(train_config(model=hub), "tiny-0", {"step": 1, "after": {}})
    assert 'base_model: "Org/Model"' in text and "at revision abc123" in text and "held-out" not in text
    assert "held-out" in model_card(train_config(method="full"), "tiny-0", {"step": 1, "after": {"loss": 1.0}})


def _unlink(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _append(name: str) -> Any:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"x")


def _flip(name: str) -> Any:
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return flip


def _manifest(text: str) -> Any:
    return lambda folder: (folder / "MANIFEST.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_unlink("MANIFEST.json"), "MANIFEST.json: No such file"),
        (_unlink("adapter_config.json"), "adapter_config.json: listed in MANIFEST.json but missing"),
        (_append("README.md"), "README.md: .* bytes, MANIFEST.json says"),
        (_flip("adapter_model.safetensors"), "adapter_model.safetensors: its sha256 is not"),
        (_manifest("{"), "no manifest of an adapter"),
        (_manifest("[]"), "no manifest of an adapter"),
        (_manifest('{"files": {"x": {"size": null}}}'), "no manifest of an adapter"),
        (_manifest('{"files": {"../x": {"size": 1, "sha256": ""}}}'), "listed in MANIFEST.json but missing"),
    ],
)
def test_damage_is_named(adapter: tuple[Path, Path], tmp_path: Path, damage: Any, sentence: str) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter[1], folder)
    verify_adapter(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence):
        verify_adapter(folder)


def test_the_digest_tells_base_models_apart(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    base, folder = adapter
    digest = base_digest(base)
    assert json.loads((folder / "MANIFEST.json").read_text())["base"] == digest and len(digest) == 64
    copied = tmp_path / "copy"
    shutil.copytree(base, copied)
    assert base_digest(copied) == digest
    weights = copied / "model.safetensors"
    content = weights.read_bytes()
    for place in (-1, len(content) // 2, 20):
        changed = bytearray(content)
        changed[place] ^= 1
        weights.write_bytes(changed)
        assert base_digest(copied) != digest
    weights.write_bytes(content)
    weights.rename(copied / "other.safetensors")
    assert base_digest(copied) != digest
