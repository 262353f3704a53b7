"""Credentials of every kind as they stand in configs, logs and errors: made up, and put together here so that no
scanner of repositories takes one for real."""

_WORD = "Zq8rT2xK9vLm4NpW6yBd"
_LONG = _WORD + "aHc3" + _WORD
_HEX = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"
_PEM = "MIIEpAIBAAKCAQEA0Zq8rT2xK9vLm4NpW6yBdHc3Zq8rT2xK9vLm4NpW6yBdHc3Z"


def _pem(kind: str) -> str:
    return f"-----BEGIN {kind}PRIVATE KEY-----\\n{_PEM}\\n-----END {kind}PRIVATE KEY-----"


def key_lines(width: int, kind: str) -> list[str]:
    """A made-up private key as tools write it, line by line: all lines full but the last."""
    inside = (_LONG * 40)[: 12 * width + 22] + "=="
    lines = [inside[at : at + width] for at in range(0, len(inside), width)]
    return [f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"]


SHAPED = {
    **{
        f"{start} of a hub or an API": start + _LONG
        for start in ("hf_", "sk-", "sk-proj-", "sk-ant-api03-", "sk-or-v1-")
    },
    **{f"{start} of a code host": start + _WORD for start in ("gh" + "p_", "gho_", "ghu_", "ghs_", "ghr_", "glpat-")},
    "a fine-grained token": "github" + "_pat_" + _LONG,
    **{f"{start} of a cloud": start + "Q7Z2" * 4 for start in ("AK" + "IA", "AS" + "IA")},
    **{f"{start} of a chat": start + "-123456789012-" + _WORD for start in ("xox" + "b", "xox" + "p", "xox" + "s")},
    "a Google key": "AI" + "za" + _LONG[:35],
    "a token of npm": "npm_" + _LONG[:36],
    "a token of PyPI": "pypi-" + _LONG,
    "a key of a wandb server": "local-" + _HEX,
    "a JWT": f"eyJhbGciOiJI{_WORD}.eyJzdWIiOiIx{_WORD}.{_LONG}",
    "a JWT without its end": f"eyJhbGciOiJI{_WORD}.eyJzdWIiOiIx{_WORD}",
    **{f"a PEM {kind}key": _pem(kind) for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")},
    "a kubeconfig's key": "LS0tLS1CRUdJTi" + _LONG * 3 + "==",
}
"""Kind -> credential that is one by its shape alone."""

IN_URLS = {
    "a proxy": ("http://ann:", "s3cr3t-Hunter", "@proxy.example.com:3128"),
    "a database": ("postgresql://kctl:", "P4ss%2Fw0rd", "@db:5432/runs"),
    "a password without a user": ("redis://:", "hunter2hunter2", "@cache:6379/0"),
    "a repository": ("https://x-access-token:", _WORD, "@git.example.com/a.git"),
    "a token as the user": ("https://", _WORD, "@git.example.com/a.git"),
    "a token as the user without a password": ("https://", _WORD, ":@git.example.com/a.git"),
    "an S3 signature": ("https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=", _HEX, ""),
    "an S3 token": ("https://b.s3.amazonaws.com/k?X-Amz-Security-Token=", _LONG, "&x=1"),
    "a GCS signature": ("https://storage.googleapis.com/b/k?X-Goog-Signature=", _HEX, ""),
    "an Azure signature": ("https://a.blob.core.windows.net/c?sv=1&sig=", _LONG + "%3D", "&se=2"),
    "a token": ("https://example.com/x?token=", _WORD, ""),
    "an access token": ("https://example.com/x?a=1&access_token=", _WORD, "#y"),
    "an API key": ("https://example.com/x?api_key=", _WORD, ""),
}
"""Kind -> a URL in three pieces; the middle one is the credential."""

CALLED = {
    "a key of wandb": ("WANDB_API_KEY=", _HEX, ""),
    "a variable": ("HF_TOKEN=", "opaque-0123-opaque", ""),
    "a cloud's secret key": ("AWS_SECRET_ACCESS_KEY: ", _LONG, ""),
    "a password": ("password=", "hunter2hunter2", ""),
    "a quoted password": ("passwd: '", "hunter2hunter2", "'"),
    "a variable of a password": ("DB_PASS=", "hunter2hunter2", ""),
    **{
        f"a variable called {name}": (f"{name}=", "hunter2hunter2", "")
        for name in ("DB_PASS2", "DB_PW", "REGISTRY_AUTH", "HUB_CREDS", "S3_KEY2")
    },
    "a variable of a code host": ("GITHUB_PAT: '", "opaque-0123-opaque", "'"),
    "a passphrase": ("passphrase: ", "correct-horse-battery", ""),
    "a kubeconfig's token": ("token: ", _WORD, ""),
    "a token in JSON": ('{"token": "', _WORD, '"}'),
    "a key's data": ("client-key-data: ", _LONG * 2, ""),
    "a registry's login": ('{"auths": {"r.example.com": {"auth": "', "YW5uOmh1bnRlcjJodW50ZXIy", '"}}}'),
    "a header": ("Authorization: Bearer ", _WORD, ""),
    "a basic header": ("authorization: Basic ", "YW5uOmh1bnRlcjJodW50ZXIy", ""),
    "a bearer": ("curl -H 'Bearer ", _LONG, "'"),
    "an option": ("run --hub-token ", _WORD, " --x"),
    "an option with =": ("run --password=", "hunter2hunter2", " --x"),
    "a secret": ("client_secret = ", _WORD, ""),
    "an API key's header": ("x-api-key: ", _WORD, ""),
    "a header with a token": ("Authorization: Token ", _WORD, ""),
    "a header with a key": ('"Authorization": "ApiKey ', _WORD, '"'),
    "a password in JSON in JSON": ('{\\"password\\": \\"', "hunter2hunter2", '\\"}'),
    "a storage account": ("AccountName=runs;AccountKey=", _LONG + "==", ";EndpointSuffix=core.windows.net"),
    "a service bus": ("SharedAccessKeyName=RootManage;SharedAccessKey=", _LONG + "=", ";EntityPath=runs"),
    "a container's variable": ('{"name":"HF_TOKEN","value":"', "opaque-0123-opaque", '"}'),
    "a program's variable": ("os.environ['HF_TOKEN']='", "opaque-0123-opaque", "'"),
    "an argument": ('["--token", "', "opaque-0123-opaque", '"]'),
    "an argument in single quotes": ("['--api-key','", "opaque-0123-opaque", "']"),
    "a quoted option": ("run --auth-token '", "opaque-0123-opaque", "'"),
    "credentials": ("credentials=", "ann/hunter2hunter2", ""),
}
"""Kind -> words of somebody in three pieces; the middle one is the credential."""

PLANTED: dict[str, tuple[str, str]] = {
    **{kind: (text, text) for kind, text in SHAPED.items()},
    **{kind: ("".join(pieces), pieces[1]) for kind, pieces in IN_URLS.items()},
    **{f"{kind}, by its name": ("".join(pieces), pieces[1]) for kind, pieces in CALLED.items()},
}
"""Kind -> (the words in which it stands, the credential)."""


def leaks(text: str | bytes) -> list[str]:
    """The kinds of planted credentials that can be read in `text`."""
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return [kind for kind, (_, secret) in PLANTED.items() if secret in said or secret.replace("\\n", "\n") in said]
