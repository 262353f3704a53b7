"""No credential leaves: each of a table is taken out of words, logs, last words and reports; nothing else is."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.backends.cluster.errors import cut
from kctl.backends.facts import last_lines
from kctl.run.follow import printing
from kctl.run.logs import LogLine
from tests.planted_secrets import CALLED, PLANTED, key_lines, leaks
from trainer.errors import DataError
from trainer.pod.outcome import from_error, read_outcomes
from trainer.pod.tee import CHUNK, Tee
from trainer.report.history import read_history
from trainer.report.page import page
from trainer.schema.contract import RunFolder
from trainer.schema.messages import parse_message
from trainer.schema.redaction import HIDDEN, KEY_LINES, found_in, known_in, line_by_line, redacted, without_known

SHA256 = "0123456789abcdef" * 4
HARMLESS = [
    "step=100/1000 loss=1.2345 lr=2.0e-04 grad_norm=0.81 tokens_per_s=5210 mem_gib=31.2 eta_s=5400",
    f"registry.example.com:5000/kctl/trainer@sha256:{SHA256}",
    f"adapter/adapter_model.safetensors {SHA256}",
    "task-lora-dialogue-large-0123abcd",
    "sk-dialogues-of-many-users-0123abcd",
    "disk-usage-of-the-runs-volume-and-more",
    "commit 0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c of main",
    "https://10.0.0.1:6443/api/v1/namespaces/team/pods?limit=500&continue=abc",
    "eos_token=<|im_end|> pad_token='<|endoftext|>'",
    "run --token=$(HF_TOKEN) --password ${DB_PASSWORD} --key=$SERVICE_KEY",
    "max_tokens=16384 tokens=123456789012",
    'secrets "hub" not found; the namespace has no secret hub',
    "couldn't find key token in Secret team/hub-credentials",
    "use {secret: NAME, key: KEY} of a Secret in the namespace",
    "locally it is taken from your environment; export HF_TOKEN=... and submit again",
    'tolerations: [{"key": "nvidia.com/gpu", "operator": "Exists"}]',
    "forward_pass: 12.345678 backward_pass=34.567890 DATA_PATH=/data/plays/of/shakespeare PASSES=12345678",
    "FORWARD_PASS=12.345678 N_PASS: 123456789 OLD_PWD=/home/user/work FORWARD_PASS_SECONDS=12.345678s",
    "unexpected key: model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj lora_A.default 128 x 2048",
    '{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub-credentials", "key": "token"}}}',
    'usage: ["--token", "--password-file", "--verbose"]',
    "use --token, otherwise nothing is found",
    "https://ann@git.example.com/a.git https://first.last-name1@example.com/ ssh://git-runner-of-a-team@example.com",
    "https://example.com/task-lora-dialogue-large-0123abcd?x=1@2",
    "tokenizer['pad_token'] == eos_token",
    "SharedAccessKeyName=RootManageSharedAccess",
    "git@github.com:org/repository.git ssh://git@github.com/org/repository",
]


@pytest.mark.parametrize("kind", PLANTED)
def test_each_is_taken_out_and_what_stands_around_it_is_kept(kind: str) -> None:
    words, secret = PLANTED[kind]
    said = redacted(f"before {words} after")
    assert secret not in said and HIDDEN in said and found_in(words)
    assert said.startswith("before ") and (said.endswith(" after") or "without" in kind)
    assert redacted(said) == said, "once is enough"
    if kind.removesuffix(", by its name") not in CALLED:
        assert known_in(words) and secret not in without_known(words)


def test_there_are_fifty_and_all_are_found_in_one_text() -> None:
    assert len(PLANTED) >= 50
    everything = "\n".join(words for words, _ in PLANTED.values())
    assert len(leaks(everything)) == len(PLANTED)
    assert leaks(redacted(everything)) == [] and leaks(json.dumps([redacted(everything)])) == []


def test_a_containers_variable_in_yaml() -> None:
    yaml = "- name: HF_TOKEN\n  value: {}\n- name: HF_HOME\n  value: /var/cache/hub\n"
    assert redacted(yaml.format("opaque-0123-opaque")) == yaml.format(HIDDEN)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redacted(text) == text == without_known(text) and not found_in(text)


@settings(max_examples=300, deadline=None)
@given(
    st.from_regex(r"[a-z]([-a-z0-9]{0,41}[a-z0-9])-[0-9a-f]{8}", fullmatch=True), st.binary(min_size=32, max_size=32)
)
def test_names_of_runs_and_digests_stay(run: str, digest: bytes) -> None:
    text = f"{run} sha256:{digest.hex()} {digest[:20].hex()}"
    assert redacted(text) == text


OWN = {
    "MY_TOKEN": "plain0words",
    "DB_PASSWORD": "x" * 20,
    "GITHUB_PAT": "pat0of0ours",
    "MLFLOW_TRACKING_PWD": "pwd0of0ours",
    "DB_PASS": "pass0of0ours",
    "hubToken": "hub0of0ours",
    "S3_KEY2": "two0of0ours",
    "registry_auth": "auth0of0ours",
    "AWS_SECRET_ACCESS_KEY": "/Zq8rT2xK9vLm4NpW6yBd/aHc3+Zq8rT2xK9vLm4",
}
NOT_OURS = {
    "API_KEY_FILE": "/etc/keys/1",
    "TLS_KEY": "/home/somebody/projects/of/kctl/keys/1",
    "USE_KEY": "true",
    "PWD": "work0of0ours",
    "OLD_PATH": "path0of0ours",
    "BYPASS": "by0of0ours",
    "FTP_PASSIVE": "passive0mode",
    "COMPAT": "compat0mode",
    "AUTHOR": "somebody0else",
    "PATTERN": "pattern0mode",
    "OS_AUTH_URL": "https://keystone.example.com/v3",
    "SSH_AUTH_SOCK": "/tmp/ssh-Abc012345/agent.123",
}


def test_what_the_environment_holds_under_such_a_name_is_taken_out_to_the_letter() -> None:
    code = "import sys; from trainer.schema.redaction import redacted; print(redacted(sys.stdin.read()))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), **OWN, **NOT_OURS}
    text = " ".join([*OWN.values(), *NOT_OURS.values()])
    done = subprocess.run([sys.executable, "-c", code], env=environment, input=text, capture_output=True, text=True)
    assert done.stdout.strip() == " ".join([*[HIDDEN] * len(OWN), *NOT_OURS.values()])


HOSTILE = ["-", "--token", "--key-", "eyJ-", "eyJ_", "eyJeyJ", "eyJaaaaaaaa.", "'", '"', '\\"', "QUJD", ":", "="]
HOSTILE += [
    "_PASS=<",
    "_PASS=1<",
    "key=",
    " ",
    "\n",
    "token ",
    "token\\",
    'token"',
    "token=\\",
    "bearer ",
    "://",
    "://a:",
    "://a1",
    "?token",
]
HOSTILE += [
    "&sig",
    "-----BEGIN ",
    "PRIVATE KEY",
    "-----BEGIN PRIVATE KEY",
    "-----END ",
    "--key ",
    "sk-",
    "/",
    '"auth" ',
]
HOSTILE += ["_PASS", "DB_PASS=", 'token","value', "[{", "authorization: token ", "--key', '"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_takes_no_time(piece: str) -> None:
    for start in ("", "token=--key"):
        text = (start + piece * 100_000)[:100_000]
        began = time.process_time()
        redacted(text)
        found_in(text)
        assert time.process_time() - began < 0.5


def test_a_cut_leaves_no_half() -> None:
    for words, secret in PLANTED.values():
        for shift in range(0, 240, 30):
            assert secret[:12] not in cut("." * shift + " " + words), words


def test_the_pods_log_on_stdout_and_on_the_volume(tmp_path: Path) -> None:
    out, log = io.BytesIO(), tmp_path / "log"
    tee = Tee(out)
    tee.open(log)
    lines = "\n".join(words.replace("\\n", "\n") for words, _ in PLANTED.values())
    tee.pump(io.BytesIO(lines.encode() + b"\n\xff\xfe\n"))
    tee.say("the launcher: " + PLANTED["a database"][0])
    tee.close()
    assert out.getvalue() == log.read_bytes() and leaks(out.getvalue()) == []
    assert b"\xff\xfe" in out.getvalue() and out.getvalue().count(b"\n") >= len(PLANTED)
    assert PLANTED["a PEM RSA key"][1].split("\\n")[1].encode() not in out.getvalue(), "not its inside either"


@pytest.mark.parametrize(("width", "kind"), [(64, ""), (64, "RSA "), (70, "OPENSSH "), (76, ""), (24, "EC ")])
@pytest.mark.parametrize("start", ["", "[rank1]: ", "2026-01-01 12:00:00 INFO "])
def test_a_private_key_line_by_line(width: int, kind: str, start: str) -> None:
    key = key_lines(width, kind)
    lines = ["before", *(start + line for line in key), "after", "step=1/2 loss=1.0"]
    clean = line_by_line()
    shown = [clean(line + "\n") for line in lines]
    assert not any(line in "".join(shown) for line in key[1:-1]) and len("".join(shown).splitlines()) == len(lines)
    assert (shown[0], shown[-2:]) == ("before\n", ["after\n", "step=1/2 loss=1.0\n"])
    out = io.BytesIO()
    Tee(out).pump(io.BytesIO("\n".join(lines).encode()))
    assert out.getvalue().decode() == "".join(shown)[:-1]
    show = printing("run", True, False)
    both = [show(LogLine(pod, "", line)) for line in lines for pod in ("run-worker-0", "run-worker-1")]
    assert not any(line in "".join(both) for line in key[1:-1]) and both[-1].endswith("step=1/2 loss=1.0")
    assert not any(line in str(last_lines([("", line) for line in lines])) for line in key[1:-1])
    assert HIDDEN in str(parse_message("\n".join(lines[:-3])))
    if width >= 64:
        assert set(map(redacted, key[1:-2])) == {HIDDEN}, "where its begin was not seen"


def test_of_two_keys_at_once_and_of_one_without_its_end() -> None:
    key, clean = key_lines(70, ""), line_by_line()
    shown = [clean(line) for line in key for _ in range(2)]
    assert not any(line in "".join(shown) for line in key[1:-1]) and clean("after") == "after"
    shown = [clean(line) for line in [key[0], *["a line"] * 300]]
    assert shown == [HIDDEN] * (1 + KEY_LINES) + ["a line"] * 100


ACROSS = [words for words, _ in PLANTED.values() if "\\n" not in words]


def test_one_across_two_pieces_of_a_huge_line() -> None:
    for place, words in enumerate(ACROSS):
        said, hidden = words.encode(), redacted(words).encode()
        for shift in range(-len(words) - 2 + place % 7, 4, 7):
            line = b"\xff" * (CHUNK + shift - 1) + b" \t"[place % 2 :][:1] + said + b" end" + b" word" * 9 + b"\n"
            out = io.BytesIO()
            assert Tee(out).pump(io.BytesIO(line)) == line
            assert out.getvalue() == line.replace(said, hidden), (words, shift)


def test_last_words(tmp_path: Path) -> None:
    for rank, (words, _) in enumerate(PLANTED.values()):
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps({"code": 3, "sentence": words}))
        assert leaks(from_error(DataError(words)).sentence) == []
        assert leaks(str(parse_message(f"{words}"))) == []
    assert leaks(str(read_outcomes(tmp_path))) == [] and len(read_outcomes(tmp_path)[0]) == len(PLANTED)


def test_a_report_of_what_an_older_trainer_wrote(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    words = [words for words, _ in PLANTED.values()]
    told = tuple(words)
    history = replace(
        read_history(folder), began=told, ended=told[::-1], train={"data": {"prompt": {"task": words[0]}}}
    )
    assert leaks(page(history, datetime(2026, 1, 1, tzinfo=UTC))) == []
