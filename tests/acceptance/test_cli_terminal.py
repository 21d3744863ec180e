"""The commands on a terminal of 80 columns and 24 lines: they ask, they draw, they end by a key, they fit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mqworker import MessageQueue
from mqworker.devserver import PostgresServer
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.conftest import process_environment

WIDTH, HEIGHT = 80, 24
_COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self._screen, keyboard = pty.openpty()
        fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        os.set_blocking(self._screen, False)
        self._shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mqworker", *arguments],
            env=dict(environment),
            cwd=folder,
            stdin=keyboard,
            stdout=keyboard,
            stderr=keyboard,
            start_new_session=True,
        )
        os.close(keyboard)

    @property
    def raw(self) -> str:
        """All that it has shown."""
        # BlockingIOError where there is nothing more yet, another OSError where it has ended.
        with contextlib.suppress(OSError):
            while piece := os.read(self._screen, 65536):
                self._shown += piece
        return self._shown.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without colours and cursor movements."""
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    @property
    def echoes(self) -> bool:
        """Whether the keys that are pressed are shown, as a shell wants it."""
        return bool(termios.tcgetattr(self._screen)[3] & termios.ECHO)

    async def shows(self, text: str) -> None:
        """Wait for it."""
        await eventually(lambda: text in self.text, f"{text!r} is shown", timeout_seconds=20)

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    async def ends(self) -> int:
        """Wait for its exit code, and read what came last."""
        await eventually(lambda: self.raw and self.process.poll() is not None, "it ends", timeout_seconds=20)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._screen)


@pytest.fixture
def terminal(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts commands on terminals; they end with the test."""
    started: list[Terminal] = []
    of_others = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
    plain = {name: value for name, value in environment.items() if name not in of_others} | {"TERM": "xterm"}

    def start(*arguments: str, **changes: str) -> Terminal:
        started.append(Terminal(list(arguments), plain | changes, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.close()


async def fill(queue: MessageQueue, *chats: str) -> None:
    await queue.enqueue_many([{"instance": "shop", "client_id": 7, "chat_id": chat, "payload": {}} for chat in chats])


async def test_what_cannot_be_undone_is_asked_for(queue: MessageQueue, terminal: Callable[..., Terminal]) -> None:
    await fill(queue, "a", "a", "b")
    for answer, code, told, left in (
        ("n", 1, "nothing was changed", 3),
        ("y", 0, "2 cancelled", 1),
    ):
        asking = terminal("cancel-pending", "--instance", "shop", "--chat", "a")
        await asking.shows("Cancel all messages of shop/a that wait? [y/N]: ")
        asking.type(f"{answer}\n")
        assert await asking.ends() == code
        assert told in asking.text
        assert (await queue.get_stats("shop")).pending == left


async def test_top_goes_on_until_q(queue: MessageQueue, terminal: Callable[..., Terminal]) -> None:
    await fill(queue, "a", "b")
    top = terminal("top")
    await top.shows("0 in flight, 2 waiting (counted ")
    await fill(queue, "c")
    await top.shows("0 in flight, 3 waiting")
    assert "\x1b[?1049h" in top.raw, "on a screen of its own"
    top.type("q")
    assert await top.ends() == 0
    assert "\x1b[?1049l" in top.raw, "and back to the shell's"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_top_ends_by_a_signal_and_leaves_the_terminal_as_it_was(
    number: signal.Signals, queue: MessageQueue, terminal: Callable[..., Terminal]
) -> None:
    await fill(queue, "a")
    top = terminal("top", "--instance", "shop")
    await eventually(lambda: not top.echoes, "its keys are not shown", timeout_seconds=20)
    await top.shows("1 waiting")
    top.process.send_signal(number)
    assert await top.ends() == 0
    assert top.echoes
    assert "Traceback" not in top.text


async def test_top_outlives_an_outage(
    own_settings: Settings, own_postgres: PostgresServer, terminal: Callable[..., Terminal]
) -> None:
    changes = process_environment(
        own_settings.database_url.get_secret_value(), own_settings.redis_url.get_secret_value()
    )
    top = terminal("top", **changes)
    await top.shows("0 waiting")
    own_postgres.kill()
    await top.shows("PostgreSQL cannot be reached")
    top.type("Q")
    assert await top.ends() == 0


async def test_tables_fit_and_are_cut_at_their_ends(queue: MessageQueue, terminal: Callable[..., Terminal]) -> None:
    await fill(queue, "a long chat id that no terminal of eighty columns has the room for")
    (message,) = await queue.list("shop")
    listed, doctor, plain = terminal("list"), terminal("doctor"), terminal("doctor", NO_COLOR="1")
    for shown in (listed, doctor, plain, terminal("top", "--once")):
        await shown.ends()
        assert max(map(len, shown.text.splitlines())) <= WIDTH
    assert f"{message.id}  PENDING" in listed.text
    assert "shop/a long chat" in listed.text
    assert _COLOUR.search(doctor.raw)
    assert not _COLOUR.search(plain.raw)


async def test_a_pipe_gets_no_colours_and_whole_lines(
    queue: MessageQueue, environment: dict[str, str], tmp_path: Path
) -> None:
    name = "a long chat id that no terminal of eighty columns has the room for"
    await fill(queue, name)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mqworker", *arguments],
            env=environment | {"TERM": "xterm"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for arguments in (["list"], ["doctor"], ["--help"], ["nonsense"])
    ]
    printed = [process.communicate(timeout=30)[0] for process in processes]
    assert [one for one in printed if b"\x1b" in one] == []
    assert printed[0].endswith(f"shop/{name}\n".encode())


async def test_a_reader_that_has_seen_enough_is_no_error(
    queue: MessageQueue, environment: dict[str, str], tmp_path: Path
) -> None:
    await fill(queue, *(["a"] * 50))
    command = f"{sys.executable} -m mqworker list --json | head -1"
    piped = subprocess.run(["bash", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (piped.stdout.count("\n"), piped.stderr) == (1, "")
