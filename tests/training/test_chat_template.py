"""Our rendering of chat templates equals transformers' apply_chat_template."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.unit.dataset_world import CHATML, NO_SYSTEM, write_model
from trainer.dataset.chat_template import Chat, compile_template, load_chat, render, template_errors
from trainer.dataset.items import Turn
from trainer.dataset.tokenizer import control_tokens, load_tokenizer

ODD = (
    "{%- for message in messages %}\n  {% if loop.index0 > 3 %}{% break %}{% endif %}\n"
    "  {% generation %}{{ message | tojson }}{% endgeneration %}\n{% endfor -%}\n"
    "{{ {'a': \"<'\u00e9>\"} | tojson(indent=2) }}{{ eos_token }}{{ pad_token }}"
    "{{ tools is none }}{{ documents is none }}{{ unk_token is defined }}"
)
"""What templates use now and then: white space control, break, generation, filters, globals, named tokens."""
TURNS = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(st.sampled_from("ab<>'&\n \u00e9\U0001f600"))),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module", params=["qwen3", "chatml", "no-system", "odd"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """transformers' tokenizer and the folder it came from."""
    if request.param == "qwen3":
        folder = Path(request.getfixturevalue("qwen3_folder"))
        return AutoTokenizer.from_pretrained(folder), folder
    template = {"chatml": CHATML, "no-system": NO_SYSTEM, "odd": ODD}[request.param]
    folder = write_model(tmp_path_factory.mktemp(request.param), template=template)
    return PreTrainedTokenizerFast.from_pretrained(folder), folder


def ours(folder: Path, turns: Sequence[tuple[str, str]], header: bool, no_thinking: bool) -> str | None:
    from trainer.dataset.chat_template import read_template

    source, tokens = read_template(folder)
    try:
        return render(compile_template(source), tokens, [Turn(*turn) for turn in turns], header, no_thinking)
    except template_errors():
        return None


def theirs(tokenizer: Any, turns: Sequence[tuple[str, str]], header: bool, no_thinking: bool) -> str | None:
    messages = [{"role": role, "content": text} for role, text in turns]
    more = {"enable_thinking": False} if no_thinking else {}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header, **more))
    except template_errors():
        return None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=TURNS, header=st.booleans(), no_thinking=st.booleans())
def test_equal_text(both: tuple[Any, Path], turns: list[tuple[str, str]], header: bool, no_thinking: bool) -> None:
    tokenizer, folder = both
    assert ours(folder, turns, header, no_thinking) == theirs(tokenizer, turns, header, no_thinking)


def test_equal_tokens(both: tuple[Any, Path]) -> None:
    tokenizer, folder = both
    turns = [("user", "Where's the ledger?\n\n"), ("assistant", "Under the floor.")]
    text = ours(folder, turns, True, False)
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert load_tokenizer(folder).encode(text, add_special_tokens=False).ids == expected


def test_saved_by_transformers(qwen3_folder: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(qwen3_folder).save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    turns = [Turn("system", "s"), Turn("user", "u")]
    assert chat_of(tmp_path).prompt(turns) == chat_of(qwen3_folder).prompt(turns)


def chat_of(folder: Path) -> Chat:
    return load_chat(folder, control_tokens(load_tokenizer(folder)))


def test_what_is_found_out_about_a_template(qwen3_folder: Path, tmp_path: Path) -> None:
    qwen3, plain = chat_of(qwen3_folder), chat_of(write_model(tmp_path / "a"))
    gemma = chat_of(write_model(tmp_path / "b", template=NO_SYSTEM))
    assert (qwen3.end, qwen3.opener, qwen3.thinks) == ("<|im_end|>", "<|im_start|>", True)
    assert (plain.end, plain.opener, plain.thinks) == ("<|im_end|>", "<|im_start|>", False)
    assert (qwen3.system_alone, qwen3.system_first) == (plain.system_alone, plain.system_first) == (True, True)
    assert (gemma.system_alone, gemma.system_first) == (False, False)


def test_thinking_is_off_where_a_user_asks(qwen3_folder: Path) -> None:
    chat = chat_of(qwen3_folder)
    assert chat.prompt([Turn("system", "s")]) == "<|im_start|>system\ns<|im_end|>\n<|im_start|>assistant\n"
    assert chat.prompt([Turn("user", "u")]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_system_turn_that_is_not_accepted_becomes_a_users(tmp_path: Path) -> None:
    chat = chat_of(write_model(tmp_path, template=NO_SYSTEM))
    alone = chat.prompt([Turn("system", "s")])
    assert alone == "<s><|im_start|>user\ns<|im_end|>\n<|im_start|>model\n"
    first = chat.prompt([Turn("system", "s"), Turn("user", "u")])
    assert first == "<s><|im_start|>user\ns\n\nu<|im_end|>\n<|im_start|>model\n"


def test_several_templates_by_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = [{"name": "rag", "template": "x"}, {"name": "default", "template": CHATML}]
    path.write_text(json.dumps(config))
    assert chat_of(folder).prompt([Turn("system", "s")]).startswith("<|im_start|>system\ns<|im_end|>")


def test_templates_run_no_code(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "a")
    for attack in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"):
        template = compile_template(attack)
        with pytest.raises(template_errors()):
            print(render(template, {}, [Turn("user", "u")], False, False) or 1 / 0)
    shutil.rmtree(folder)
