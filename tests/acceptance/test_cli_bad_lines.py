"""`mqworker enqueue` on inputs that are no JSON lines, as a process: a clear line, exit code 1 and nothing stored."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import psycopg
import pytest

TEXT = "what nobody else may read"
GOOD = json.dumps({"instance": "shop", "client_id": 7, "chat_id": "c", "payload": {"text": TEXT}}).encode()
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def enqueue(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs `mqworker enqueue`; the bytes given are its file, or its standard input."""

    def run(data: bytes, *, as_file: bool) -> subprocess.CompletedProcess[bytes]:
        (tmp_path / "messages.jsonl").write_bytes(data if as_file else b"")
        return subprocess.run(
            [sys.executable, "-m", "mqworker", "enqueue", "messages.jsonl" if as_file else "-"],
            env=environment,
            cwd=tmp_path,
            input=b"" if as_file else data,
            capture_output=True,
            timeout=60,
        )

    return run


def stored(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM message_queue_items").fetchone()
    assert row is not None
    return int(row[0])


NOISE = Random(7).randbytes(50_000)
BAD: list[tuple[str, bytes, str]] = [
    ("file", NOISE, r"line \d+: "),
    ("file", b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + GOOD[:-9], "line 3: is not JSON"),
    ("file", GOOD + b"\n" + GOOD.replace(b"shop", b"\\u001b[2Jx"), "line 2: instance: contains a control"),
    ("pipe", GOOD + b"\n" + GOOD.replace(b"shop", b"sh\xffop"), r"line 2: is not UTF-8 \(byte"),
    ("pipe", GOOD + b"\n" + b"x" * 70_000_000, "line 2: must be at most 16777216 characters"),
]


@pytest.mark.parametrize(("way", "data", "reason"), BAD, ids=["noise", "truncated", "escape", "not UTF-8", "huge"])
def test_a_bad_line_is_named_and_stores_nothing(
    enqueue: Run, database_url: str, way: str, data: bytes, reason: str
) -> None:
    result = enqueue(data, as_file=way == "file")
    told = result.stderr.decode()
    assert (result.returncode, result.stdout) == (1, b""), told
    assert re.search(reason, told), told
    assert "Traceback" not in told
    assert TEXT not in told
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told)
    if way == "file":
        assert stored(database_url) == 0
    else:
        # What came in an earlier piece of a pipe is stored, and is told.
        assert f"{stored(database_url)} message" in told or (stored(database_url) == 0 and "nothing was stored" in told)


def test_what_editors_leave_is_no_fault(enqueue: Run, database_url: str) -> None:
    data = b"\xef\xbb\xbf" + b"\r\n".join([b"", GOOD, b"   ", GOOD, b"", b""])
    for as_file in (True, False):
        result = enqueue(data, as_file=as_file)
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.split() == [b"2", b"messages", b"stored"]
    assert stored(database_url) == 4
