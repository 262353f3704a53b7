"""How long a cluster that fails us is borne with: a restart of its API server takes half a minute, and in the middle of
it even an administrator is refused for a moment. Knows nothing of what is asked for.
"""

import math
import time

from kctl.errors import KctlError, Refused

PATIENCE_SECONDS = 20.0
"""A refusal that lasts longer than this is meant."""
GIVE_UP_SECONDS = 120.0
"""After this long without an answer, whoever follows or fetches something ends with the error."""


class Trouble:
    """How long the server has been failing us, and how long to pause before the next try."""

    def __init__(self, patience: float, deadline: float = math.inf) -> None:
        self._patience, self._deadline = patience, deadline
        self._since: float | None = None
        self._pause = 0.2

    def over(self) -> None:
        """The server answered."""
        self._since, self._pause = None, 0.2

    def again(self, error: KctlError) -> None:
        """Sleep before another try, or raise `error`: it has lasted too long, or a refusal is meant."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        patience = min(PATIENCE_SECONDS, self._patience) if isinstance(error, Refused) else self._patience
        if now - self._since > patience or now + self._pause >= self._deadline:
            raise error
        time.sleep(self._pause)
        self._pause = min(5.0, self._pause * 2)
