"""What a run's sample and validation make of a file, and what of the held-out items its training gives away."""

from pathlib import Path

from trainer.dataset.selecting import select
from trainer.dataset.splitting import COPY
from trainer.dataset.stats import Division
from trainer.schema.data import Data


def divide(data: Data, root: Path) -> Division:
    """The run's own selection, before anything is tokenised: the whole file is held in memory, as the run does it.

    DataError where a file is wrong.
    """
    chosen = select(data, root)
    answers = {item.answer for item in chosen.train}
    users = {item.user.identity for item in chosen.train}
    both = {item.user.identity for item in chosen.held} & users - {None}
    return Division(
        train=len(chosen.train),
        held_out=len(chosen.held),
        copies=chosen.dropped[COPY],
        repeated_answers=chosen.repeated_answers,
        answers=sum(item.answer in answers for item in chosen.held),
        shown=chosen.seen_validation_answers,
        users=len(both),
    )
