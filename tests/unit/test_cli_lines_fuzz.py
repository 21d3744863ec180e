"""Any bytes as JSON lines: a line that is no message is named by its number, and nothing else is raised."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mqworker.cli.lines import CHUNK_BYTES, LineRefused, Source, opened
from mqworker.errors import InvalidMessage
from mqworker.payload import parse_json_object
from mqworker.validation import new_message, parse_time

EXAMPLES = int(os.environ.get("LINES_FUZZ_EXAMPLES", "400"))
SECRET = "what nobody else may read"
MESSAGE: dict[str, Any] = {"instance": "shop", "client_id": 7, "chat_id": "c", "payload": {"text": SECRET}}
GOOD = json.dumps(MESSAGE).encode()


def message(**changes: object) -> bytes:
    return json.dumps(MESSAGE | changes, ensure_ascii=False).encode("utf-8", "surrogatepass")


BAD = [
    GOOD[:-1],
    GOOD[:40],
    GOOD + GOOD,
    GOOD + b",",
    b"[" + GOOD + b"]",
    b"null",
    b"{}",
    b'"' + b"x" * 1000 + b'"',
    b"{" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    GOOD.replace(b"7", b"7" * 5000),
    GOOD.replace(b"7", b"7e400"),
    GOOD.replace(b"7", b"NaN"),
    GOOD.replace(b"7", b"-Infinity"),
    GOOD.replace(b"7", b"07"),
    GOOD.replace(b'"shop"', b"'shop'"),
    GOOD.replace(b"{", b'{"instance": "other", ', 1),
    GOOD.replace(b'"text"', b'"text": 1, "text"'),
    GOOD.replace(b"shop", b"sh\xffop"),
    GOOD.replace(b"shop", b"sh\xc0\x80op"),
    GOOD.replace(b"shop", b"sh\xed\xa0\x80op"),
    GOOD.replace(b"shop", b"sh\xf4\x90\x80\x80op"),
    GOOD.replace(b"shop", b"sh\\ud800op"),
    GOOD.replace(b"shop", b"sh\\u0000op"),
    GOOD.replace(b"shop", b"sh\x00op"),
    GOOD.replace(b"shop", b"sh\x1b[2Jop"),
    b"\xef\xbb\xbf" * 2 + GOOD,
    b"\xff\xfe" + json.dumps(MESSAGE).encode("utf-16-le"),
    message(colour="red"),
    message(payload=[SECRET]),
    message(payload={"text": "x" * 300_000}),
    message(scheduled_at="2030-01-01"),
    message(scheduled_at=[1]),
    message(message_id="17"),
    message(priority=True),
]
ODD = [b"", b" ", b"\t", b"\r", b"\xc2\xa0", b"\x0c", b"\x1c", b"\x00", b"// a comment", b"# a comment", b","]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good line with some bytes put in, taken out or changed."""
    line = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line) - 1))
        line[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(line)


good_lines = st.just(GOOD) | st.builds(
    lambda text, n: message(payload={"text": text}, priority=n),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.integers(-100, 100),
)
some_line = good_lines | good_lines | st.sampled_from(BAD) | st.sampled_from(ODD) | damaged() | st.binary(max_size=40)
inputs = st.builds(
    lambda bom, lines, ends: bom + b"".join(line + end for line, end in zip(lines, ends, strict=False)),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf"]),
    st.lists(some_line, max_size=8),
    st.lists(st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n"]), min_size=8, max_size=8),
)


def fault(line: bytes) -> str | None:
    """What is wrong with one line, told without the reader of files."""
    try:
        value: dict[str, Any] = dict(parse_json_object(line.decode()))
        if value.get("scheduled_at") is not None:
            value["scheduled_at"] = parse_time(value["scheduled_at"])
        unknown = value.keys() - {*MESSAGE, "message_id", "is_group", "executor", "priority", "max_retries"}
        if unknown - {"scheduled_at"} or not value.keys() >= MESSAGE.keys():
            return "a field is missing or unknown"
        new_message(**value, default_max_retries=3, now=datetime.now(UTC))
    except (InvalidMessage, UnicodeDecodeError) as error:
        return str(error)
    return None


def numbered(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


async def read(source: Source) -> tuple[int, list[int]]:
    count = await source.check(3)
    return count, [number async for batch in source.batches() for number in batch.numbers]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "messages.jsonl"


@hypothesis_settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inputs)
@example(b"\xef\xbb\xbf")
@example(b"\r\n" * 5 + GOOD + b"\r\n\x00")
@example(b"x" * (CHUNK_BYTES - 1) + b"\n" + GOOD)
def test_a_bad_line_is_named_and_good_ones_are_read(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    lines = list(numbered(data))
    bad = [number for number, line in lines if fault(line)]
    with opened(str(file)) as source:
        if not bad:
            count, numbers = asyncio.run(read(source))
            assert numbers == [number for number, _ in lines]
            assert count == len(lines)
            return
        with pytest.raises(LineRefused) as refused:
            asyncio.run(read(source))
    told = str(refused.value)
    found = re.match(r"line (\d+): .+", told, re.DOTALL)
    assert found, told
    # A line that is no JSON is found when its batch is read, one that is no message when its batch is checked.
    assert int(found[1]) in bad
    assert SECRET not in told
    assert len(told) < 600
    told.encode()


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_each_bad_line_between_good_ones(file: Path, line: bytes) -> None:
    file.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD)
    with opened(str(file)) as source, pytest.raises(LineRefused, match=r"^line 3: ") as refused:
        asyncio.run(read(source))
    assert SECRET not in str(refused.value)


def test_lines_are_put_together_from_chunks_of_any_size(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\n".join([message(payload={"n": "ü" * n}) for n in range(40)] + [b"\xc3"])
    file.write_bytes(data)
    for size in (1, 2, 3, 7, 64, 1000):
        monkeypatch.setattr("mqworker.cli.lines.CHUNK_BYTES", size)
        with opened(str(file)) as source, pytest.raises(LineRefused, match=r"^line 41: is not UTF-8 \(byte 1\)"):
            asyncio.run(read(source))


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqworker.cli.lines.LINE_BYTES", 10_000)
    monkeypatch.setattr("mqworker.cli.lines.CHUNK_BYTES", 1000)
    file.write_bytes(GOOD + b"\n" + b"x" * 100_000)
    consumed: list[int] = []
    with opened(str(file)) as source, pytest.raises(LineRefused, match=r"^line 2: must be at most"):
        asyncio.run(source.check(3, consumed.append))
    assert sum(consumed) <= 12_000
