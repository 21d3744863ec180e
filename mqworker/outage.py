"""Say once that a server is away, and once that it is back; many loops meet the same outage."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Outage:
    """One server's absence, as the parts of a worker notice it."""

    def __init__(self, server: str, meanwhile: str) -> None:
        self._server = server
        self._meanwhile = meanwhile
        self.away = False

    def noticed(self, error: Exception) -> None:
        """A call failed because the server is away."""
        if not self.away:
            log.warning(
                "%s is away: %s", self._server, self._meanwhile, extra={"reason": str(error) or type(error).__name__}
            )
        self.away = True

    def over(self) -> None:
        """A call was answered."""
        if self.away:
            log.info("%s is back", self._server)
        self.away = False
