"""What ``/metrics`` says of what really happened."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from mqworker import Message, MessageQueue, PermanentError, RetryAfter
from mqworker.broker import Broker, Entry
from mqworker.message import ChatKey
from mqworker.observe import observer, survey
from mqworker.observe.metrics import FAMILIES
from mqworker.observe.survey import Survey
from mqworker.settings import Settings
from mqworker.store import Store
from mqworker.store.connections import PREPARED
from mqworker.store.monitor import BACKLOG
from mqworker.testing.waiting import eventually
from tests.conftest import NewStore
from tests.integration.probing import Asking, Samples, observed
from tests.integration.rows import INSTANCE, change, claim, put
from tests.integration.test_claim_plans import nodes
from tests.integration.working import enqueue, finished, working


@pytest.fixture(autouse=True)
def _fresh_at_each_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "METRICS_KEPT_SECONDS", 0.0)


DEEDS = {"retried": ValueError("no"), "put-off": RetryAfter(0.05), "hopeless": PermanentError("no such number")}


class Scripted:
    """An executor that does what each chat is named for at its first attempt, then sends."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.holding, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, message: Message) -> None:
        if message.chat_id == "held":
            self.holding.set()
            await self.go_on.wait()
            raise ValueError("too late for that")
        if message.chat_id not in self.seen:
            self.seen.add(message.chat_id)
            if message.chat_id in DEEDS:
                raise DEEDS[message.chat_id]


# what is counted


async def test_every_message_is_counted_by_what_became_of_it(settings: Settings, queue: MessageQueue) -> None:
    for name in ("sent", "sent", "retried", "put-off", "hopeless"):
        await enqueue(queue, name)
    held, send = await enqueue(queue, "held"), Scripted()
    async with working(settings, send) as runtime, observed(runtime) as probes:
        await eventually(send.holding.is_set, "it is in flight")
        assert (await probes.samples()).value("in_flight_messages") is not None
        await queue.cancel(held)
        send.go_on.set()
        await finished(queue, completed=4, failed=1, cancelled=1)
        await eventually(lambda: len(runtime.flights) == 0, "all is counted")
        found = await probes.samples()
    assert found.by("messages_settled_total", "outcome") == {
        "sent": 4, "retry": 1, "put_off": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    assert found.by("messages_settled_total", "account") == {INSTANCE: 8}
    assert found.value("messages_claimed_total") == 8
    assert (found.value("attempt_seconds_count"), found.value("gap_seconds_count")) == (8, 8)
    assert found.value("claim_lag_seconds_count") == 8
    assert found.value("first_send_delay_seconds_count") == 6, "once a message"
    assert (found.value("late_settles_total"), found.value("in_flight_messages")) == (0, 0)
    assert found.value("in_flight_limit_messages") == settings.max_chats


async def test_a_late_settle_is_counted(settings: Settings, queue: MessageQueue, store: Store) -> None:
    held, send = await enqueue(queue, "held"), Scripted()
    # Longer than the test: a renewal would find that the claim is lost, and cancel the send.
    async with (
        working(settings, send, lease_seconds=60.0, renew_seconds=30.0) as runtime,
        observed(runtime) as probes,
    ):
        await eventually(send.holding.is_set, "it is in flight")
        await change(store, held, "claim_id = gen_random_uuid()")
        send.go_on.set()
        await eventually(lambda: len(runtime.flights) == 0, "it has landed")
        found = await probes.samples()
    assert found.value("late_settles_total") == 1
    assert found.by("messages_settled_total", "outcome") == {}


async def test_what_the_sweeps_did_is_counted(
    settings: Settings, queue: MessageQueue, new_store: NewStore, store: Store
) -> None:
    await enqueue(queue)
    await claim(new_store("dead", lease_seconds=0.0))
    await put(store, "unheard")  # by somebody who did not announce it
    async with working(settings, Scripted()) as runtime, observed(runtime) as probes:
        await finished(queue, completed=2)

        async def swept() -> bool:
            passes = (await probes.samples()).by("sweep_seconds_count", "sweep")
            return passes.keys() >= {"reclaim", "reconcile", "rebuild"}

        await eventually(swept, "each has ended once")
        await eventually(lambda: runtime.tally.swept_messages["reclaim"], "the reclaimed message is counted")
        found = await probes.samples()
    assert found.value("sweep_messages_total", sweep="reclaim") == 1
    assert found.by("sweep_messages_total", "sweep").keys() <= {"reclaim", "reconcile", "rebuild"}
    assert found.value("sweep_seconds_count", sweep="clean") == 0, "there, though it was not due"


async def test_a_found_announce_is_counted(settings: Settings, queue: MessageQueue, store: Store) -> None:
    async with working(settings, Scripted()) as runtime, observed(runtime) as probes:
        await enqueue(queue)
        await finished(queue, completed=1)
        await put(store, "unheard")
        await finished(queue, completed=2)
        found = await eventually(lambda: _with_sweep(probes, "reconcile"), "it is counted")
    assert found.value("sweep_messages_total", sweep="reconcile") == 1


async def _with_sweep(probes: Asking, sweep: str) -> Samples | None:
    found = await probes.samples()
    return found if found.value("sweep_messages_total", sweep=sweep) else None


async def test_wrong_proposals_are_counted_by_reason(
    settings: Settings, queue: MessageQueue, broker: Broker, store: Store
) -> None:
    gone = await enqueue(queue, "gone")
    seq = (await queue.get(gone)).seq
    await queue.cancel(gone)
    await broker.announce([Entry(ChatKey(INSTANCE, "gone"), seq, gone)])  # as a stale replica would bring it back
    await enqueue(queue, "other", executor="not-here")
    async with working(settings, Scripted()) as runtime, observed(runtime) as probes:

        async def reasons() -> dict[str, float] | None:
            found = (await probes.samples()).by("wrong_proposals_total", "reason")
            return found if len(found) == 2 else None

        found = await eventually(reasons, "both were proposed")
    assert found["empty"] == 1
    assert found["executor"] >= 1


async def test_times_are_those_that_passed(settings: Settings, queue: MessageQueue, store: Store) -> None:
    old, scheduled = await enqueue(queue, "old"), await enqueue(queue, "scheduled")
    await change(store, old, "created_at = now() - interval '100 s'")
    await change(store, scheduled, "created_at = now() - interval '1 day', scheduled_at = now() - interval '10 s'")
    await enqueue(queue, "behind")
    second = await enqueue(queue, "behind")
    await change(store, second, "created_at = now() - interval '50 s'")

    async def send(message: Message) -> None:
        await asyncio.sleep(0.2)

    half_a_second = {"delay_min_seconds": 0.5, "delay_max_seconds": 0.5}
    async with working(settings, send, **half_a_second) as runtime, observed(runtime) as probes:
        await finished(queue, completed=4)
        await eventually(lambda: len(runtime.flights) == 0, "all is counted")
        found = await probes.samples()
    first_sends, lags = (found.value(f"{name}_seconds_sum") or 0.0 for name in ("first_send_delay", "claim_lag"))
    assert 160 < first_sends < 170, "100 + 10 + 0 + 50, each from when it was due"
    assert 110 < lags < 118, "a message behind another of its chat is not late before its gap is over"
    assert 0.8 <= (found.value("attempt_seconds_sum") or 0.0) < 4
    assert found.value("gap_seconds_sum") == 2.0


async def test_each_metric_is_there_with_the_labels_that_are_written_down(
    settings: Settings, queue: MessageQueue
) -> None:
    await enqueue(queue, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await enqueue(queue, "b")
    async with working(settings, Scripted()) as runtime, observed(runtime) as probes:
        await finished(queue, pending=1, completed=1)
        await eventually(lambda: _with_survey(probes), "the backlog is surveyed")
        found = await probes.samples()
    written = {family.name.removesuffix("_total"): set(family.labels) for family in FAMILIES}
    there = {
        name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for name, family in found.families.items()
        if name.startswith("mqworker_")
    }
    assert there == written
    assert all(family.documentation for family in found.families.values())
    assert "process_resident_memory_bytes" in found.families


async def _with_survey(probes: Asking) -> Samples | None:
    found = await probes.samples()
    return found if found.value("backlog_accounts") is not None else None


# the survey


async def test_the_backlog_is_counted_by_account_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "PAGE", 3)
    for n in range(7):
        await change(store, await put(store, f"c{n}"), f"created_at = now() - interval '{n * 10} s'")
    await put(store, "elsewhere", instance="other")
    later = "now() + interval '1 hour'"
    await change(store, await put(store, "scheduled"), f"scheduled_at = {later}")
    await change(store, await put(store, "backoff"), f"available_at = {later}")
    await change(store, await put(store, "was-scheduled"), "scheduled_at = now() - interval '1 s'")
    await claim(store, "c6")
    one = Survey(store)
    await one.run_once()
    backlog = one.latest
    assert backlog is not None
    assert {name: (found.due, found.later) for name, found in backlog.accounts.items()} == {
        INSTANCE: (7, 2),
        "other": (1, 0),
    }
    assert (backlog.due, backlog.later) == (8, 2)
    assert 50 <= backlog.oldest_due_seconds < 55, "the one in flight waits no more"
    assert backlog.accounts["other"].oldest_due_seconds < 5
    await one.aclose()


async def test_an_empty_backlog_is_surveyed_too(store: Store) -> None:
    one = Survey(store)
    await one.run_once()
    assert one.latest is not None
    assert (one.latest.accounts, one.latest.oldest_due_seconds) == ({}, 0.0)
    await one.aclose()


async def test_one_worker_surveys_until_it_ends(new_store: NewStore) -> None:
    first, second = Survey(new_store("w1")), Survey(new_store("w2"))
    for _ in range(2):
        await first.run_once()
        await second.run_once()
        assert (first.latest is not None, second.latest) == (True, None)
    await first.aclose()
    await second.run_once()
    assert (first.latest, second.latest is not None) == (None, True)
    await second.aclose()


async def test_a_survey_whose_duty_may_be_anothers_shows_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "HOLD_SECONDS", 0.05)
    one = Survey(store)
    await one.run_once()
    await eventually(lambda: one.latest is None, "its time is over")


def test_a_page_of_the_survey_reads_one_stretch_of_one_index(settings: Settings) -> None:
    """In its order, so that the limit ends it: a bitmap would hold all that waits, for every page anew."""
    statement = BACKLOG % {"after": "$1", "after_seq": "$2", "limit": "$3"}
    with psycopg.connect(settings.database_url.get_secret_value().replace("+psycopg", ""), autocommit=True) as database:
        for preparation in (PREPARED, f"PREPARE page (timestamptz, bigint, bigint) AS {statement}"):
            database.execute(preparation.encode())
        row = database.execute("EXPLAIN (FORMAT JSON) EXECUTE page ('0001-01-01', -1, 1000)").fetchone()
    assert row
    reads = [(node["Node Type"], node.get("Index Name")) for node in nodes(row[0][0]["Plan"]) if "Alias" in node]
    assert [read for read in reads if read[0] != "CTE Scan"] == [("Index Scan", "message_queue_items_status")]
