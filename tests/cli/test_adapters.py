"""kctl adapters, compare and report on finished runs of this machine, as a person types them."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kctl.cli import run
from tests.cli.profiles import DIGEST
from trainer.schema.contract import REPORT_HEAD, RunFolder

PROFILE = {
    "image": DIGEST,
    "volumes": {name: {"claim": name} for name in ("models", "data", "runs")},
    "cpu": 1,
    "memory": "1Gi",
    "shm": "64Mi",
    "pod_patch": {"containers": [{"name": "pytorch", "command": ["python", "-c", "pass", "trainer.launch"]}]},
}
CLUSTER = {"profile": "quick", "gpus_per_node": 0, "processes_per_node": 1}
HOSTILE = "\x1b[31mred\x1b[0m\r\n\u202eover"


class Runs:
    """A folder with kctl's local state; `said` is what kctl printed last."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys, self.err = root, capsys, ""
        (root / "clusters").mkdir()
        (root / "clusters" / "quick.yaml").write_text(yaml.safe_dump(PROFILE))

    def kctl(self, code: int, *words: str) -> str:
        """stdout of a call that ends with `code`."""
        self._capsys.readouterr()
        place = words.index("--") if "--" in words else len(words)
        got = run([*words[:place], "--local", *words[place:]])
        said = self._capsys.readouterr()
        self.err = said.err
        assert got == code, said.err
        return said.out

    def made(self, name: str, rank: int) -> RunFolder:
        """The folder of a run that has ended."""
        train = {
            "model": {"path": "tiny"},
            "data": {"path": "d.json", "format": "messages"},
            "lora": {"rank": rank},
            "optim": {"lr": 1e-3},
        }
        (self.root / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "train": train, "cluster": CLUSTER}))
        self.kctl(0, "submit", f"{name}.yaml", "--wait")
        (job,) = [path for path in (self.root / ".kctl" / "jobs").iterdir() if path.name.startswith(name)]
        folder = RunFolder(self.root / ".kctl" / "runs" / job.name)
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.config.write_bytes((job / "config" / "config" / "config.json").read_bytes())
        return folder


def publish(folder: RunFolder, weights: bytes, **more: Any) -> None:
    """An adapter as the trainer leaves it; `more` of its manifest."""
    folder.adapter.mkdir()
    (folder.adapter / "adapter_model.safetensors").write_bytes(weights)
    entry = {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    manifest = {"files": {"adapter_model.safetensors": entry}, "run": folder.root.name, "step": 20, "base": "b" * 64}
    (folder.adapter / "MANIFEST.json").write_text(json.dumps({**manifest, **more}))


def train(folder: RunFolder, best: float, steps: int = 40, answer: str = "yes") -> None:
    """Steps with an evaluation every 10, the best one at step 20; what was answered after each."""
    records: list[dict[str, Any]] = [{"step": 0, "evaluation": {"loss": 3.0, "answer_loss": 4.0}}]
    for step in range(1, steps + 1):
        speed = {"tokens_per_s": 100.0 + step, "mem_gib": 1.5, "seconds": 2.0 * step}
        records.append({"step": step, "steps": steps, "loss": 2.0, **speed})
        if step % 10 == 0:
            loss = best if step == 20 else best + 0.25
            records.append({"step": step, "evaluation": {"loss": loss, "answer_loss": loss + 1}, "seconds": 1.0})
    samples = [{"step": step, "item": "i1", "reference": "no", "answer": f"{answer} {step}"} for step in (0, steps)]
    folder.metrics.write_text("".join(json.dumps(one) + "\n" for one in records) + '{"step": 4')
    folder.samples.write_text("".join(json.dumps(one) + "\n" for one in samples))
    folder.result.write_text(json.dumps({"after": {"loss": 9.0}, "phase": "Succeeded"}))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runs:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCTL_LOCAL", raising=False)
    return Runs(tmp_path, capsys)


def test_list_and_show(runs: Runs) -> None:
    assert runs.kctl(0, "adapters", "list") == "" and "no runs locally" in runs.err
    one, two = runs.made("one", 8), runs.made("two", 16)
    runs.made("none", 4)
    publish(one, b"w" * 3000, losses={"loss": 2.125}, data="d" * 64)
    publish(two, b"w" * 5)
    train(two, 2.5)
    text = runs.kctl(0, "adapters", "list")
    digest = hashlib.sha256((one.adapter / "MANIFEST.json").read_bytes()).hexdigest()
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["RUN", "BASE", "RANK", "DATA", "LOSS", "SIZE", "SHA256", "TAGS"]
    assert rows[1] == [one.root.name, "tiny", "8", "d" * 12, "2.1250", "2.9", "KiB", digest[:12], "-"]
    assert rows[2][:7] == [two.root.name, "tiny", "16", "-", "9.0000", "5", "B"], "an older manifest has no loss"
    assert len(rows) == 3 and "no adapter yet: 1 of 3 runs" in runs.err
    assert runs.kctl(0, "adapters", "list", "-o", "name").split() == [one.root.name, two.root.name]
    (listed, _) = json.loads(runs.kctl(0, "adapters", "list", "-o", "json"))
    assert (listed["sha256"], listed["loss"], listed["data_digest"], listed["size"]) == (digest, 2.125, "d" * 64, 3000)
    named = f"pytorchjob.kubeflow.org/{one.root.name}"
    assert named in runs.kctl(0, "list", "-o", "name").splitlines()
    assert one.root.name in runs.kctl(0, "status", named), "what -o name prints is a RUN"
    shown = runs.kctl(0, "adapters", "show", "one")
    assert f"Data:      d.json  ({'d' * 64})" in shown and f"Next:      kctl merge {one.root.name} --local" in shown
    assert f"adapter_model.safetensors  2.9 KiB  {listed['files'][0]['sha256']}" in shown
    assert json.loads(runs.kctl(0, "adapters", "show", "one", "-o", "json")) == listed
    runs.kctl(4, "adapters", "show", "none")
    assert "has no adapter yet" in runs.err
    (one.adapter / "MANIFEST.json").write_text("[]")
    assert runs.kctl(0, "adapters", "list", "-o", "name") == f"{two.root.name}\n"
    assert f"{one.root.name}: adapter/MANIFEST.json: no manifest of an adapter" in runs.err


def test_tags(runs: Runs) -> None:
    one, two = runs.made("one", 8), runs.made("two", 16)
    for folder in (one, two):
        publish(folder, b"w")
    assert runs.kctl(0, "adapters", "tag", "one", "production") == f"@production is {one.root.name}\n"
    assert runs.kctl(0, "adapters", "tag", "one", "v1.2") and runs.kctl(0, "adapters", "tag", "one", "v1.2")
    assert runs.kctl(0, "adapters", "list").splitlines()[1].endswith("  production, v1.2")
    assert runs.kctl(0, "pull", "@v1.2") == f"adapters/{one.root.name}\n"
    assert runs.kctl(0, "adapters", "pull", "@v1.2") == f"adapters/{one.root.name}\n" and "already there" in runs.err
    for verb in ("merge", "generate"):
        assert f"Usage: kctl adapters {verb}" in runs.kctl(0, "adapters", verb, "--help")
    runs.kctl(0, "adapters", "tag", "two", "production")
    assert f"{one.root.name} was @production before" in runs.err
    listed = json.loads(runs.kctl(0, "adapters", "list", "-o", "json"))
    assert [each["tags"] for each in listed] == [["v1.2"], ["production"]]
    assert runs.kctl(0, "adapters", "untag", "production") == f"{two.root.name} is no longer @production\n"
    runs.kctl(4, "adapters", "untag", "production")
    runs.kctl(4, "status", "@production")
    assert "no run has the tag 'production'; there are: @v1.2" in runs.err
    for name in ("latest", "@x", "Big", "a/b", "-a", "x" * 64):
        assert runs.kctl(2, "adapters", "tag", "one", "--", name) == "" and "is no tag: use at most 63" in runs.err
    assert runs.kctl(0, "status", "one", "-o", "json")


def test_diff(runs: Runs) -> None:
    one, two = runs.made("one", 8), runs.made("two", 16)
    publish(one, b"w", losses={"loss": 2.125}, data="d" * 64)
    publish(two, b"w", losses={"loss": 2.125}, data="e" * 64)
    text = runs.kctl(0, "adapters", "diff", "one", "two")
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["FIELD", one.root.name, two.root.name]
    assert ["train.lora.rank", "8", "16"] in rows and ["adapter.rank", "8", "16"] in rows
    assert not [row for row in rows if row[0] in ("adapter.loss", "adapter.size", "adapter.base")]
    assert "trained on different items" in runs.err
    fields = [row["field"] for row in json.loads(runs.kctl(0, "adapters", "diff", "one", "two", "-o", "json"))]
    assert fields == [row[0] for row in rows[1:]]


def test_compare(runs: Runs) -> None:
    one, two = runs.made("one", 8), runs.made("two", 16)
    train(one, 2.125)
    train(two, 2.0, steps=200, answer=HOSTILE)
    text = runs.kctl(0, "compare", "one", "two", "--answers")
    assert "\x1b" not in text and "\u202e" not in text
    rows = {line[:14].strip(): line[14:].split() for line in text.splitlines() if line[:1].strip()}
    assert text.splitlines()[0].split() == [one.root.name, two.root.name]
    assert rows["step"] == ["40/40", "200/200"] and rows["before"] == ["3.0000", "3.0000"]
    assert rows["best"] == ["2.1250", "2.0000"] and rows["best, answer"] == ["3.1250", "3.0000"]
    assert rows["best at step"] == ["20", "20"] and rows["time"] == ["1m21s", "6m41s"]
    assert rows["tokens/s"] == ["121", "201"] and rows["memory"] == ["1.5", "GiB", "1.5", "GiB"]
    held = [line for line in text.splitlines() if line.startswith("held out @")]
    assert len(held) == 12 and held[0].split()[2:] == ["@0", "3.0000", "3.0000"], "thinned, the first and the last stay"
    assert held[-1].split()[2:] == ["@200", "-", "2.2500"]
    assert f"{one.root.name}  yes 40  (step 40)" in text and "reference" in text
    assert f"kctl adapters diff {one.root.name} {two.root.name}" in runs.err
    whole = json.loads(runs.kctl(0, "compare", "one", "two", "-o", "json"))
    assert [len(each["evaluations"]) for each in whole] == [5, 21]


def test_compare_of_runs_that_say_nothing(runs: Runs) -> None:
    runs.made("one", 8), runs.made("two", 16)
    assert "best at step  -" in runs.kctl(0, "compare", "one", "two")
    runs.kctl(2, "compare", "one")
    assert "compare needs two runs, got 'one' alone" in runs.err
    runs.kctl(2, "compare", "one", "one.yaml")
    assert "which was named before" in runs.err
    runs.kctl(4, "compare", "one", "three")


def test_report(runs: Runs) -> None:
    folder = runs.made("one", 8)
    runs.kctl(4, "report", "one")
    assert "no report.html there" in runs.err
    folder.page.write_text("<p>told")
    name = f"{folder.root.name}.html"
    assert runs.kctl(0, "report", "one") == f"adapters/{name}\n"
    assert (runs.root / "adapters" / name).read_text() == "<p>told"
    assert runs.kctl(0, "report", "one", "--to", "saved") == f"saved/{name}\n"
    assert sorted(path.name for path in (runs.root / "saved").iterdir()) == [name]


def test_report_opens_a_browser_at_a_terminal(runs: Runs) -> None:
    folder = runs.made("one", 8)
    browser, opened = runs.root / "browser", runs.root / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    shown, terminal = os.openpty()
    said = []
    for text, flags in ((REPORT_HEAD, []), (REPORT_HEAD, ["--to", "saved"]), ("<script>" + REPORT_HEAD, [])):
        folder.page.write_text(text)
        words = [sys.executable, "-m", "kctl", "report", "one", "--local", *flags]
        environment = {**os.environ, "BROWSER": str(browser)}
        done = subprocess.run(words, env=environment, stdout=terminal, stderr=subprocess.PIPE, text=True, check=True)
        said.append(done.stderr)
    os.close(terminal)
    os.close(shown)
    page = runs.root / "adapters" / f"{folder.root.name}.html"
    assert opened.read_text().splitlines() == [page.resolve().as_uri()]
    assert ["not opened: it does not begin as a run's report does" in each for each in said] == [False, False, True]
