"""Executors that return or raise what nobody should: each message is settled, and others notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

from mqworker import Message, MessageQueue, PermanentError, RetryAfter
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.integration.working import enqueue, finished, working

GONE = "(its text cannot be read: "


class RudeText(str):
    """A text whose every method raises."""

    __slots__ = ()

    def _raise(self, *_: object) -> NoReturn:
        raise SystemExit(3)

    replace = encode = strip = __getitem__ = __len__ = __str__ = __format__ = _raise  # type: ignore[assignment]


class Rude:
    """An object that can be looked at in no way."""

    def __init__(self, error: type[BaseException] = KeyboardInterrupt) -> None:
        self._error = error

    def __str__(self) -> str:
        raise self._error("rude")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise self._error("rude")

    __hash__ = None  # type: ignore[assignment]


class NoText:
    def __str__(self) -> str:
        return 17  # type: ignore[return-value]


class RudeError(Exception):
    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __str__(self) -> str:
        raise self._error("rude")

    __repr__ = __str__


class RudeTextError(Exception):
    def __str__(self) -> str:
        return RudeText("rude")


class RudePermanent(PermanentError):
    def __str__(self) -> str:
        raise SystemExit(3)


class HalfMade(RetryAfter):
    def __init__(self) -> None:
        """As one does who forgets ``super().__init__``."""


class Meta(type):
    @property
    def __name__(self) -> str:  # type: ignore[override]
        raise SystemExit(3)


class Nameless(Exception, metaclass=Meta):
    pass


class Own(BaseException):
    pass


def waits(seconds: Any, scope: Any = "chat") -> RetryAfter:
    """A RetryAfter that was changed after it was made."""
    error = RetryAfter(0.0)
    error.seconds, error.scope = seconds, scope
    return error


def circular() -> Exception:
    error = ValueError("circular")
    error.__cause__ = error.__context__ = error
    return error


def bottomless() -> Exception:
    return bottomless()


# what is raised, and what the row says of it
RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "own": (lambda: Own("own"), "Own: own"),
    "empty": (ValueError, "ValueError"),
    "huge": (lambda: ValueError("x" * 10_000_000), "ValueError: xxx"),
    "nul": (lambda: ValueError("a\0b\ud800c"), "ValueError: ab?c"),
    "stop": (lambda: StopIteration("end"), "RuntimeError: coroutine raised StopIteration"),
    "memory": (MemoryError, "MemoryError"),
    "depth": (bottomless, "RecursionError: "),
    "circular": (circular, "ValueError: circular"),
    "no text": (lambda: RudeError(ValueError), f"RudeError: {GONE}ValueError)"),
    "exit in text": (lambda: RudeError(SystemExit), f"RudeError: {GONE}SystemExit)"),
    "break in text": (lambda: RudeError(KeyboardInterrupt), f"RudeError: {GONE}KeyboardInterrupt)"),
    "cancel in text": (lambda: RudeError(asyncio.CancelledError), f"RudeError: {GONE}CancelledError)"),
    "rude text": (RudeTextError, "RudeTextError: rude"),
    "nameless": (Nameless, "ExecutorError: what it raised cannot be read (SystemExit)"),
    "group": (lambda: ExceptionGroup("two", [ValueError(), RetryAfter(1)]), "ExceptionGroup: two (2 sub-exceptions)"),
    "base group": (
        lambda: BaseExceptionGroup("one", [KeyboardInterrupt()]),
        "BaseExceptionGroup: one (1 sub-exception)",
    ),
    "half made": (HalfMade, "ExecutorError: what it raised cannot be read (AttributeError)"),
    "nan": (lambda: waits(float("nan")), "ExecutorError: what it raised cannot be read (ValueError)"),
    "negative": (lambda: waits(-1.0), "ExecutorError: what it raised cannot be read (ValueError)"),
    "words": (lambda: waits("soon"), "ExecutorError: what it raised cannot be read (TypeError)"),
    "made wrong": (lambda: RetryAfter(float("inf")), "ValueError: RetryAfter.seconds must be a finite number"),
    "permanent": (RudePermanent, f"RudePermanent: {GONE}SystemExit)"),
    "cancelled": (asyncio.CancelledError, "CancelledError"),
    "generator": (GeneratorExit, "GeneratorExit"),
    "exit": (lambda: SystemExit(RudeText("x")), "SystemExit: "),
    "break": (KeyboardInterrupt, "KeyboardInterrupt"),
}


async def test_whatever_is_raised_ends_in_a_settled_message(settings: Settings, queue: MessageQueue) -> None:
    async def send(message: Message) -> None:
        if message.payload.get("rude"):
            raise RAISED[message.chat_id][0]()

    rude = {name: await enqueue(queue, name, payload={"rude": True}, max_retries=2) for name in RAISED}
    for name in RAISED:
        await enqueue(queue, name)
    async with working(settings, send):
        await finished(queue, completed=len(RAISED), failed=len(RAISED))
        await enqueue(queue, "afterwards")
        await finished(queue, completed=len(RAISED) + 1, failed=len(RAISED))
    for name, message_id in rude.items():
        stored = await queue.get(message_id)
        assert (stored.error or "").startswith(RAISED[name][1]), f"{name}: {stored.error}"
        assert len((stored.error or "").encode()) <= 8192
        assert stored.retry_count == (1 if name == "permanent" else 2)


RETURNED: dict[str, tuple[Callable[[], object], str | None]] = {
    "huge": (lambda: "x" * 20_000_000, "x" * 255),
    "bytes": (lambda: b"p\0-1\xff", r"b'p\x00-1\xff'"),
    "surrogate": (lambda: "p\ud800", "p?"),
    "nul": (lambda: "\0" * 300, None),
    "rude text": (lambda: RudeText("p-1"), "p-1"),
    "rude": (Rude, "(Rude: KeyboardInterrupt)"),
    "exit": (lambda: Rude(SystemExit), "(Rude: SystemExit)"),
    "cancel": (lambda: Rude(asyncio.CancelledError), "(Rude: CancelledError)"),
    "no text": (NoText, "(NoText: TypeError)"),
    "decimal": (lambda: Decimal("1E+3"), "1E+3"),
    "set": (set[str], "set()"),
    "error": (lambda: ValueError("returned"), "returned"),
    "class": (lambda: Rude, "<class 'tests.integration.test_rude_executors.Rude'>"),
    "float": (lambda: float("nan"), "nan"),
    "false": (lambda: False, "False"),
}


async def test_whatever_is_returned_the_message_is_sent_once(settings: Settings, queue: MessageQueue) -> None:
    sent: list[UUID] = []

    async def send(message: Message) -> object:
        sent.append(message.id)
        return RETURNED[message.chat_id][0]()

    ids = {name: await enqueue(queue, name) for name in RETURNED}
    async with working(settings, send):
        await finished(queue, completed=len(RETURNED))
    assert sorted(sent) == sorted(ids.values())
    for name, message_id in ids.items():
        assert (await queue.get(message_id)).provider_id == RETURNED[name][1], name


async def test_a_coroutine_that_nobody_awaited_has_sent_nothing(settings: Settings, queue: MessageQueue) -> None:
    """``return client.post(...)`` without its ``await``."""
    message_id = await enqueue(queue, max_retries=2)

    async def post() -> str:
        raise AssertionError("nobody awaits this")

    async def send(message: Message) -> object:
        return post()

    async with working(settings, send):
        await finished(queue, failed=1)
    stored = await queue.get(message_id)
    assert stored.error is not None
    assert stored.error.startswith("ExecutorError: the executor returned a coroutine that was never awaited")


async def test_an_executor_that_spoils_its_message_spoils_no_other(settings: Settings, queue: MessageQueue) -> None:
    seen: list[dict[str, Any]] = []

    async def send(message: Message) -> None:
        seen.append(dict(message.payload))
        message.payload.clear()
        if len(seen) == 1:
            raise ValueError("once more")

    await enqueue(queue, payload={"n": 1})
    await enqueue(queue, "b", payload={"n": 2})
    async with working(settings, send):
        await finished(queue, completed=2)
    assert sorted(one["n"] for one in seen) in ([1, 1, 2], [1, 2, 2])


async def test_many_executors_that_outstay_their_time_hold_nobody_up(settings: Settings, queue: MessageQueue) -> None:
    async def send(message: Message) -> None:
        if message.chat_id.startswith("slow"):
            await asyncio.Event().wait()

    for n in range(20):
        await enqueue(queue, f"slow {n}", max_retries=1)
        await enqueue(queue, f"quick {n}")
    async with working(settings, send, executor_timeout_seconds=0.5):
        async with asyncio.timeout(10):
            await eventually(lambda: _completed(queue, 20), "the quick ones are sent")
        await finished(queue, completed=20, failed=20)


async def _completed(queue: MessageQueue, number: int) -> bool:
    return (await queue.get_stats("shop")).completed == number
