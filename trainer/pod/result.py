"""What is left of a finished attempt: result.json on the volume, and the termination message that kctl shows.

result.json exists only for what is final: success, or a failure that another attempt cannot help.
"""

import json
from pathlib import Path
from typing import Any

from trainer.atomic import read_object, write_json
from trainer.pod.outcome import Outcome, finite
from trainer.pod.ownership import Ownership
from trainer.schema.contract import MANIFEST, TERMINATION_LIMIT, TERMINATION_LOG, ExitCode, Phase, RunFolder


def done_already(folder: RunFolder, run: str) -> Outcome | None:
    """The success on record, where the adapter is there too; None where there is work to do."""
    result = read_object(folder.result)
    if result.get("phase") != Phase.SUCCEEDED or not (folder.adapter / MANIFEST).is_file():
        return None
    sentence = f"{run} has succeeded already; nothing to do: kctl pull {run}"
    return Outcome(ExitCode.SUCCEEDED, sentence, progress=result)


def phase_of(code: ExitCode) -> Phase:
    """The pod's phase after an attempt with this end: whatever is not final is started again."""
    if code is ExitCode.SUCCEEDED:
        return Phase.SUCCEEDED
    return Phase.FAILED if code.permanent else Phase.RESTARTING


def message_of(outcome: Outcome) -> dict[str, Any]:
    """Phase, code, sentence and where the run stood: common to result.json and the termination message."""
    known = {**outcome.summary, **outcome.progress}
    where = {name: known.get(name) for name in ("step", "steps", "loss", "eval_loss")}
    if outcome.attempt is not None:
        where["attempt"] = outcome.attempt
    return {"phase": phase_of(outcome.code), "code": int(outcome.code), "sentence": outcome.sentence, **where}


def write_result(folder: RunFolder, ownership: Ownership, outcome: Outcome) -> None:
    """result.json of a final outcome, summary included; nothing for an attempt that will be followed by another."""
    if phase_of(outcome.code).finished:
        attempt = {"attempt": ownership.owner.attempt}
        value = {**finite(outcome.summary), **message_of(outcome), **attempt}
        write_json(folder.result, value, ownership.check)


def write_termination_message(outcome: Outcome, path: str | None) -> None:
    """One line of JSON where Kubernetes looks for it; `path` None: its default place, if this is a container."""
    target = Path(path or TERMINATION_LOG)
    if not path and not target.exists():
        return
    try:
        target.write_bytes(fitted(message_of(outcome), TERMINATION_LIMIT))
    except OSError as error:
        print(f"{target}: the termination message cannot be written: {error.strerror}", flush=True)


def fitted(message: dict[str, Any], limit: int) -> bytes:
    """The message as UTF-8 JSON of at most `limit` bytes; the sentence is cut, at a character's edge."""
    sentence = str(message["sentence"])
    encoded = _encoded(message, sentence)
    if len(encoded) <= limit:
        return encoded
    shortest, longest = 0, len(sentence)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if len(_encoded(message, sentence[:middle] + "...")) <= limit:
            shortest = middle
        else:
            longest = middle - 1
    return _encoded(message, sentence[:shortest] + "...")


def _encoded(message: dict[str, Any], sentence: str) -> bytes:
    return json.dumps({**message, "sentence": sentence}, ensure_ascii=False).encode("utf-8", errors="replace")
