"""P5 with the default gaps, measured at the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from statistics import mean

import pytest

from mqworker import MessageQueue
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.acceptance import history
from tests.acceptance.conftest import Fleet
from tests.acceptance.gateway import Gateway

DEFAULT_GAPS = {"delay_min_seconds": 0.5, "delay_max_seconds": 2.0}
MEAN_SECONDS, MEAN_TOLERANCE, DISPATCH_SECONDS = 1.25, 0.06, 0.05


@pytest.fixture
def default_fleet(new_fleet: Callable[..., Fleet], settings: Settings) -> Fleet:
    return new_fleet(settings, **DEFAULT_GAPS)


def message(chat: int) -> dict[str, object]:
    return {"instance": "shop", "client_id": 7, "chat_id": f"chat-{chat}", "payload": {"text": "hi"}}


def check(measured: list[float]) -> None:
    assert min(measured) >= 0.5, f"smallest gap {min(measured):.4f} s"
    low, high = MEAN_SECONDS - MEAN_TOLERANCE, MEAN_SECONDS + MEAN_TOLERANCE + DISPATCH_SECONDS
    assert low <= mean(measured) <= high, f"mean gap {mean(measured):.4f} s"


async def test_gaps_of_a_backlog(default_fleet: Fleet, queue: MessageQueue, gateway: Gateway) -> None:
    chats, each = 100, 7
    await queue.enqueue_many([message(n % chats) for n in range(chats * each)])
    await default_fleet.start(2)
    await eventually(lambda: len(gateway.delivered) == chats * each, "all are delivered", timeout_seconds=40)
    measured = history.gaps(gateway.sends)
    assert len(measured) == chats * (each - 1)
    check(measured)


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
