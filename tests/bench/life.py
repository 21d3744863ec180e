"""A message's whole life, and its second half alone: how fast one worker is, and by what that changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from tests.bench.figures import Figure, Point, Target, at_least, rate, ratio
from tests.bench.filling import (
    CLIENT,
    TEXT,
    fill,
    fill_by_sql,
    message,
    rate_after,
    rate_since,
    rebuild,
    until_completed,
)
from tests.bench.room import Room
from tests.bench.worker import one_worker, workers

MESSAGES = 20_000
CHATS = (100, 1_000, 20_000)
BACKLOGS = ((100_000, 10_000), (1_000_000, 100_000))
FEW_CHATS = at_least(0.65, quick=0.25)
SAME_RATE = at_least(0.8, quick=0.3)
SKIPPED_SHARE = 0.03
"""The part of a backlog that a worker sends while its plans, scripts and connections are made."""


@dataclass(frozen=True)
class Backlog:
    """How much waits, in how many chats."""

    messages: int
    chats: int

    @property
    def words(self) -> str:
        return f"{self.messages:,} in {self.chats:,} chats"


def _backlog(room: Room, chats: int) -> Backlog:
    messages = room.scaled(MESSAGES)
    return Backlog(messages, min(chats, messages))


async def life(room: Room) -> list[Figure]:
    """from the first enqueue_many to the last settle, beside bare SQL"""
    return [figure for chats in CHATS for figure in await _life(room, _backlog(room, chats))]


async def _life(room: Room, backlog: Backlog) -> list[Figure]:
    floor = await room.bare_life(backlog.messages)
    async with room.queue() as queue, one_worker(room):
        began = await room.clock()
        await fill(queue, backlog.messages, backlog.chats)
        per_second = await rate_since(room, began, backlog.messages)
    points = [Point("chats", line, backlog.chats) for line in ("bare SQL", "enqueue to settle")]
    return [
        rate(f"SQL floor, beside {backlog.words}", floor, points=(points[0],)),
        rate(f"life, {backlog.words}", per_second, points=(points[1],)),
        ratio(f"life / floor, {backlog.words}", per_second / floor, at_least(0.6, quick=0.12)),
    ]


async def drain(room: Room) -> list[Figure]:
    """what waits is sent: by how many chats, by how much waits"""
    few, base, many = [(_backlog(room, chats), await _drained(room, _backlog(room, chats))) for chats in CHATS]
    figures = [_drain_rate(*one, "chats", one[0].chats) for one in (few, base, many)]
    figures += [_drain_ratio(*few, base[1], FEW_CHATS), _drain_ratio(*many, base[1], SAME_RATE)]
    figures[1] = replace(figures[1], points=(*figures[1].points, Point("backlog", "drain", base[0].messages)))
    for messages, chats in BACKLOGS:
        backlog = Backlog(room.scaled(messages), room.scaled(chats))
        per_second = await _drained_deep(room, backlog)
        figures.append(_drain_rate(backlog, per_second, "backlog", backlog.messages))
        figures.append(_drain_ratio(backlog, per_second, base[1], SAME_RATE))
    return figures


def _drain_rate(backlog: Backlog, per_second: float, plot: str, x: int) -> Figure:
    return rate(f"drain, {backlog.words}", per_second, points=(Point(plot, "drain", x),))


def _drain_ratio(backlog: Backlog, per_second: float, base: float, target: Target) -> Figure:
    return ratio(f"drain, {backlog.words} / 1,000 chats", per_second / base, target)


async def _drained(room: Room, backlog: Backlog, number: int = 1) -> float:
    """The rate at which warm workers send what was put in while they were stopped."""
    await room.empty()
    async with room.queue() as queue, workers(room, number) as running:
        for worker in running:
            worker.pause()
        await fill(queue, backlog.messages, backlog.chats)
        began = await room.clock()
        for worker in running:
            worker.go_on()
        return await rate_since(room, began, backlog.messages)


async def _drained_deep(room: Room, backlog: Backlog) -> float:
    """The rate over the first messages of a backlog that is much larger than they are."""
    await room.empty()
    await fill_by_sql(room, backlog.messages, backlog.chats)
    await rebuild(room)
    measured = min(room.scaled(60_000), backlog.messages * 2 // 3)
    skipped = round(measured * SKIPPED_SHARE)
    async with one_worker(room, warm=False):
        await until_completed(room, measured + skipped)
    return await rate_after(room, skipped, measured)


async def two_workers(room: Room) -> list[Figure]:
    """two workers drain, beside one"""
    figures = []
    for chats in CHATS:
        backlog = _backlog(room, chats)
        one = await _drained(room, backlog)
        two = await _drained(room, backlog, 2)
        figures.append(rate(f"drain by two, {backlog.words}", two))
        figures.append(ratio(f"two workers / one, {backlog.words}", two / one, at_least(1.0, quick=0.4)))
    return figures


async def instances(room: Room) -> list[Figure]:
    """a thousand instances with a chat each, beside one with a thousand chats"""
    number, each = room.scaled(1_000), 20
    await room.empty()
    async with room.queue() as queue, one_worker(room) as worker:
        # The accounts are known, as they are but once in their lives: to learn one costs a rebuild of its own.
        await asyncio.gather(*(queue.enqueue(f"shop-{shop}", CLIENT, "chat-0", TEXT) for shop in range(number)))
        await until_completed(room, number)
        await room.forget()
        worker.pause()
        for _ in range(each):
            await queue.enqueue_many([message(0, instance=f"shop-{shop}") for shop in range(number)])
        began = await room.clock()
        worker.go_on()
        many = await rate_since(room, began, number * each)
    one = await _drained(room, Backlog(number * each, number))
    return [
        rate(f"drain, {number:,} instances", many),
        ratio(f"{number:,} instances / one", many / one, at_least(0.5, quick=0.15)),
    ]
