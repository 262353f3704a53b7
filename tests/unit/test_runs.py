"""RUN on a command line: exact, @latest, a config's name, a unique prefix; never a guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kctl.errors import NotFound, UsageError
from kctl.run.find import Known, choose, run_of_config

KNOWN = [
    Known("demo-00000001", "demo"),
    Known("lora-di3-00000002", "lora-di3"),
    Known("lora-di3-fast-00000003", "lora-di3-fast", ("good", "v1.2")),
    Known("lora-di3-00000004", "lora-di3"),
    Known("demo-00000005", "demo"),
    Known("solo-00000006", ""),
]


@pytest.mark.parametrize(
    ("text", "content", "run", "said"),
    [
        ("demo-00000001", None, "demo-00000001", ""),
        ("@latest", None, "solo-00000006", "@latest is"),
        ("@v1.2", None, "lora-di3-fast-00000003", "@v1.2 is"),
        ("demo", None, "demo-00000005", "newest run of config"),
        ("demo", "demo-00000001", "demo-00000001", "config demo is run"),
        ("demo", "demo-99999999", "demo-00000005", "newest run of config"),
        ("lora_di3", None, "lora-di3-00000004", "newest run of config"),
        ("lora-di3-f", None, "lora-di3-fast-00000003", "lora-di3-f is"),
        ("solo", None, "solo-00000006", "solo is"),
    ],
)
def test_found(text: str, content: str | None, run: str, said: str) -> None:
    found, note = choose(text, KNOWN, content)
    assert found == run and (note.startswith(said) or said in note) and bool(note) == bool(said)


def test_ambiguous_lists_them() -> None:
    with pytest.raises(UsageError, match="lora-di3-00000002, lora-di3-fast-00000003, lora-di3-00000004"):
        choose("lora", KNOWN, None)


def test_none_names_the_nearest_and_the_list() -> None:
    with pytest.raises(NotFound, match=r"did you mean .*demo-00000001.*kctl list --local"):
        choose("demo-0000001", [Known("demo-00000001", "x"), Known("demo-10000001", "x")], None, " --local")
    with pytest.raises(NotFound, match="no runs yet"):
        choose("@latest", [], None)
    with pytest.raises(NotFound, match="see kctl list"):
        choose("", KNOWN, None)
    with pytest.raises(
        NotFound, match=r"no run has the tag 'v2'; there are: @good, @v1\.2; set one: kctl adapters tag"
    ):
        choose("@v2", KNOWN, None)
    with pytest.raises(NotFound, match=r"is run my-00000001, which was never submitted .*kctl submit my --local"):
        choose("my", KNOWN, "my-00000001", " --local")


@given(st.text(max_size=20), st.lists(st.text(alphabet="ab-0", min_size=1, max_size=6), unique=True, max_size=6))
def test_whatever_is_found_exists(text: str, names: list[str]) -> None:
    try:
        run, _ = choose(text, [Known(name, name[:2]) for name in names], None)
    except (NotFound, UsageError):
        assert text not in names
    else:
        assert run in names and (text not in names or run == text)


def test_a_configs_name_is_the_run_of_its_content() -> None:
    run = run_of_config("demo")
    assert run is not None and run.startswith("demo-")
    assert run_of_config("@latest") is None and run_of_config("no-such-config") is None and run_of_config("") is None
