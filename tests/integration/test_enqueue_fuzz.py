"""Whatever is handed to ``enqueue``: an error of ours refuses it and nothing is stored, or it arrives as it was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mqworker import Enqueued, MessageQueue
from mqworker.errors import Conflict, InvalidMessage, MqWorkerError
from mqworker.message import ChatKey
from mqworker.settings import Settings
from mqworker.store import Claim, Store
from tests.integration.hostile import NEVER, OTHERS, PLAIN, alike, plain
from tests.integration.rows import sql

EXAMPLES = int(os.environ.get("ENQUEUE_FUZZ_EXAMPLES", "200"))
LONGEST_SECONDS = 5.0
EARLY, LATE = datetime.fromisoformat("2000-01-02"), datetime.fromisoformat("2026-01-01")


class Desk:
    """A queue and a store on an event loop that all examples share."""

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self.queue = MessageQueue(settings)
        self.store = Store.open(settings, worker="w1", pool_size=1)

    def __enter__(self) -> Desk:
        self._runner.run(self.queue.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self.queue.aclose())
        self._runner.run(self.store.aclose())
        self._runner.close()

    def enqueue(self, arguments: dict[str, Any]) -> Enqueued | MqWorkerError:
        return self._runner.run(self._enqueue(arguments))

    async def _enqueue(self, arguments: dict[str, Any]) -> Enqueued | MqWorkerError:
        async with asyncio.timeout(LONGEST_SECONDS):
            try:
                return await self.queue.enqueue(**arguments)
            except MqWorkerError as error:
                return error

    def rows(self, statement: str, **parameters: Any) -> Any:
        return self._runner.run(_rows(self.store, statement, parameters))

    def claim(self, chat: ChatKey, executor: str) -> Claim:
        (claim,) = self._runner.run(self.store.claims.claim([chat], [executor]))
        assert isinstance(claim, Claim)
        return claim


async def _rows(store: Store, statement: str, parameters: dict[str, Any]) -> Any:
    return await sql(store, statement, **parameters)


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    with Desk(settings) as opened:
        yield opened


@dataclass(frozen=True)
class Later:
    """An object of ours by its number: made when it is used, since Hypothesis would look at it."""

    number: int


HOSTILE = [*PLAIN, *NEVER, *OTHERS]
plain_ones = st.builds(Later, st.integers(0, len(PLAIN) - 1))
hostile_ones = st.builds(Later, st.integers(0, len(HOSTILE) - 1))


def made(value: Any) -> Any:
    match value:
        case Later(number):
            return HOSTILE[number]()
        case dict():
            return {key: made(inner) for key, inner in value.items()}
        case list():
            return [made(inner) for inner in value]
        case _:
            return value


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=300)
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC))
    | st.uuids()
    | hostile_ones
)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | plain_ones,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)
letters = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Zs"])
names = st.text(letters, min_size=1, max_size=20) | st.sampled_from(
    ["a", "}", "{x}:%", "'; --", "\u202ertl", "*?[", "é", "👩‍👩‍👧"]
)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "instance": names,
    "client_id": st.integers(-(2**31), 2**31 - 1),
    "chat_id": names,
    "payload": st.dictionaries(words, values, max_size=5),
}
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "message_id": st.none() | st.uuids() | st.uuids().map(str),
    "is_group": st.booleans(),
    "executor": st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
    "priority": st.integers(-100, 100),
    "max_retries": st.none() | st.integers(1, 100),
    "scheduled_at": st.none() | st.datetimes(EARLY, LATE, timezones=st.timezones()),
}
good = st.fixed_dictionaries(GOOD, optional=OPTIONAL)
spoiled = st.dictionaries(st.sampled_from([*GOOD, *OPTIONAL]), anything, min_size=1, max_size=3)
quick = hypothesis_settings(
    max_examples=EXAMPLES,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    print_blob=False,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


def check(desk: Desk, arguments: dict[str, Any]) -> bool:
    """Whether it was accepted."""
    for table in ("items", "chats"):
        desk.rows(f"DELETE FROM message_queue_{table} RETURNING 1")
    answer = desk.enqueue(arguments)
    stored = desk.rows("SELECT id FROM message_queue_items")
    if isinstance(answer, MqWorkerError):
        assert isinstance(answer, InvalidMessage | Conflict), repr(answer)
        assert stored == []
        str(answer).encode()
        assert len(str(answer)) < 500
        return False
    assert [row.id for row in stored] == [answer.id]
    _arrives(desk, answer.id, arguments)
    return True


def _arrives(desk: Desk, message_id: UUID, arguments: dict[str, Any]) -> None:
    (row,) = desk.rows(
        "UPDATE message_queue_items SET scheduled_at = NULL WHERE id = %(id)s RETURNING instance, chat_id, executor",
        id=message_id,
    )
    claim = desk.claim(ChatKey(row.instance, row.chat_id), row.executor)
    assert claim.message.id == message_id
    assert claim.undecodable is None
    assert alike(claim.message.payload, plain(arguments["payload"]))
    for name in ("instance", "client_id", "chat_id", "executor", "priority"):
        if name in arguments:
            assert getattr(claim.message, name) == plain(arguments[name]), name


def test_good_messages_arrive_as_they_were(desk: Desk) -> None:
    @quick
    @given(good)
    def run(arguments: dict[str, Any]) -> None:
        assert check(desk, made(arguments))

    run()


def test_spoiled_messages_are_refused_or_arrive(desk: Desk) -> None:
    @quick
    @given(good, spoiled)
    def run(arguments: dict[str, Any], changes: dict[str, Any]) -> None:
        check(desk, made({**arguments, **changes}))

    run()


SOUND: dict[str, Any] = {"instance": "shop", "client_id": 7, "chat_id": "a", "payload": {}}
PLACES = ["instance", "chat_id", "client_id", "message_id", "executor", "priority", "max_retries", "scheduled_at"]


@pytest.mark.parametrize("place", [*PLACES, "is_group", "payload"])
def test_each_hostile_object_in_each_place(desk: Desk, place: str) -> None:
    for make in HOSTILE:
        check(desk, {**SOUND, place: make()})


@pytest.mark.parametrize("around", [lambda value: {"a": value}, lambda value: {"a": [{"b": (value,)}]}])
def test_each_hostile_object_in_a_payload(desk: Desk, around: Callable[[Any], Any]) -> None:
    for make in PLAIN:
        assert check(desk, {**SOUND, "payload": around(make())}), f"{make()!r:.80}"
    for make in NEVER:
        assert not check(desk, {**SOUND, "payload": around(make())})
