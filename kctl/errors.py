"""kctl's errors as one tree; the class is the exit code. Caught once, in kctl.cli.run.

KctlError           1  anything a person can act on
|-- Damaged         1  a file is not what its manifest says
|-- UsageError      2  the command line or a config is wrong; nothing was written
|-- RunFailed       3  the run ended without success
|-- NotFound        4  no such run, config or file
|-- Unreachable     5  the cluster does not answer
|-- Refused         6  the cluster said no (rights, admission, conflict)
|   `-- AlreadyExists  an object of that name is there
`-- TimedOut        7  waited as long as asked
"""


class KctlError(Exception):
    """The message says what, where and what to do next."""

    exit_code = 1


class Damaged(KctlError):
    """Nothing of it was kept."""


class UsageError(KctlError):
    exit_code = 2


class RunFailed(KctlError):
    exit_code = 3


class NotFound(KctlError):
    exit_code = 4


class Unreachable(KctlError):
    exit_code = 5


class Refused(KctlError):
    exit_code = 6


class AlreadyExists(Refused):
    """The create was refused with 409: the caller compares and decides."""


class TimedOut(KctlError):
    exit_code = 7
