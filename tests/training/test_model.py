"""The base model comes whole, in the run's precision and frozen, or is refused by the name of the file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.training.tiny import config_of, tiny_dense, tiny_mixture, train_config
from trainer.base_model import model_folder
from trainer.errors import ConfigError
from trainer.model import audit, load_model
from trainer.schema.parameters import shape_of, total_parameters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dense(tmp_path_factory.mktemp("dense"), vocabulary=300)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mixture(tmp_path_factory.mktemp("mixture"), vocabulary=300)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_base_model_is_frozen_in_the_runs_precision(dense: Path, precision: str, dtype: torch.dtype) -> None:
    model = load_model(train_config(precision=precision), dense, CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "kctl"


def test_method_full_trains_everything(mixture: Path) -> None:
    train = train_config(method="full")
    model = load_model(train, mixture, CPU)
    counts = audit(model, train)
    assert counts.trained == counts.total == total_parameters(shape_of(config_of("qwen3_moe", 300).to_dict()))
    assert counts.families["other"] > 0
    model.lm_head.weight.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"method full: .* are not trained"):
        audit(model, train)


def test_reference_kernels_run_the_experts_plainly(mixture: Path) -> None:
    model = load_model(train_config(ops={"kernels": "reference"}), mixture, CPU)
    assert model.config._experts_implementation == "eager"


def test_a_hub_model_comes_from_the_cache_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    train = train_config(model={"hub": {"id": "some/model", "revision": commit}})
    with pytest.raises(ConfigError, match=r"some/model at 0123.*: not in the cache, and HF_HUB_OFFLINE is set"):
        model_folder(train, tmp_path)
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert model_folder(train, tmp_path) == snapshot


def test_a_hub_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.model\.hub: a/b/c at x"):
        model_folder(train_config(model={"hub": {"id": "a/b/c", "revision": "x"}}), tmp_path)


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _config_text(text: str) -> Any:
    return lambda folder: (folder / "config.json").write_text(text)


def _config_with(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _lost_shard(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _bad_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def _lost_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_without_config, "config.json: No such file"),
        (_config_text("{"), "config.json: no JSON"),
        (_config_text("[]"), "config.json: has no model_type"),
        (_config_text('{"model_type": "nonesuch", "auto_map": {"AutoConfig": "x.Y"}}'), "model_type 'nonesuch'"),
        (_config_text('{"model_type": "clip"}'), "'clip' is not a causal language model"),
        (_config_with(quantization_config={"quant_method": "awq"}), "quantised weights are not trained here"),
        (_config_with(hidden_size=128), "cannot be loaded"),
        (_config_with(hidden_size="many"), "config.json: model_type 'qwen3'"),
        (_pickled, r"no \*.safetensors"),
        (_truncated, "model.safetensors: .* bytes, its header says"),
        (_garbage, "model.safetensors: no safetensors header"),
        (_lost_shard, "model-00002-of-00002.safetensors: No such file"),
        (_bad_index, "model.safetensors.index.json: no index of weight files"),
        (_lost_tensor, r"1 weights are missing \(model.norm.weight\)"),
    ],
)
def test_a_model_that_cannot_work_is_refused_by_file(tmp_path: Path, damage: Any, sentence: str) -> None:
    folder = tiny_dense(tmp_path / "model", vocabulary=50)
    damage(folder)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_model(train_config(), folder, CPU)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
