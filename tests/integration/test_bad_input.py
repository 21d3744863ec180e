"""Bad input: each is refused before any I/O, by an error that names field and reason and never a message's text."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from mqworker import Conflict, InvalidMessage, MessageQueue, NotFound, QueueClosed, QueueStats
from mqworker.settings import Settings, load_settings
from mqworker.store import Store
from tests.integration.rows import INSTANCE, claim, settle, sql

TEXT = "what nobody else may read"
SOUND: dict[str, Any] = {"instance": INSTANCE, "client_id": 7, "chat_id": "a", "payload": {"text": TEXT}}


def payload(value: object) -> dict[str, object]:
    return {"payload": {"text": TEXT, "a": [{"b": value}]}}


def circular() -> dict[str, Any]:
    whole: dict[str, Any] = {"text": TEXT}
    whole["again"] = {"whole": whole}
    return whole


def deep(levels: int) -> Any:
    value: Any = TEXT
    for _ in range(levels):
        value = [value]
    return value


SOON = datetime.now(UTC) + timedelta(hours=1)
IDS = ["instance", "chat_id"]
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    *(
        (f"{row} {name}", {name: value}, name, reason)
        for name in IDS
        for row, value, reason in [
            ("none", None, "must be str, got NoneType"),
            ("int", 5511, "must be str, got int"),
            ("bytes", b"a", "must be str, got bytes"),
            ("bool", True, "must be str, got bool"),
            ("empty", "", "must be 1 to 255 characters, got 0"),
            ("white space", "   ", "must not begin or end with white space"),
            ("space before", " a", "must not begin or end with white space"),
            ("no-break space behind", "a\u00a0", "must not begin or end with white space"),
            ("too long", "a" * 256, "must be 1 to 255 characters, got 256"),
            ("too many bytes", "😀" * 129, "must be at most 512 bytes of UTF-8, got 516"),
            ("NUL", "a\0b", r"contains NUL \(U\+0000\) at index 1"),
            ("surrogate", "a\ud800", r"is not valid Unicode \(lone surrogate at index 1\)"),
            ("newline", "a\r\nb", r"contains a control character \(U\+000D\) at index 1"),
            ("escape", "a\x1b[2J", r"contains a control character \(U\+001B\) at index 1"),
            ("delete", "a\x7f", r"contains a control character \(U\+007F\) at index 1"),
            ("C1", "a\x85b", r"contains a control character \(U\+0085\) at index 1"),
            ("line separator", "a\u2028b", r"contains a line separator \(U\+2028\) at index 1"),
            ("paragraph separator", "a\u2029b", r"contains a paragraph separator \(U\+2029\) at index 1"),
        ]
    ),
    ("client none", {"client_id": None}, "client_id", "must be int, got NoneType"),
    ("client text", {"client_id": "7"}, "client_id", "must be int, got str"),
    ("client bool", {"client_id": True}, "client_id", "must be int, got bool"),
    ("client too big", {"client_id": 2**31}, "client_id", "must be from -2147483648 to 2147483647"),
    ("id no uuid", {"message_id": "17"}, "message_id", "must be a UUID, got '17'"),
    ("id int", {"message_id": 17}, "message_id", "must be a UUID or its text, got int"),
    ("id nil", {"message_id": UUID(int=0)}, "message_id", "must not be the nil UUID"),
    ("id nil as text", {"message_id": str(UUID(int=0))}, "message_id", "must not be the nil UUID"),
    ("payload NUL", payload("x\0"), r"payload\.a\[0\]\.b", r"contains NUL \(U\+0000\) at index 1"),
    ("payload surrogate", payload("\udc00"), r"payload\.a\[0\]\.b", "is not valid Unicode"),
    ("payload key", payload({"x\0": 1}), r"payload\.a\[0\]\.b", "has a key that contains NUL"),
    ("payload NaN", payload(float("nan")), r"payload\.a\[0\]\.b", "must be finite"),
    ("payload infinity", payload(float("-inf")), r"payload\.a\[0\]\.b", "must be finite"),
    ("payload 10**400", payload(10**400), r"payload\.a\[0\]\.b", "must fit 64 bits"),
    ("payload 5,000 digits", payload(10**5000), r"payload\.a\[0\]\.b", "must fit 64 bits"),
    ("payload deep", payload(deep(64)), r"payload\.a\[0\]\.b\[0\].*", "is nested deeper than 64 levels"),
    ("payload very deep", payload(deep(50_000)), r"payload\.a\[0\]\.b\[0\].*", "is nested deeper than 64 levels"),
    ("payload circular", {"payload": circular()}, r"payload\.again\.whole", "is circular: it holds itself"),
    ("payload keys", payload({1: "a", "1": "b"}), r"payload\.a\[0\]\.b", "has a key of type int"),
    ("payload bytes", payload(b"x"), r"payload\.a\[0\]\.b", "cannot be JSON: pass base64 text, not bytes"),
    ("payload set", payload({1}), r"payload\.a\[0\]\.b", "cannot be JSON: pass a list, not set"),
    ("payload time", payload(SOON), r"payload\.a\[0\]\.b", r"cannot be JSON: pass value\.isoformat\(\), not datetime"),
    ("payload uuid", payload(uuid4()), r"payload\.a\[0\]\.b", r"cannot be JSON: pass str\(value\), not UUID"),
    ("payload object", payload(object()), r"payload\.a\[0\]\.b", "cannot be JSON: pass str, int, .*, not object"),
    ("payload 1 MiB", payload(TEXT * 40_000), "payload", "must be at most 262144 bytes as JSON"),
    ("payload none", {"payload": None}, "payload", r"must be an object \(dict\), got NoneType"),
    ("payload list", {"payload": [TEXT]}, "payload", r"must be an object \(dict\), got list"),
    ("payload text", {"payload": TEXT}, "payload", r"must be an object \(dict\), got str"),
    ("group 1", {"is_group": 1}, "is_group", "must be bool, got int"),
    ("group none", {"is_group": None}, "is_group", "must be bool, got NoneType"),
    ("executor empty", {"executor": ""}, "executor", "must be 1 to 64 of"),
    ("executor malformed", {"executor": "a b"}, "executor", "must be 1 to 64 of"),
    ("executor none", {"executor": None}, "executor", "must be the name of an executor, got NoneType"),
    ("priority bool", {"priority": True}, "priority", "must be int, got bool"),
    ("priority float", {"priority": 1.5}, "priority", "must be int, got float"),
    ("priority text", {"priority": "3"}, "priority", "must be int, got str"),
    ("priority high", {"priority": 101}, "priority", "must be from -100 to 100, got 101"),
    ("priority low", {"priority": -(2**31)}, "priority", "must be from -100 to 100"),
    ("retries 0", {"max_retries": 0}, "max_retries", "must be from 1 to 100, got 0"),
    ("retries -1", {"max_retries": -1}, "max_retries", "must be from 1 to 100, got -1"),
    ("retries bool", {"max_retries": True}, "max_retries", "must be int, got bool"),
    ("retries big", {"max_retries": 10**9}, "max_retries", "must be from 1 to 100"),
    ("retries float", {"max_retries": 2.0}, "max_retries", "must be int, got float"),
    ("time naive", {"scheduled_at": SOON.replace(tzinfo=None)}, "scheduled_at", "must have a time zone"),
    ("time year 1", {"scheduled_at": datetime.min.replace(tzinfo=UTC)}, "scheduled_at", "must lie between"),
    ("time year 9999", {"scheduled_at": datetime.max.replace(tzinfo=UTC)}, "scheduled_at", "must lie between"),
    ("time in 367 days", {"scheduled_at": SOON + timedelta(days=367)}, "scheduled_at", "must lie between"),
    ("time text", {"scheduled_at": "2030-01-31"}, "scheduled_at", "must be a datetime, got str"),
    ("time delay", {"scheduled_at": 60}, "scheduled_at", "must be a datetime, got int"),
    ("session", {"session": "a session"}, "session", "must be an AsyncSession, got str"),
]
table = pytest.mark.parametrize(
    ("changes", "field", "reason"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)


@pytest.fixture
async def deaf() -> AsyncIterator[MessageQueue]:
    """A queue whose servers are not there: whatever it answers, it answers without I/O."""
    urls = {"database_url": "postgresql://nobody@127.0.0.1:1/nothing", "redis_url": "redis://127.0.0.1:1/0"}
    async with MessageQueue(load_settings(_env_file=None, **urls)) as opened:
        yield opened


def sees_no_text(error: BaseException) -> None:
    shown = f"{error!s} {error!r} {error.__cause__!r}"
    assert TEXT not in shown
    assert len(shown) < 1500


@table
async def test_a_message_is_refused_before_any_io(
    deaf: MessageQueue, changes: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(InvalidMessage) as caught:
        await deaf.enqueue(**{**SOUND, **changes})
    assert re.fullmatch(field, caught.value.field)
    assert re.match(reason, caught.value.reason), caught.value.reason
    sees_no_text(caught.value)


async def test_nothing_of_the_table_is_stored_alone_or_in_a_batch(queue: MessageQueue, store: Store) -> None:
    kept = await queue.enqueue(**SOUND)
    for name, changes, _field, reason in REFUSED:
        if "session" in changes:
            continue
        with pytest.raises(InvalidMessage):
            await queue.enqueue(**{**SOUND, **changes})
        with pytest.raises(InvalidMessage) as caught:
            await queue.enqueue_many([SOUND, {**SOUND, **changes}, SOUND])
        assert caught.value.index == 1, name
        assert re.match(reason, caught.value.reason), name
        sees_no_text(caught.value)
    rows = await sql(store, "SELECT id FROM message_queue_items")
    assert [row.id for row in rows] == [kept.id]


MANY: list[tuple[str, Any, str]] = [
    ("text", "abc", "messages: must be an iterable of mappings, got str"),
    ("one mapping", SOUND, "messages: must be an iterable of mappings, got dict"),
    ("none", None, "messages: must be an iterable of mappings, got NoneType"),
    ("no mapping", [SOUND, TEXT], "message 1: message: must be a mapping, got str"),
    ("missing", [{"instance": "a"}], "message 0: chat_id: is required"),
    ("unknown", [{**SOUND, "delay": 5}], "message 0: delay: is no field of a message"),
    ("both", [{**SOUND, "delay": 5, "run_at": SOON}], "message 0: (delay|run_at): is no field of a message"),
    (
        "the same id twice",
        [{**SOUND, "message_id": UUID(int=7)}, SOUND, {**SOUND, "message_id": str(UUID(int=7)).upper()}],
        "message 2: message_id: the same as message 0's",
    ),
    ("too many", (SOUND for _ in range(10_001)), "messages: more than 10000 in one batch"),
    (
        "too big",
        ({**SOUND, "payload": {"text": "x" * 200_000}} for _ in range(100)),
        "messages: more than 16777216 bytes of payload in one batch",
    ),
]


@pytest.mark.parametrize(("messages", "text"), [row[1:] for row in MANY], ids=[row[0] for row in MANY])
async def test_a_batch_is_refused_before_any_io(deaf: MessageQueue, messages: Any, text: str) -> None:
    with pytest.raises(InvalidMessage, match=f"^{text}") as caught:
        await deaf.enqueue_many(messages)
    sees_no_text(caught.value)


async def test_an_empty_batch_needs_no_server(deaf: MessageQueue) -> None:
    assert await deaf.enqueue_many([]) == []
    assert await deaf.enqueue_many(iter(())) == []


TAKEN = ["}", "{x}", "}z", "a:b", "*?[]\\", "%", "_", "'; DROP TABLE message_queue_items; --", "\u00e9", "e\u0301"]
TAKEN += ["\u202ertl", "a\u200bb", "a b", "A", "a", "x" * 255, "é" * 255, "\\u0000", '"', "$1", ":name", "%(name)s"]


async def test_odd_names_are_chats_of_their_own(queue: MessageQueue, store: Store) -> None:
    for name in TAKEN:
        await queue.enqueue(**{**SOUND, "chat_id": name})
        await queue.enqueue(**{**SOUND, "instance": name, "chat_id": "one"})
    for name in TAKEN:
        (listed,) = await queue.list(INSTANCE, chat_id=name)
        assert listed.chat_id == name
        assert await queue.get_stats(name) == QueueStats(pending=1)
        held = await claim(store, name)
        assert (held.chat.chat_id, await settle(store, held)) == (name, "COMPLETED")


async def test_an_unknown_executor_is_taken_and_waits(queue: MessageQueue) -> None:
    enqueued = await queue.enqueue(**SOUND, executor="of_tomorrow")
    assert (await queue.get(enqueued.id)).status == "PENDING"


async def test_an_id_is_taken_again_once_its_message_is_gone(queue: MessageQueue, store: Store) -> None:
    """The time in which a repeat is known is the retention."""
    message_id = uuid4()
    await queue.enqueue(**SOUND, message_id=message_id)
    for other in ({"payload": {"text": "other"}}, {"chat_id": "b"}, {"executor": "e"}, {"client_id": 8}):
        with pytest.raises(
            Conflict, match=rf"^message_id {message_id} is already used .*\(status PENDING\)$"
        ) as caught:
            await queue.enqueue(**{**SOUND, **other}, message_id=message_id)
        sees_no_text(caught.value)
    assert (await queue.enqueue(**SOUND, message_id=message_id)).deduplicated
    await sql(store, "DELETE FROM message_queue_items RETURNING 1")
    assert not (await queue.enqueue(**{**SOUND, "chat_id": "b"}, message_id=message_id)).deduplicated


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda queue: queue.get("17"), "message_id: must be a UUID, got '17'"),
        (lambda queue: queue.cancel(17), "message_id: must be a UUID or its text, got int"),
        (lambda queue: queue.list(INSTANCE, limit=0), "limit: must be from 1 to 1000, got 0"),
        (lambda queue: queue.list(INSTANCE, limit=-1), "limit: must be from 1 to 1000, got -1"),
        (lambda queue: queue.list(INSTANCE, limit=1001), "limit: must be from 1 to 1000, got 1001"),
        (lambda queue: queue.list(INSTANCE, limit="10"), "limit: must be int, got str"),
        (lambda queue: queue.list(INSTANCE, after=7), "after: must be a message of an earlier list, got int"),
        (lambda queue: queue.list(chat_id="a"), "chat_id: needs its instance"),
        (lambda queue: queue.payload("17"), "message_id: must be a UUID, got '17'"),
        (lambda queue: queue.list(INSTANCE, status="SENT"), "statuses: must be of PENDING, .*, got 'SENT'"),
        (lambda queue: queue.list(INSTANCE, status=7), "statuses: must name at least one of|statuses: must be of"),
        (lambda queue: queue.list(INSTANCE, chat_id=""), "chat_id: must be 1 to 255 characters"),
        (lambda queue: queue.list(""), "instance: must be 1 to 255 characters"),
        (lambda queue: queue.error_summary(""), "instance: must be 1 to 255 characters"),
        (lambda queue: queue.error_summary(INSTANCE, limit=0), "limit: must be from 1 to 1000, got 0"),
        (lambda queue: queue.get_stats(None), "instance: must be str, got NoneType"),
        (lambda queue: queue.get_stats(INSTANCE, "7"), "client_id: must be int, got str"),
        (lambda queue: queue.initialize("a\0", 7), "instance: contains NUL"),
        (lambda queue: queue.initialize(INSTANCE, None), "client_id: must be int, got NoneType"),
        (lambda queue: queue.clear_queue(INSTANCE, "\n"), "chat_id: contains a control character"),
        (lambda queue: queue.cancel_pending(INSTANCE, older_than=timedelta(0)), "older_than: must be above 0"),
        (lambda queue: queue.cancel_pending(INSTANCE, older_than=timedelta(-1)), "older_than: must be above 0"),
        (lambda queue: queue.cancel_pending(INSTANCE, older_than=timedelta.max), "older_than: must be above 0 and at"),
        (lambda queue: queue.cancel_pending(INSTANCE, older_than="1h"), "older_than: must be a number, got str"),
        (lambda queue: queue.cancel_pending(INSTANCE, older_than=float("nan")), "older_than: must be above 0"),
        (lambda queue: queue.cancel_pending(INSTANCE, older_than=True), "older_than: must be a number, got bool"),
        (lambda queue: queue.cancel_pending(INSTANCE, chat_id=""), "chat_id: must be 1 to 255 characters"),
        (lambda queue: queue.clean_old_messages(INSTANCE, 0), "days: must be above 0"),
        (lambda queue: queue.clean_old_messages(INSTANCE, float("inf")), "days: must be above 0"),
        (lambda queue: queue.clean_old_messages(INSTANCE, 1e308), "days: must be above 0"),
        (lambda queue: queue.clean_old_messages(INSTANCE, None), "days: must be a number, got NoneType"),
        (lambda queue: queue.schedule_cleanup(INSTANCE, -1), "every_hours: must be above 0"),
        (lambda queue: queue.schedule_cleanup(INSTANCE, 1, float("nan")), "retention_days: must be above 0"),
        (lambda queue: queue.schedule_cleanup("", 1, 1), "instance: must be 1 to 255 characters"),
    ],
)
async def test_every_other_call_refuses_before_any_io(deaf: MessageQueue, call: Any, text: str) -> None:
    with pytest.raises(InvalidMessage, match=f"^(?:{text})"):
        await call(deaf)


async def test_an_unknown_id_is_not_found(queue: MessageQueue) -> None:
    unknown = uuid4()
    with pytest.raises(NotFound, match=str(unknown)):
        await queue.get(unknown)
    with pytest.raises(NotFound, match=str(unknown)):
        await queue.cancel(unknown)


async def test_sessions_that_cannot_be_used_are_named(queue: MessageQueue, store: Store, settings: Settings) -> None:
    other = create_async_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(InvalidMessage, match=r"^session: cannot be used \(OperationalError\)"):
        await queue.enqueue(**SOUND, session=AsyncSession(other))
    await other.dispose()
    with pytest.raises(InvalidMessage, match=r"^session: must be an AsyncSession, got Session"):
        await queue.enqueue(**SOUND, session=Session())  # type: ignore[arg-type]
    assert await queue.get_stats(INSTANCE) == QueueStats()


async def test_calls_on_a_closed_queue_say_how_to_open_it(settings: Settings) -> None:
    async with MessageQueue(settings) as queue:
        pass
    for call in (queue.enqueue(**SOUND), queue.enqueue_many([SOUND]), queue.cancel(uuid4()), queue.list(INSTANCE)):
        with pytest.raises(QueueClosed, match="use `async with MessageQueue"):
            await call
