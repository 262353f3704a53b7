"""kctl data validate: everything that is wrong in a file."""

import sys

from kctl.commands.data.arguments import FileArgument, FormatOption, data_of, reading


def validate(file: FileArgument, data_format: FormatOption = None) -> None:
    """Print each flaw with its row, line, byte and item, one a line; exit code 1 where a run would refuse the file.

    Items that are well-formed but cannot be trained (an empty answer, ...) are printed, too: a run leaves them out.

    \b
    Examples:
      kctl data validate train.json
      kctl data validate chats.jsonl --format messages | head
    """
    from collections import Counter

    from kctl import console
    from kctl.errors import KctlError
    from trainer.dataset.checking import findings
    from trainer.dataset.subset import Counts
    from trainer.schema.redaction import redacted

    data = data_of(file, data_format, None, [])
    counts, found = Counts(), Counter[bool]()
    with reading(file, alone=not sys.stdout.isatty()) as progress, console.Lines() as lines:
        for finding in findings(file, data.format, counts, progress):
            found[finding.ends_run] += 1
            text = redacted(finding.text)
            lines.write(console.printable(text if finding.ends_run else f"{text} (left out)"))
    read = f"{counts.rows} rows, {counts.users} users, {counts.items} items of format {data.format}"
    if found[True]:
        raise KctlError(f"{file}: {found[True]} errors that would end a run; {read} could be read")
    console.say(f"{file}: {read}; {found[False]} of them would be left out")
