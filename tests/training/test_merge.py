"""`python -m trainer.merge`: what plain PEFT merges, in the base's own files, whole or not at all.

Its memory is measured in tests/faults.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.training.finished_runs import FinishedRun, finished_run, remanifest, write_adapter
from trainer.adapters import verify_adapter
from trainer.after.finished import finished
from trainer.base_model import base_digest
from trainer.errors import TrainerError
from trainer.merge import main, merge
from trainer.schema.loading import read_run_file

IDS = torch.randint(0, 100, (1, 17), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def volumes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets this process see a run's volumes, as a pod of it does."""

    def see(made: FinishedRun) -> FinishedRun:
        for name in ("MODELS", "DATA", "RUNS"):
            monkeypatch.setenv(f"TRAINER_{name}", made.environ[f"TRAINER_{name}"])
        return made

    return see


def merged(made: FinishedRun) -> Path:
    """The run's adapter merged in this process."""
    merge(finished(made.run, False), made.folder.merged)
    return made.folder.merged


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "qwen2_moe", "mixtral"])
def test_the_merge_is_plain_pefts(family: str, tmp_path: Path, volumes: Any) -> None:
    made = volumes(finished_run(tmp_path, family))
    folder = merged(made)
    verify_adapter(folder)
    assert (folder / "tokenizer.json").is_file() and not list(made.folder.root.glob(".*"))
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    theirs = made.merged_by_peft()
    for (name, ours), (other, parameter) in zip(model.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        assert (ours - parameter).abs().max() <= 1e-6, name
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(made.base)(input_ids=IDS).logits
        assert (model(input_ids=IDS).logits - theirs(input_ids=IDS).logits).abs().max() <= 1e-5
        assert (model(input_ids=IDS).logits - base).abs().max() > 0.1
    shards = sorted(path.name for path in made.base.glob("*.safetensors"))
    assert len(shards) > 1 and shards == sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("qwen3_moe", {"rslora": True, "expert_rank": 16}),
        ("qwen3_moe", {"targets": ["down_proj"], "expert_rank": 8}),
        ("qwen2_moe", {"targets": ["gate_proj", "up_proj"], "expert_rank": 8}),
        ("qwen3", {"rslora": True, "targets": ["q_proj", "down_proj"]}),
    ],
)
def test_any_targets_and_rslora(family: str, lora: dict[str, Any], tmp_path: Path, volumes: Any) -> None:
    made = volumes(finished_run(tmp_path, family, lora=lora))
    model = AutoModelForCausalLM.from_pretrained(merged(made))
    theirs = dict(made.merged_by_peft().named_parameters())
    changed = set()
    base = dict(AutoModelForCausalLM.from_pretrained(made.base).named_parameters())
    for name, ours in model.named_parameters():
        assert (ours - theirs[name]).abs().max() <= 1e-6, name
        if not torch.equal(ours, base[name]):
            changed.add(name.split(".")[-1] if "experts" in name else name.split(".")[-2])
    assert changed  # of what was not named, every bit stays
    assert "k_proj" not in changed or "targets" not in lora


def test_bf16_weights_are_rounded_once(tmp_path: Path, volumes: Any) -> None:
    made = volumes(finished_run(tmp_path, "qwen3_moe", dtype=torch.bfloat16, precision="bf16"))
    ours, exact = tensors(merged(made)), made.merged_by_peft().state_dict()
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.gate.weight"):
        assert ours[name].dtype is torch.bfloat16
        assert torch.equal(ours[name], exact[name].bfloat16()), name


def test_a_base_whose_experts_are_stored_fused(tmp_path: Path, volumes: Any) -> None:
    made = volumes(finished_run(tmp_path, "qwen3_moe"))
    model = AutoModelForCausalLM.from_pretrained(made.base)
    shutil.rmtree(made.base)
    model.save_pretrained(made.base, save_original_format=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made.base / name).write_text("{}")
    remanifest(made.folder.adapter, base=base_digest(made.base))
    assert "model.layers.0.mlp.experts.gate_up_proj" in tensors(made.base)
    theirs = made.merged_by_peft()
    for name, ours in tensors(merged(made)).items():
        assert (ours - theirs.state_dict()[name]).abs().max() <= 1e-6, name


# --------------------------------------------------------------------------------------------------------------
# killed, repeated


def test_a_killed_merge_goes_on(tmp_path: Path, volumes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = volumes(finished_run(tmp_path, "qwen3_moe", shard="40KB"))
    argv = [sys.executable, "-m", "trainer.merge", made.run]
    process = subprocess.Popen(argv, env=made.environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("merged 3 of "):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_ino for path in (made.folder.root / ".merged.part").glob("model-*")}
    assert len(kept) >= 3 and not made.folder.merged.exists()
    there = {path.name: path.stat().st_ino for path in merged(made).iterdir()}
    said = capsys.readouterr().out.splitlines()
    assert "are there from a merge that was stopped" in said[0] and said[-1] == f"done: {made.folder.merged}"
    assert kept.items() <= there.items()
    verify_adapter(made.folder.merged)
    theirs = made.merged_by_peft()
    for name, ours in AutoModelForCausalLM.from_pretrained(made.folder.merged).named_parameters():
        assert (ours - theirs.get_parameter(name)).abs().max() <= 1e-6, name
    merged(made)
    assert f"already there: {made.folder.merged}\n" in capsys.readouterr().out


def test_a_new_adapter_starts_again(tmp_path: Path, volumes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = volumes(finished_run(tmp_path))
    part, first = made.folder.root / ".merged.part", tensors(merged(made))
    part.mkdir()
    shutil.copyfile(made.folder.merged / "MANIFEST.json", part / "MANIFEST.json")
    (part / next(made.base.glob("*.safetensors")).name).write_bytes(b"of the old adapter")
    write_adapter(made, read_run_file(made.folder.config).train, seed=4)
    second = tensors(merged(made))
    verify_adapter(made.folder.merged)
    assert "are there" not in capsys.readouterr().out and not list(made.folder.root.glob(".*"))
    assert any(not torch.equal(second[name], first[name]) for name in first)


# --------------------------------------------------------------------------------------------------------------
# refusals


def _base(name: str) -> Any:
    def change(made: FinishedRun) -> None:
        path = next(made.base.glob("*.safetensors"))
        weights = load_file(path)
        weights[next(iter(weights))] += 1
        save_file(weights, path, metadata={"format": "pt"})

    return change


def _adapter(change: Any) -> Any:
    """Changes the adapter's tensors, and the manifest with them."""

    def changed(made: FinishedRun) -> None:
        path = made.folder.adapter / "adapter_model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path)
        remanifest(made.folder.adapter)

    return changed


def _key(weights: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(weights) if part in name)


def _pickle(made: FinishedRun) -> None:
    folder = made.folder.adapter
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    remanifest(folder)


def _pickled_base(made: FinishedRun) -> None:
    for path in made.base.glob("model*"):
        path.unlink()
    torch.save({}, made.base / "pytorch_model.bin")


def _config(**changes: Any) -> Any:
    def changed(made: FinishedRun) -> None:
        path = made.base / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return changed


def _adapter_config(**changes: Any) -> Any:
    def changed(made: FinishedRun) -> None:
        path = made.folder.adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        remanifest(made.folder.adapter)

    return changed


def _huge(made: FinishedRun) -> None:
    """A weight file that is larger than the free disk, though hardly anything of it is stored."""
    size = shutil.disk_usage(made.root).free + (1 << 30)
    header = json.dumps({"spare": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path = made.base / "model-spare.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    index = made.base / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"]["spare"] = path.name
    index.write_text(json.dumps(value))
    remanifest(made.folder.adapter, base=base_digest(made.base))


@pytest.mark.parametrize(
    ("damage", "code", "sentence"),
    [
        (_base(""), 2, "was trained on other weights than .*/models/tiny holds now: put that base model back"),
        (_adapter(lambda w: w.pop(_key(w, "lora_A"))), 6, "lora_A.weight is missing"),
        (_adapter(lambda w: w.update(extra=torch.ones(1))), 6, "extra is nothing that adapter_config.json names"),
        (_adapter(lambda w: w.update({_key(w, "q_proj.lora_B"): torch.ones(3, 3)})), 6, r"q_proj.lora_B.* \[3, 3\]"),
        (_adapter(lambda w: w[_key(w, "q_proj.lora_B")].fill_(torch.nan)), 6, "holds values that are no numbers"),
        (_adapter_config(r=8), 6, "its config and base model want"),
        (_adapter_config(target_modules=["nothing"], target_parameters=None), 6, "no adapter of this base model"),
        (_pickle, 6, "no adapter_model.safetensors: only adapters that a run wrote are taken, never pickles"),
        (_pickled_base, 2, r"no \*.safetensors"),
        (_config(quantization_config={"quant_method": "fp8"}), 2, "quantised weights are not trained here"),
        (_huge, 7, r"the merged model needs \d+\.\d\d GiB more and \d+\.\d\d GiB are free"),
        (lambda made: shutil.rmtree(made.folder.adapter), 6, "adapter: not there: a run writes it at its first"),
        (lambda made: made.folder.merged.mkdir(), 7, "exists and is no merged model: move it away"),
    ],
)
def test_what_cannot_be_merged_is_refused(damage: Any, code: int, sentence: str, tmp_path: Path, volumes: Any) -> None:
    made = volumes(finished_run(tmp_path, "qwen3_moe", shard="200KB"))
    damage(made)
    with pytest.raises(TrainerError, match=sentence) as refused:
        merged(made)
    assert refused.value.code == code
    assert not (made.folder.merged / "MANIFEST.json").exists()


def test_the_command_says_it_in_one_line(
    tmp_path: Path, volumes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = volumes(finished_run(tmp_path, method="full", lora=None))
    for run, sentence in ((made.run, "method full trains the whole model"), ("../x", "name a folder of the runs")):
        monkeypatch.setattr("sys.argv", ["merge", run])
        capsys.readouterr()
        assert main() == 2
        out, error = capsys.readouterr()
        assert sentence in error and error.endswith("(code 2)\n") and error.count("\n") == 1 and out == ""


def test_two_at_once(tmp_path: Path, volumes: Any) -> None:
    made = volumes(finished_run(tmp_path))
    part = made.folder.root / ".merged.part"
    part.mkdir()
    lock = os.open(part, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(TrainerError, match="another merge"):
        merged(made)
    os.close(lock)
    merged(made)
    assert not part.exists()
