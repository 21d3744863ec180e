"""The random histories' world: real servers, what producers hand in, what workers hold, and a look into Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from mqworker import Enqueued, MessageQueue, PermanentError, RetryAfter
from mqworker.broker import Broker, Keys, Lease
from mqworker.broker.keys import encode
from mqworker.lifecycle import Failed, Outcome, Policy, Sent, Settlement, TimedOut, Undecodable, settle
from mqworker.message import ChatKey
from mqworker.pacing import PacingPolicy
from mqworker.retry import RetryPolicy
from mqworker.settings import Settings
from mqworker.store import Claim, Store
from mqworker.sweeps import Sweeps
from mqworker.testing.waiting import eventually
from tests.integration.model import Row, When
from tests.integration.rows import sql

T = TypeVar("T")

HOUR = 3600.0
CHATS = [ChatKey("shop", "a"), ChatKey("shop", "b:{c}%"), ChatKey("other", "a")]
ACCOUNTS = ["shop", "other"]
CLIENTS = [7, 8]
WORKERS = {"w1": ["default"], "w2": ["default", "rare"], "w3": ["rare", "default"]}
# The last one nobody knows: its messages wait, and hold their chats.
EXECUTORS = [*["default"] * 8, "rare", "nobodys"]
CALLERS_IDS = [UUID(int=n) for n in range(1, 4)]
SCHEDULES: dict[When, timedelta | None] = {
    "now": None,
    "past": timedelta(hours=-1),
    "soon": timedelta(seconds=55),  # within the minute in which a claim says "waits"
    "far": timedelta(hours=1),
}
POLICY = Policy(RetryPolicy(HOUR, HOUR), PacingPolicy(0.0, HOUR))
OUTCOMES: dict[str, Outcome | None] = {
    "released": None,
    "sent": Sent("p-1"),
    "sent without an id": Sent(),
    "failed": Failed(ValueError("no")),
    "permanent": Failed(PermanentError("never")),
    "retry the chat": Failed(RetryAfter(HOUR)),
    "retry at once": Failed(RetryAfter(0.0)),
    "retry the account": Failed(RetryAfter(HOUR, scope="instance")),
    "timed out": TimedOut(5.0),
    "undecodable": Undecodable("not an object"),
}


@dataclass(frozen=True)
class Draft:
    """What a producer hands in."""

    chat: ChatKey
    client_id: int = 7
    payload: int = 0
    executor: str = "default"
    priority: int = 0
    max_retries: int = 2
    when: When = "now"
    message_id: UUID | None = None

    @property
    def content(self) -> tuple[object, ...]:
        return (self.client_id, self.chat, self.executor, self.payload)

    def arguments(self) -> dict[str, Any]:
        ahead = SCHEDULES[self.when]
        return {
            "instance": self.chat.instance,
            "client_id": self.client_id,
            "chat_id": self.chat.chat_id,
            "payload": {"n": self.payload},
            "executor": self.executor,
            "priority": self.priority,
            "max_retries": self.max_retries,
            "scheduled_at": None if ahead is None else datetime.now(UTC) + ahead,
            "message_id": self.message_id,
        }

    def row(self, answer: Enqueued) -> Row:
        return Row(
            answer.id,
            answer.seq,
            self.chat,
            self.content,
            self.executor,
            self.priority,
            self.max_retries,
            self.when,
        )


@dataclass(frozen=True)
class Held:
    """A claim as its worker remembers it, and the lease in Redis that led to it, if one did."""

    worker: str
    claim: Claim
    lease: Lease | None = None


@dataclass(frozen=True)
class Told:
    """What an executor said of a message, and the dice of its settlement."""

    outcome: str
    gap: float
    backoff: float

    def settlement(self, held: Held) -> Settlement:
        outcome = OUTCOMES[self.outcome]
        if outcome is None:
            return Settlement.released()
        return settle(outcome, held.claim.message, POLICY, self.gap, self.backoff)


@dataclass(frozen=True)
class Part:
    """Some messages of a caller's transaction, perhaps within a SAVEPOINT."""

    drafts: list[Draft]
    savepoint: Literal["none", "released", "rolled back"]


DRAFTS = st.builds(
    Draft,
    chat=st.sampled_from(CHATS),
    client_id=st.sampled_from(CLIENTS),
    payload=st.integers(0, 1),
    executor=st.sampled_from(EXECUTORS),
    priority=st.sampled_from([0, 0, 0, 1, -1, 100]),
    max_retries=st.sampled_from([3, 2, 1]),
    when=st.sampled_from([*["now"] * 8, "past", "soon", "far"]),
)
DRAFTS_WITH_IDS = st.builds(
    lambda draft, message_id: replace(draft, message_id=message_id),
    DRAFTS,
    st.sampled_from([None, None, *CALLERS_IDS]),
)
PARTS = st.builds(Part, st.lists(DRAFTS, min_size=1, max_size=2), st.sampled_from(["none", "released", "rolled back"]))
# The latest comes first: what is held now matters more often than what was lost long ago.
PICKS = st.integers(0, 12)
SOMEBODY = st.sampled_from(sorted(WORKERS))
SOME_CHAT = st.sampled_from(CHATS)
SOME_CHATS = st.just(CHATS) | st.lists(SOME_CHAT, min_size=1, unique=True)
ALL_WAITS = {"gap", "account", "backoff", "schedule"}
WAITS = st.just(ALL_WAITS) | st.sets(st.sampled_from(sorted(ALL_WAITS)), min_size=1)
SOME_ACCOUNT = st.sampled_from(ACCOUNTS)
TOLD = st.builds(
    Told,
    st.sampled_from([*OUTCOMES, *["failed"] * 4]),
    gap=st.sampled_from([0.0, 0.0, 0.99]),
    backoff=st.sampled_from([0.99, 0.0]),
)


class World:
    """The servers and all that works on them, on an event loop of its own; every example begins empty."""

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        # Whoever takes claims back waits a lease after PostgreSQL's start; the claims themselves never run out here.
        gap = {"delay_min_seconds": HOUR, "delay_max_seconds": HOUR}
        self.settings = settings.model_copy(update={**gap, "lease_seconds": 0.1})
        self._worker_settings = settings.model_copy(update={"lease_seconds": HOUR, "stale_after_seconds": 2 * HOUR})

    def __enter__(self) -> World:
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stack.aclose())
        self._runner.close()

    async def _open(self) -> None:
        url = self.settings.database_url.get_secret_value()
        self.engine = create_async_engine(url)
        self._stack.push_async_callback(self.engine.dispose)
        self.queue = await self._stack.enter_async_context(MessageQueue(self.settings))
        self.stores = {name: Store.open(self._worker_settings, worker=name, pool_size=1) for name in WORKERS}
        self.broker = Broker(self.settings.redis_url.get_secret_value(), Keys(), owner="w1")
        self._stack.push_async_callback(self.broker.aclose)
        for store in self.stores.values():
            self._stack.push_async_callback(store.aclose)
        self.store = Store.open(self.settings, worker="sweeper", pool_size=1)
        self._stack.push_async_callback(self.store.aclose)
        self.sweeps = Sweeps(self.store, self.broker, self.settings)
        await eventually(self._old_enough, "PostgreSQL is up for longer than a lease")

    async def _old_enough(self) -> bool:
        (found,) = await sql(self.store, "SELECT pg_postmaster_start_time() < now() - interval '1 second' AS old")
        return bool(found.old)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def empty(self) -> None:
        for table in ("items", "chats", "instances", "duties"):
            await sql(self.store, f"DELETE FROM message_queue_{table} RETURNING 1")
        await self.broker.redis.flushall()


ROWS = """
    SELECT id, instance, chat_id, status, retry_count, claim_id, error, provider_id,
           COALESCE(available_at > clock_timestamp(), false) AS backs_off,
           status = 'PROCESSING' AND lease_expires_at < clock_timestamp() AS expired,
           cancel_requested_at IS NOT NULL AS cancel_requested,
           processed_at IS NOT NULL AS ended
    FROM message_queue_items
"""


def encoded(chat: ChatKey) -> str:
    return encode(chat.chat_id)


async def lanes(broker: Broker, chat: ChatKey) -> list[tuple[int, int, str]]:
    """A chat's waiting messages in Redis' order: priority, seq, id."""
    prefix = broker.keys.of(chat.instance).chat + encoded(chat)
    stream: list[Any] = await broker.redis.xrange(f"{prefix}:stream")
    rest: list[tuple[str, float]] = await broker.redis.zrange(f"{prefix}:sorted", 0, -1, withscores=True)
    entries = [(0, int(entry.split("-")[0]), fields["id"]) for entry, fields in stream]
    for member, score in rest:
        seq, message_id = member.split(":", 1)
        entries.append((-int(score), int(seq), message_id))
    return sorted(entries, key=lambda entry: (-entry[0], entry[1]))
