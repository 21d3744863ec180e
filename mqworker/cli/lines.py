"""Messages as JSON lines from a file, a pipe or a terminal, in batches that are stored all or none."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from mqworker import validation as check
from mqworker.errors import InvalidMessage, MqWorkerError
from mqworker.payload import MAX_LINE_CHARACTERS, parse_json_object

BATCH_MESSAGES = 1000
# Half of what one batch may hold: a payload's JSON in the database can be longer than its line here.
BATCH_BYTES = check.MAX_BATCH_BYTES // 2
CHUNK_BYTES = 262_144
LINE_BYTES = 4 * MAX_LINE_CHARACTERS


class LineRefused(MqWorkerError):
    """A line of the input is no message; the text names its number and its field."""


class InputUnreadable(MqWorkerError):
    """The input cannot be opened or read."""


@dataclass
class Batch:
    """Messages that are stored together, with the numbers of their lines."""

    numbers: list[int] = field(default_factory=list)
    messages: list[dict[str, object]] = field(default_factory=list)
    bytes: int = 0
    ids: set[str] = field(default_factory=set)

    def fits(self, message: dict[str, object], size: int) -> bool:
        # A repeated id goes into the next batch, where it is a repeat or a conflict as it would be a day later.
        repeated = _id_of(message) in self.ids
        return not repeated and len(self.messages) < BATCH_MESSAGES and self.bytes + size <= BATCH_BYTES

    def add(self, number: int, message: dict[str, object], size: int) -> None:
        self.numbers.append(number)
        self.messages.append(message)
        self.bytes += size
        if identity := _id_of(message):
            self.ids.add(identity)

    def refuse(self, refusal: InvalidMessage) -> NoReturn:
        """Say the same of the line that the message stood on."""
        number = self.numbers[0] if refusal.index is None else self.numbers[refusal.index]
        raise LineRefused(_at_line(number, refusal)) from None


def _id_of(message: dict[str, object]) -> str:
    value = message.get("message_id")
    return value.replace("-", "").lower() if isinstance(value, str) else ""


def _at_line(number: int, refusal: InvalidMessage) -> str:
    place = "" if refusal.field == "line" else f"{refusal.field}: "
    return f"line {number}: {place}{refusal.reason}"


class Source:
    """An opened input; ``size`` is in bytes, None where it is not a regular file and cannot be read twice."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self.name = name
        found = os.fstat(descriptor)
        regular = stat.S_ISREG(found.st_mode)
        self._start = os.lseek(descriptor, 0, os.SEEK_CUR) if regular else 0
        self.size = found.st_size - self._start if regular else None

    async def batches(self, on_read: Callable[[int], None] = lambda _: None) -> AsyncIterator[Batch]:
        """All messages. A pipe's are handed on as they come, so that a slow producer's do not wait for a full batch."""
        batch = Batch()
        async for lines in self._chunks(on_read):
            for number, text, size in lines:
                message = _parse(number, text)
                if not batch.fits(message, size):
                    yield batch
                    batch = Batch()
                batch.add(number, message, size)
            if self.size is None and batch.messages:
                yield batch
                batch = Batch()
        if batch.messages:
            yield batch

    async def check(self, default_max_retries: int, on_read: Callable[[int], None] = lambda _: None) -> int:
        """Read all of a regular file, refuse what is no message, and go back to its start; how many there are."""
        count = 0
        async for batch in self.batches(on_read):
            try:
                check.new_messages(batch.messages, default_max_retries=default_max_retries, now=datetime.now(UTC))
            except InvalidMessage as refusal:
                batch.refuse(refusal)
            count += len(batch.messages)
        os.lseek(self._descriptor, self._start, os.SEEK_SET)
        return count

    async def _chunks(self, on_read: Callable[[int], None]) -> AsyncIterator[list[tuple[int, str, int]]]:
        # The pieces of a line are joined once, at its end: a line of 64 MiB comes through a pipe in a thousand.
        number, pieces, held = 0, list[bytes](), 0
        while chunk := await self._read():
            on_read(len(chunk))
            first, *others = chunk.split(b"\n")
            pieces.append(first)
            held += len(first)
            if held > LINE_BYTES:
                raise LineRefused(f"line {number + 1}: must be at most {MAX_LINE_CHARACTERS} characters")
            if others:
                whole = [b"".join(pieces), *others[:-1]]
                pieces, held = [others[-1]], len(others[-1])
                yield list(_texts(whole, number))
                number += len(whole)
        yield list(_texts([b"".join(pieces)], number))

    async def _read(self) -> bytes:
        if self.size is None:
            await _readable(self._descriptor)
        try:
            return os.read(self._descriptor, CHUNK_BYTES)
        except OSError as error:
            raise InputUnreadable(f"{self.name} cannot be read: {error.strerror}") from None


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """The file at ``path``, or standard input for ``-``."""
    if path == "-":
        yield Source(sys.stdin.fileno(), "standard input")
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputUnreadable(f"{path} cannot be opened: {error.strerror}") from None
    try:
        yield Source(descriptor, path)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read. Not in a thread, which Ctrl-C could not wake."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except OSError:
        return  # such as /dev/null, which is always readable
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _texts(lines: list[bytes], number: int) -> Iterator[tuple[int, str, int]]:
    """Number, text and size of each line that is not empty."""
    for line in lines:
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            yield number, line.decode(), len(line)
        except UnicodeDecodeError as error:
            raise LineRefused(f"line {number}: is not UTF-8 (byte {error.start + 1})") from None


def _parse(number: int, text: str) -> dict[str, object]:
    try:
        message = parse_json_object(text)
        if message.get("scheduled_at") is not None:
            message["scheduled_at"] = check.parse_time(message["scheduled_at"])
    except InvalidMessage as refusal:
        raise LineRefused(_at_line(number, refusal)) from None
    return message
