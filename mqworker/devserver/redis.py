"""Redis or Valkey for development: memory only by default, because PostgreSQL holds what must last."""

from __future__ import annotations

import shutil
import socket
from signal import SIGKILL, SIGTERM
from typing import ClassVar

from mqworker.devserver.find import Binaries
from mqworker.devserver.launch import Place
from mqworker.devserver.server import HOST, Server

_SETTINGS = {
    "bind": HOST,
    "protected-mode": "yes",
    "daemonize": "no",
    # A stream of one entry takes 0.65 KB instead of the 4.3 KB of the default 4096, and there is one a chat.
    "stream-node-max-bytes": "256",
    # Never evict: a chat that vanished from memory would wait for the next reconcile.
    "maxmemory-policy": "noeviction",
    "save": "",
}


class RedisServer(Server):
    """One supervised Redis or Valkey. No password, reachable from this machine only."""

    name = "Redis"
    _stop_signals: ClassVar = (SIGTERM, SIGKILL)

    def __init__(self, place: Place, binaries: Binaries, *, appendonly: bool) -> None:
        super().__init__(place, binaries)
        self._appendonly = appendonly
        self.data_folder = place.folder.path / "redis"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def cli_line(self) -> str:
        """What to type to look inside."""
        program = next((name for name in ("redis-cli", "valkey-cli") if shutil.which(name)), "redis-cli")
        return f"{program} -u {self.url}"

    def _prepare(self) -> None:
        self._place.account.check_passes(self._place.folder.path)
        self._place.account.make_folder(self.data_folder)

    def _command(self, port: int) -> list[str]:
        settings = _SETTINGS | {
            "port": str(port),
            "dir": str(self.data_folder),
            "appendonly": "yes" if self._appendonly else "no",
        }
        options = [word for key, value in settings.items() for word in (f"--{key}", value)]
        return [str(self._binaries.program), *options]

    def _is_ready(self, pid: int, port: int) -> bool:
        info = _info(port)
        return info.get("process_id") == str(pid) and info.get("loading") == "0"


def _info(port: int) -> dict[str, str]:
    """What INFO says; empty if nobody answers. By hand, because a client library would retry and wait."""
    try:
        with (
            socket.create_connection((HOST, port), timeout=1) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(b"INFO\r\n")
            header = answer.readline()
            body = answer.read(int(header[1:])) if header.startswith(b"$") else b""
    except (OSError, ValueError):
        return {}
    return dict(line.split(":", 1) for line in body.decode(errors="replace").splitlines() if ":" in line)
