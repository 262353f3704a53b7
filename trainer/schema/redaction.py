"""Text without what looks like a credential: for whatever leaves a program, kctl's terminal as the pod's log.

Three kinds. Shapes that only credentials have: in any text, since names, digests and commits have none of them.
What stands after words like `token=`: in words of others, such as logs, events and errors. And to the letter, what
this process's own environment holds under such a name.

The text is anybody's: every pattern must take time in proportion to it, so none begins amid its own repeats.
"""

import os
import re
from collections.abc import Callable
from functools import cache

HIDDEN = "[secret]"

_SIGNS = (
    *("hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "AKIA", "ASIA", "xox", "AIza"),
    *("npm_", "pypi-", "local-", "eyJ", "LS0tLS", "PRIVATE KEY", "://", "ignature="),
)
_KNOWN = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY(?:.*?-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|.*)"
    r"|(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[\w-]{16,}"
    r"|sk-(?:(?:proj|ant|svcacct|admin|or|lf)-[\w-]{16,}|[A-Za-z0-9]{20,})|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|xox[abeprs]-[\w-]{10,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|local-[0-9a-f]{40}"
    r"|eyJ(?:[A-Za-z0-9]|[-_](?!eyJ)){8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?|LS0tLS1CRUdJTi[A-Za-z0-9+/=]+)"
    r"|(?<=://)(?:[^/@\s:]*:[^/@\s]+|(?=[\w-]*[0-9])[\w-]{20,}:?)(?=@)"
    r"|(?<=[?&])(?:[\w-]*(?i:token|signature|credential|api[_-]?key)|sig)=[^&\s\"'<>]{6,}"
)
"""Model hubs, APIs, code hosts, clouds, chats, registries, JWT, PEM (plain and in base64), passwords and signatures in
URLs. Of a PEM without its end all that follows. A text that has one has one of _SIGNS: most texts have none,
and are told in a microsecond."""

_KEY_LINE = (
    r"(?=[A-Z/+0-9]*[a-z])(?=[a-z/+0-9]*[A-Z])(?=[A-Za-z/+]*[0-9])"
    r"(?:[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{70}|[A-Za-z0-9+/]{76})"
)
"""From the inside of a PEM whose begin was not seen (OpenSSL's, OpenSSH's, MIME's width); a sha256 has no capitals."""

_KEY_BEGINS, _KEY_ENDS = (rf"-----{side} [A-Z ]*PRIVATE KEY(?: BLOCK)?-----" for side in ("BEGIN", "END"))
KEY_LINES = 200
"""Lines after a key's begin that are hidden where its end does not come; RSA of 8192 bits has 100."""

_WORDS = (
    r"(?:token|[_-]key|key-data|secret(?:key)?|pass(?:w(?:or)?d|phrase)|credentials?|privatekey"
    r"|a(?:uthorization|(?:pi|ccount|ccess)key)|(?-i:_(?:CREDS|AUTH|PAT)))\d{0,2}"
    r"|(?-i:_(?:PASS|PWD|PW))\d{0,2}(?=[\s\"'\\:=,\]]{1,9}(?![/~.])[^\s\"',;&]{0,99}?[A-Za-z])"
)
"""The last six in capitals alone; the last three hold a letter, and are no path: N_PASS=12345678 is a count."""
_HINTS = (
    *("token", "key", "secret", "passw", "passphrase", "auth", "credential", "bearer", "basic"),
    *("_pass", "_pwd", "_pw", "_pat", "_creds"),
)
_QUOTE = r"""\\*["']"""
_ASSIGNED = (
    rf"(?i)((?:{_WORDS})(?:{_QUOTE})?(?:,?\s*(?:{_QUOTE})?value(?:{_QUOTE})?|\])?\s*[=:]\s*(?:{_QUOTE})?"
    r"(?:(?:bearer|basic|token|api-?key) )?"
    rf"|--(?<![\w-]--)[\w-]*(?:{_WORDS}|key)(?:{_QUOTE},\s*{_QUOTE}(?!--)|\s+(?:{_QUOTE})?)"
    rf"|[\"']auth{_QUOTE}\s*:\s*{_QUOTE}|b(?<=\bb)(?:earer|asic) (?=[\w.~+/=-]{{16}}))"
    r"(?![\"'\s<\[{]|\$[({A-Z])[^\s\"',;&]{8,}"
)
"""NAME=VALUE, `NAME: VALUE`, `"NAME": "VALUE"` (in JSON in JSON, too), a container's `"name": NAME, "value": VALUE`,
x['NAME']=VALUE, `--NAME VALUE`, `"--NAME", "VALUE"` and an authorization's own words; $(NAME) is none. A text that has
one has one of _HINTS."""

_PASSWORD = r"PASS(?:WORD|WD|PHRASE|CODE)S?\d*(?:_|$)"
_SHORT_PASSWORD = r"(?:^|_|DB|SSH)PASS\d*$|_PWD?\d*$"
_NAMED = (
    r"(?:^|_)(?:API|ACCESS|ACCOUNT|AUTH|CLIENT|ENCRYPTION|HF|PASS|PRIVATE|SECRET|SIGNING|SSH)?"
    r"(?:TOKENS?|KEY|SECRETS?|CREDENTIALS?|CREDS|PAT|JWT)\d*(?:_|$)"
    rf"|{_PASSWORD}|{_SHORT_PASSWORD}|(?:^|_)AUTH(?:ORIZATION)?$"
)
"""Whole words of a name: PATH, PASSES, TOKENIZERS and AUTHOR are others, and so is PASS before other words. PWD by
itself is a folder, AUTH before other words tells of a URL, a socket or a kind."""

_OPAQUE = (
    r"(?=.*[0-9])(?=.*[A-Za-z])[^\s/~.][^\s]{7,}|[^\s/~.][^\s]{19,}"
    r"|(?=.*[0-9])(?=.*[A-Z])(?=.*[a-z])/[A-Za-z0-9+/=]{31,}"
)
"""A value of the environment that is no word, path or switch. One in 64 keys in base64 begins with a slash: so does a
path, but rarely one so long without a dot, a dash or an underscore."""


def known_in(text: str) -> bool:
    """True where `text` holds a well-known kind of credential."""
    return _signed(text) and bool(re.search(_KNOWN, text, re.DOTALL))


def found_in(text: str) -> bool:
    """True where `text` holds one, or something that is called one."""
    return known_in(text) or bool(re.search(_ASSIGNED, text))


def names_credential(name: str) -> bool:
    """True for an environment variable or a field of such a name: HF_TOKEN, db_pass, hubToken."""
    return bool(re.search(_NAMED, _words_of(name)))


def names_password(name: str) -> bool:
    """True where it is a password, whose value may be short or a word."""
    return bool(re.search(_PASSWORD, _words_of(name)))


def may_name_password(name: str) -> bool:
    """True for DB_PASS and FTP_PWD: as likely as not a password; TWO_PASS and OLD_PWD are none."""
    return bool(re.search(_SHORT_PASSWORD, _words_of(name)))


def without_known(text: str) -> str:
    """`text` without well-known kinds of credentials: for any text, manifests and tables too."""
    return re.sub(_KNOWN, HIDDEN, text, flags=re.DOTALL) if _signed(text) else text


def redacted(text: str) -> str:
    """`text` without all that looks like a credential: for words of others, such as events, errors and logs."""
    for own in _own():
        text = text.replace(own, HIDDEN)
    lower = text.lower().replace("tokens", "")  # each line of a step has tokens_per_s
    if any(map(lower.__contains__, _HINTS)):
        text = re.sub(_ASSIGNED, rf"\1{HIDDEN}", text)
    if len(text) < 80 and re.fullmatch(_KEY_LINE, text.strip()):
        return text.replace(text.strip(), HIDDEN)
    return without_known(text)


def line_by_line() -> Callable[[str], str]:
    """redacted() for the lines of one log, given in their order: of a private key it hides all lines to its end."""
    unended, left = 0, 0

    def clean(line: str) -> str:
        nonlocal unended, left
        inside = unended > 0
        if "PRIVATE KEY" in line:
            begun, ended = (len(re.findall(edge, line)) for edge in (_KEY_BEGINS, _KEY_ENDS))
            unended, left = max(0, unended + begun - ended), KEY_LINES if begun else left
        elif inside:
            left -= 1
            unended = unended if left else 0
        else:
            return redacted(line)
        said = line.rstrip("\r\n")
        return (HIDDEN if inside else redacted(said)) + line[len(said) :]

    return clean


def _signed(text: str) -> bool:
    return any(map(text.__contains__, _SIGNS))


def _words_of(name: str) -> str:
    """dbPassword as DB_PASSWORD, APIKey as API_KEY."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|\W", "_", name).upper()


@cache
def _own() -> tuple[str, ...]:
    """Values of this process's environment, read once, whose names say what they are; the longest first."""
    found = {value for name, value in os.environ.items() if names_credential(name) and re.fullmatch(_OPAQUE, value)}
    return tuple(sorted(found, key=len, reverse=True))
