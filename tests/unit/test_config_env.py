"""Environment maps: literals that look like secrets, names that others set, and what is let through."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kctl.config.run_config import load
from kctl.config.secrets import name_problem, secret_problem
from trainer.errors import ConfigError

HEX = "0123456789abcdef0123456789abcdef01234567"
SECRETS = [
    ("HF_TOKEN", "hf_" + "aB3" * 11),
    ("ANYTHING", "hf_" + "aB3" * 11),
    ("WANDB_API_KEY", HEX),
    ("X", HEX),
    ("X", "sk-" + "a1" * 12),
    ("X", "ghp_" + "a1B2" * 9),
    ("X", "AKIA" + "ABCD1234" * 2),
    ("X", "https://user:pass@example.com/x"),
    ("X", "-----BEGIN RSA PRIVATE KEY-----"),
    ("MY_SECRET", "c29tZXRoaW5nIHNlY3JldA=="),
    ("SERVICE_KEY", "0011223344556677"),
    ("DB_PASSWORD", "short"),
    ("DB_PASS", "short"),
    ("FTP_PWD", "short"),
    ("dbPassword", "short"),
    ("GITHUB_PAT", "0011223344556677"),
    ("REGISTRY_AUTH", "YW5uOmh1bnRlcjJodW50ZXIy"),
    ("hubToken", "0011223344556677"),
    ("STORAGE_ACCOUNTKEY", "0011223344556677"),
    ("S3_KEY2", "0011223344556677"),
    ("HUB_CREDS", "0011223344556677"),
    *(("DB_PASSWORD", value) for value in ("/correct-horse-battery-staple", "~hunter", ".hunter", "42", "true")),
    *((name, "hunter2") for name in ("PGPASSWORD", "DBPASS", "SSHPASS", "SMTP_PW", "DB_PASS2", "MY_PASSWORDS")),
    *((name, "0011223344556677") for name in ("HFTOKEN", "CLIENTSECRET", "SSHKEY", "PASSKEY", "HF_TOKENS", "HUB_JWT")),
]
HARMLESS = [
    ("TOKENIZERS_PARALLELISM", "false"),
    ("NCCL_SOCKET_IFNAME", "eth0"),
    ("GIT_COMMIT", HEX),
    ("KEY_FILE", "/etc/keys/very/long/path/to/it"),
    ("WANDB_MODE", "offline"),
    ("API_KEY_HEADER", "x-api-key"),
    ("HTTPS_PROXY", "http://proxy.internal:3128"),
    ("PASSWORD", ""),
    ("DB_PASSWORD_FILE", "/run/secrets/db_password1"),
    *(("TWO_PASS", value) for value in ("true", "yes", "On", "off")),
    *(("NUM_PASS", value) for value in ("2", "100", "0.5")),
    *(("OLD_PWD", value) for value in ("~/work", "/home/User/run1")),
    ("DB_PASS", "$(DB_PASS_REF)"),
    ("SINGLE_PASS_MODE", "fast"),
    ("FORWARD_PASS_DTYPE", "bfloat16"),
    ("PASS_ENV", "NCCL_DEBUG"),
    ("PASS_RATE", "0.5"),
    ("byPass", "yes"),
    *(
        (name, "a-long-word-of-sixteen-1")
        for name in ("PATH", "PATTERN", "PASSES", "AUTHOR", "AUTHORS", "BYPASS", "COMPAT", "KEYBOARD", "MONKEY")
    ),
    *((name, "a-long-word-of-sixteen-1") for name in ("AUTH_KIND", "PWD", "PASSIVE", "SECRETARY", "TOKENIZER")),
]
RESERVED = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "PET_NNODES", "PYTHONUNBUFFERED", "TRAINER_RUNS"]


@pytest.mark.parametrize(("name", "value"), SECRETS)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("lora_di3", [f"cluster.env.{name}='{value}'"])
    assert "use {secret: NAME, key: KEY}" in str(caught.value)
    assert value not in str(caught.value)


@pytest.mark.parametrize("field", ["secret", "key"])
@pytest.mark.parametrize("value", [HEX, "sk-" + "a1" * 12])
def test_a_secret_where_its_name_belongs_is_refused_and_not_repeated(field: str, value: str) -> None:
    reference = {"secret": "hub", "key": "token"} | {field: value}
    with pytest.raises(ConfigError, match=r"cluster\.env\.HF_TOKEN: secret and key are names") as caught:
        load("lora_di3", [f"cluster.env.HF_TOKEN={reference}"])
    assert value not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_what_is_no_secret_passes(name: str, value: str) -> None:
    assert load("lora_di3", [f"cluster.env.{name}='{value}'"]).config.cluster.env == {name: value}


@pytest.mark.parametrize("name", [*RESERVED, "MASTER_ANYTHING", "TORCHELASTIC_RUN_ID", "1A", "A-B", ""])
def test_names_that_others_set_are_refused(name: str) -> None:
    assert name_problem(name)
    if name:
        with pytest.raises(ConfigError, match=r"cluster\.env: "):
            load("lora_di3", [f"cluster.env={{'{name}': x}}"])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.text(min_size=8, max_size=80))
def test_no_message_ever_holds_the_value(name: str, value: str) -> None:
    problem = secret_problem(name, value)
    assert problem is None or value in name or value not in problem.replace(name, "")
