"""PostgreSQL for development: a data folder a major version, started with settings of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT
from typing import ClassVar

from mqworker.devserver.error import DevServerError
from mqworker.devserver.find import Binaries
from mqworker.devserver.guard import is_alive
from mqworker.devserver.launch import Place
from mqworker.devserver.server import HOST, Server

_SETTINGS = {
    "listen_addresses": HOST,
    # No socket file: the path of a state folder may be longer than a socket's may be.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# Only what a crash of the whole machine could break. Commits still reach the operating system one by one
# (synchronous_commit stays on), so nothing is lost when a test kills the server.
_THROW_AWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer(Server):
    """One supervised PostgreSQL. User ``postgres``, no password, reachable from this machine only."""

    name = "PostgreSQL"
    # Fast shutdown, immediate shutdown, the end.
    _stop_signals: ClassVar = (SIGINT, SIGQUIT, SIGKILL)

    def __init__(self, place: Place, binaries: Binaries, *, durable: bool) -> None:
        super().__init__(place, binaries)
        self._durable = durable
        self.data_folder: Path = place.folder.path / f"pg{self._major_version()}"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def psql_line(self) -> str:
        """What to type to look inside; without any psql here still the form that works elsewhere."""
        bundled = self.binaries / "psql"
        if shutil.which("psql") or not bundled.is_file():
            return f"psql {self.url}"
        return f"{shlex.quote(str(bundled))} {self.url}"

    def _major_version(self) -> str:
        text = self._place.account.version_of(self.binaries / "initdb") or ""
        found = re.search(r"\) (\d+)", text)
        if found is None:
            raise DevServerError(f"{self.binaries / 'initdb'} does not run: it printed {text!r} for its version")
        return found[1]

    def _prepare(self) -> None:
        self._place.account.check_passes(self._place.folder.path)
        if not (self.data_folder / "PG_VERSION").exists():
            self._make_data_folder()
        self._remove_stale_pid_file()

    def _make_data_folder(self) -> None:
        """Under another name first: a folder that initdb did not finish must not be taken for a database."""
        unfinished = self.data_folder.with_name(f"{self.data_folder.name}.unfinished")
        # Some systems have no C.UTF-8; the order of texts is the same in C.
        for locale in ("C.UTF-8", "C"):
            shutil.rmtree(unfinished, ignore_errors=True)
            self._place.account.make_folder(unfinished)
            code, output = self._run_to_end(self._initdb(unfinished, locale))
            if code == 0:
                unfinished.rename(self.data_folder)
                return
        raise DevServerError(f"initdb failed with exit code {code}:\n{output}")

    def _initdb(self, folder: Path, locale: str) -> list[str]:
        command = [
            str(self.binaries / "initdb"),
            "-D",
            str(folder),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        # What is thrown away, or not durable anyway, need not reach the disk.
        lasting = self._durable and not self._place.folder.throw_away
        return [*command, f"--locale={locale}", *([] if lasting else ["--no-sync"])]

    def _remove_stale_pid_file(self) -> None:
        """A dead server's pid may belong to another process by now, and PostgreSQL would refuse to start.

        We hold the lock of the state folder: a live server here can only be one that was started by hand.
        """
        pid_file = self.data_folder / "postmaster.pid"
        pid = self._pid_file_lines()[:1]
        if pid and pid[0].isdigit() and self._works_here(int(pid[0])):
            raise DevServerError(f"another PostgreSQL (process {pid[0]}) runs in {self.data_folder}: stop it first")
        pid_file.unlink(missing_ok=True)

    def _works_here(self, pid: int) -> bool:
        try:
            return is_alive(pid) and os.path.samefile(f"/proc/{pid}/cwd", self.data_folder)
        except OSError:
            return False  # not a process of this user, so not a server on this user's data

    def _command(self, port: int) -> list[str]:
        settings = _SETTINGS | {"port": str(port)} | ({} if self._durable else _THROW_AWAY_SETTINGS)
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [str(self._binaries.program), "-D", str(self.data_folder), *options]

    def _is_ready(self, pid: int, port: int) -> bool:
        # As pg_ctl does it: the first line is the pid, the eighth the state.
        lines = self._pid_file_lines()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7] == "ready"

    def _pid_file_lines(self) -> list[str]:
        try:
            return [line.strip() for line in (self.data_folder / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []
