"""`mqworker demo`, whole: what it says, and that nothing of it is left however it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mqworker.cli.demo.play import clean_environment
from mqworker.devserver.guard import descendants, is_alive
from mqworker.testing.waiting import wait_until
from tests.acceptance.test_cli import Running

CHATS = ("5511900000001@c.us", "120363000000000005@g.us")


def write(path: Path, messages: list[tuple[str, dict[str, object]]]) -> Path:
    path.write_text(
        "".join(
            json.dumps({"instance": "shop", "client_id": 7, "chat_id": chat, **fields}) + "\n"
            for chat, fields in messages
        )
    )
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two chats, with a priority, one that fails once and one that never goes."""
    return write(
        tmp_path / "small.jsonl",
        [
            (CHATS[0], {"payload": {"text": "first of Ana"}}),
            (CHATS[1], {"payload": {"text": "first of all", "fail_times": 1}, "is_group": True}),
            (CHATS[0], {"payload": {"text": "never", "fail_always": "permanent"}}),
            (CHATS[1], {"payload": {"text": "second of all"}, "is_group": True}),
            (CHATS[0], {"payload": {"text": "urgent"}, "priority": 5}),
        ],
    )


def throw_away_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("mqworker-throwaway-*"))


def test_a_file_of_ones_own(small: Path, tmp_path: Path) -> None:
    # Settings of the user's, in the environment and in a .env, must neither be used nor be touched.
    elsewhere = "postgresql://nobody@127.0.0.1:1/production"
    (tmp_path / ".env").write_text(f"MQWORKER_DATABASE_URL={elsewhere}\nMQWORKER_APP=no:thing\n")
    result = subprocess.run(
        [sys.executable, "-m", "mqworker", "demo", str(small)],
        env=clean_environment() | {"MQWORKER_DATABASE_URL": elsewhere, "HTTP_PROXY": "http://127.0.0.1:1"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    out = result.stdout
    ana, family = out.split(CHATS[0])[1].split(CHATS[1])
    assert list(re.findall(r"urgent|first of Ana|never", ana)) == ["urgent", "first of Ana", "never"]
    assert "not sent: HTTP 400" in ana
    assert "2 sent, gaps from " in ana
    assert family.index("first of all") < family.index("second of all")
    assert "sent at attempt 2" in family
    assert "pending 0  processing 0  completed 4  failed 1  cancelled 0" in out
    assert "Nothing was lost, reordered, doubled or too fast." in out
    assert "\x1b" not in out
    assert "of 5 sent" in result.stderr


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", [(CHATS[0], {"payload": {}}), (CHATS[0], {"payload": {}, "priority": 101})])
    before = throw_away_folders()
    result = subprocess.run(
        [sys.executable, "-m", "mqworker", "demo", str(file)], env=clean_environment(), capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: line 2: priority: must be from -100 to 100, got 101\n"
    assert throw_away_folders() == before


@pytest.mark.parametrize(
    ("number", "group", "moment"),
    [
        (signal.SIGINT, False, "starting PostgreSQL"),
        (signal.SIGINT, False, "in flight"),
        (signal.SIGINT, True, "in flight"),
        (signal.SIGTERM, False, "in flight"),
        (signal.SIGTERM, True, "up and migrated"),
    ],
)
def test_ended_by_a_signal(number: signal.Signals, group: bool, moment: str, tmp_path: Path) -> None:
    with Running(["demo"], clean_environment(), tmp_path) as demo:
        demo.until(moment)
        processes = descendants(demo.process.pid)
        if moment == "in flight":
            # PostgreSQL, Redis, gateway and two workers, each with its guard.
            wait_until(lambda: len(descendants(demo.process.pid)) >= 10, "all processes run")
            processes = descendants(demo.process.pid)
        assert demo.end(number, group=group) == 128 + number
        assert not [pid for pid in processes if is_alive(pid)]
        assert "stopped; nothing is left running" in demo.text
        assert "Traceback" not in demo.text
        assert not _folders_of(demo)


def test_killed(tmp_path: Path) -> None:
    with Running(["demo"], clean_environment(), tmp_path) as demo:
        demo.until("in flight")
        processes = descendants(demo.process.pid)
        assert len(processes) >= 10
        assert demo.end(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: not [pid for pid in processes if is_alive(pid)], "all its processes end", timeout_seconds=40)


def _folders_of(demo: Running) -> list[Path]:
    """The throw-away folders that this demo has signed."""
    return [
        folder
        for folder in throw_away_folders()
        if (folder / "lock").exists() and (folder / "lock").read_text().strip() == str(demo.process.pid)
    ]
