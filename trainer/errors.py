"""Every way a run can end, as one tree; the class is the exit code of the contract (trainer.schema.contract).

TrainerError
|-- ConfigError        2  the run config is wrong, or asks for what cannot be done
|-- DataError          3  the data set cannot be read, or nothing of it is left
|-- Diverged           5  the loss or the gradients are no numbers any more
|-- CheckpointError    6  a checkpoint cannot be used
|   `-- CheckpointDamaged  it is not what was written: the one before may do
|-- RunsFolderError    7  the runs folder is full, read-only or somebody else's
|-- AttemptsUsedUp     8  three attempts without a new checkpoint
|-- TimeLimit          9  max_hours is over; the run is saved
|-- OwnershipLost    138  another pod writes this run now
|-- Preempted        143  told to stop; the run is saved
`-- PeersAbsent      153  the ranks did not find each other

Everything else that ends a process is retryable. Torch-free: the launcher raises these before torch is imported.
"""

from trainer.schema.contract import ExitCode


class TrainerError(Exception):
    """Ends the run with `code`; the message is one sentence with what, where and what to do."""

    code = ExitCode.UNKNOWN


class ConfigError(TrainerError):
    code = ExitCode.CONFIG


class DataError(TrainerError):
    code = ExitCode.DATA


class Diverged(TrainerError):
    code = ExitCode.DIVERGED


class CheckpointError(TrainerError):
    code = ExitCode.CHECKPOINT


class CheckpointDamaged(CheckpointError):
    pass


class RunsFolderError(TrainerError):
    code = ExitCode.RUNS_FOLDER


class AttemptsUsedUp(TrainerError):
    code = ExitCode.ATTEMPTS


class TimeLimit(TrainerError):
    code = ExitCode.TIME_LIMIT


class OwnershipLost(TrainerError):
    code = ExitCode.OWNERSHIP_LOST


class Preempted(TrainerError):
    code = ExitCode.PREEMPTED


class PeersAbsent(TrainerError):
    code = ExitCode.RENDEZVOUS


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line of at most 256 characters; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:256]
