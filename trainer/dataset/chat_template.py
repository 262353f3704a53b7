"""A model's chat template rendered as transformers renders it, without transformers.

No code of the model folder runs: jinja2's immutable sandbox, the same filters and globals, nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trainer.dataset.items import Turn
from trainer.dataset.tokenizer import control_pattern
from trainer.errors import ConfigError

_PROBE = "chat template probe"
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Chat:
    """One model's template. `end` closes an assistant turn; `opener` is the last control token before an answer."""

    template: Any
    tokens: dict[str, str]
    thinks: bool
    """The template knows enable_thinking."""
    system_alone: bool
    system_first: bool
    """Whether a system turn is accepted on its own, and before a user turn."""
    end: str
    opener: str | None

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text up to and including the assistant's header. template_errors() where roles are refused."""
        return self._render(turns, True)

    def conversation(self, turns: Sequence[Turn]) -> str:
        """All turns, the answers included. template_errors() where roles are refused."""
        return self._render(turns, False)

    def _render(self, turns: Sequence[Turn], header: bool) -> str:
        asked = any(turn.role == "user" for turn in turns)
        accepted = self.system_first if asked else self.system_alone
        if turns and turns[0].role == "system" and not accepted:
            turns, asked = _without_system(turns), True
        return render(self.template, self.tokens, turns, header, self.thinks and asked)


def _without_system(turns: Sequence[Turn]) -> list[Turn]:
    """The system text moved into the first user turn, or made one."""
    system, rest = turns[0], list(turns[1:])
    if rest and rest[0].role == "user":
        return [Turn("user", f"{system.text}\n\n{rest[0].text}"), *rest[1:]]
    return [Turn("user", system.text), *rest]


def load_chat(folder: Path, controls: frozenset[str]) -> Chat:
    """The chat template of a model folder. ConfigError where there is none, or it cannot be used."""
    source, tokens = read_template(folder)
    try:
        return _probed(compile_template(source), tokens, "enable_thinking" in source, controls)
    except template_errors() as error:
        raise ConfigError(f"{folder}: the chat template cannot be used: {error}") from None


def read_template(folder: Path) -> tuple[str, dict[str, str]]:
    """Template text (chat_template.jinja before tokenizer_config.json) and named special tokens."""
    config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
    tokens = {name: _token_text(config[name]) for name in _NAMED_TOKENS if config.get(name)}
    own_file = folder / "chat_template.jinja"
    source = own_file.read_text(encoding="utf-8") if own_file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several by name
        source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
    if not isinstance(source, str) or not source.strip():
        raise ConfigError(f"{folder}: no chat template: take an instruct model, or add {own_file.name} to the folder")
    return source, tokens


def compile_template(source: str) -> Any:
    """A jinja2 template with what chat templates expect to find."""
    import jinja2.ext
    from jinja2 import TemplateError, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what is trained; here it only shows its body."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 reads it from the class

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = refuse
    # No strftime_now: today's date in the prompts would make tomorrow's resume train other tokens. Templates that
    # know it fall back to a date of their own.
    return environment.from_string(source)


def render(template: Any, tokens: dict[str, str], turns: Sequence[Turn], header: bool, no_thinking: bool) -> str:
    """What apply_chat_template(tokenize=False) gives, with enable_thinking=False or without the argument."""
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    more = {"enable_thinking": False} if no_thinking else {}
    text: str = template.render(
        messages=messages, tools=None, documents=None, add_generation_prompt=header, **tokens, **more
    )
    return text


def _probed(template: Any, tokens: dict[str, str], thinks: bool, controls: frozenset[str]) -> Chat:
    system, user = Turn("system", _PROBE), Turn("user", "x")
    opened = render(template, tokens, [user], True, thinks)
    answered = render(template, tokens, [user, Turn("assistant", _PROBE)], False, thinks)
    if _PROBE not in answered:
        raise ConfigError("the chat template leaves out the assistant's turn: take another model folder")
    pattern = control_pattern(controls)
    after = answered.rpartition(_PROBE)[2]
    closing = pattern.search(after)
    end = after[: closing.end()] if closing else tokens.get("eos_token", "")
    if not end:
        raise ConfigError("the chat template ends an answer with no special token, and there is no eos_token")
    openers = pattern.findall(opened)
    return Chat(
        template,
        tokens,
        thinks,
        _shows(template, tokens, [system], False),
        _shows(template, tokens, [system, user], thinks),
        end,
        openers[-1] if openers else None,
    )


def _shows(template: Any, tokens: dict[str, str], turns: list[Turn], no_thinking: bool) -> bool:
    try:
        return _PROBE in render(template, tokens, turns, True, no_thinking)
    except template_errors():
        return False


def template_errors() -> tuple[type[Exception], ...]:
    """What rendering raises where a template refuses the turns: on purpose, or by stumbling over them."""
    from jinja2 import TemplateError

    return TemplateError, TypeError


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _token_text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}): copy the model folder again") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object: copy the model folder again")
    return value
