"""P5 with the default gaps, measured at the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from statistics import mean

import psycopg
import pytest

from mqworker import MessageQueue
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.acceptance import history
from tests.acceptance.conftest import Fleet
from tests.acceptance.gateway import Gateway
from tests.acceptance.test_promises import fill, message

DEFAULT_GAPS = {"delay_min_seconds": 0.5, "delay_max_seconds": 2.0}
MEAN_SECONDS, MEAN_TOLERANCE = 1.25, 0.06
LATE_SECONDS = 0.3
"""A busy machine adds some tenths; a worker that missed a wake-up would add half a second, on average."""
DRAWN = """
    SELECT EXTRACT(EPOCH FROM c.next_at - max(i.processed_at))::float
    FROM message_queue_chats c JOIN message_queue_items i USING (instance, chat_id)
    GROUP BY c.instance, c.chat_id, c.next_at
"""


@pytest.fixture
def default_fleet(new_fleet: Callable[..., Fleet], settings: Settings) -> Fleet:
    return new_fleet(settings, **DEFAULT_GAPS)


def check(measured: list[float]) -> None:
    assert min(measured) >= 0.5, f"smallest gap {min(measured):.4f} s"
    low, high = MEAN_SECONDS - MEAN_TOLERANCE, MEAN_SECONDS + MEAN_TOLERANCE + LATE_SECONDS
    assert low <= mean(measured) <= high, f"mean gap {mean(measured):.4f} s"


def check_drawn(database_url: str, chats: int) -> None:
    """What the machine cannot blur: the last gap of each chat as its row has it."""
    with psycopg.connect(database_url) as connection:
        drawn = [seconds for (seconds,) in connection.execute(DRAWN)]
    assert len(drawn) == chats
    # A few microseconds lie between the two clock readings of one settle.
    assert 0.499 <= min(drawn) <= max(drawn) <= 2.001
    assert abs(mean(drawn) - MEAN_SECONDS) < 4 * (1.5 / 12**0.5) / chats**0.5, f"mean gap drawn {mean(drawn):.4f} s"


async def test_gaps_of_a_backlog(
    default_fleet: Fleet, queue: MessageQueue, gateway: Gateway, database_url: str
) -> None:
    chats, each = 100, 7
    await fill(queue, chats, each)
    await default_fleet.start(2)
    await eventually(lambda: len(gateway.delivered) == chats * each, "all are delivered", timeout_seconds=40)
    measured = history.gaps(gateway.sends)
    assert len(measured) == chats * (each - 1)
    check(measured)
    check_drawn(database_url, chats)


async def test_gaps_where_each_message_comes_after_the_last_was_delivered(
    default_fleet: Fleet, queue: MessageQueue, gateway: Gateway
) -> None:
    chats, rounds = 100, 7
    await default_fleet.start(2)

    async def converse(chat: int) -> None:
        for _ in range(rounds):
            enqueued = await queue.enqueue(**message(chat))  # type: ignore[arg-type]
            await eventually(partial(gateway.has_accepted, str(enqueued.id)), f"chat {chat}'s message is delivered")

    await asyncio.gather(*(converse(chat) for chat in range(chats)))
    measured = history.gaps(gateway.sends)
    assert len(measured) == chats * (rounds - 1)
    check(measured)
