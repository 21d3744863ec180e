"""Is what the queue knows of itself in order?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from mqworker.broker import Entry
from mqworker.cli.ages import short_age
from mqworker.cli.doctor.finding import Finding, NotRepaired
from mqworker.cli.rooms import Rooms
from mqworker.drift import Drift, Found
from mqworker.store import DutyState

HELD_TOO_LONG_SECONDS = 60.0
"""A worker takes a sweep for a few seconds at a time, again and again."""
PERIODS_MISSED = 3
SLACK_SECONDS = 60.0
CLAIMS_LOOKED_AT = 10_000


async def duties(rooms: Rooms) -> AsyncIterator[Finding]:
    """Sweeps that nobody can take, and sweeps that nobody does."""
    states = await rooms.store.inspection.duties()
    stuck = [state for state in states if state.held_seconds > HELD_TOO_LONG_SECONDS]
    for state in stuck:
        found = f"{state.name} is taken for {short_age(state.held_seconds)} by {state.owner}: nobody else can do it"
        yield Finding("sweeps", "fail", found, "doctor --fix frees it", partial(_free, rooms, state))
    idle = _idle(rooms, {state.name: state for state in states})
    if idle:
        yield Finding("sweeps", "warn", f"not done in time: {', '.join(idle)}", "see that a worker runs")
    elif not stuck:
        yield Finding("sweeps", "ok", "done in time by the workers")


def _idle(rooms: Rooms, states: dict[str, DutyState]) -> list[str]:
    idle = []
    for name, duty in rooms.clockwork.duties.items():
        seconds = states[name].idle_seconds if name in states else None
        if seconds is None:
            idle.append(f"{name} (never)")
        elif seconds > PERIODS_MISSED * duty.every_seconds + SLACK_SECONDS:
            idle.append(f"{name} ({short_age(seconds)} ago)")
    return idle


async def _free(rooms: Rooms, state: DutyState) -> str:
    await rooms.store.inspection.free_duty(state.name, held_longer_than_seconds=HELD_TOO_LONG_SECONDS)
    return f"{state.name} is free"


async def claims(rooms: Rooms) -> Finding:
    """Messages in flight whose worker is gone, and that no sweep took back."""
    settings = rooms.settings
    count = await rooms.store.inspection.expired_claims(
        longer_than_seconds=settings.lease_seconds + 2 * settings.reclaim_every_seconds,
        stale_after_seconds=settings.stale_after_seconds,
        limit=CLAIMS_LOOKED_AT,
    )
    if not count:
        return Finding("claims", "ok", "none outlived its worker")
    found = f"{_number(count, CLAIMS_LOOKED_AT)} messages in flight belong to workers that are gone"
    return Finding("claims", "fail", found, "doctor --fix takes them back, as a worker would", partial(_reclaim, rooms))


async def _reclaim(rooms: Rooms) -> str:
    count = await rooms.sweeps.reclaim()
    if not count:
        raise NotRepaired("none taken back: after a restart of PostgreSQL that waits for one lease, try again then")
    return f"{count} messages taken back"


async def memory(rooms: Rooms) -> Finding:
    """Whether Redis is the server that was filled."""
    if await rooms.broker.is_rebuilding():
        return Finding("memory", "ok", "Redis is being filled now")
    if await rooms.broker.remembers():
        return Finding("memory", "ok", "Redis has what it was told")
    found = "Redis was not filled, or has lost its memory"
    return Finding("memory", "warn", found, "a worker fills it at once; so does doctor --fix", partial(_fill, rooms))


async def _fill(rooms: Rooms) -> str:
    count = await rooms.clockwork.rebuild_now()
    return "a worker is filling it" if count is None else f"filled with {count} waiting messages"


async def missing(drift: Drift, *, limit: int) -> Finding:
    """What waits in PostgreSQL and is not known in Redis."""
    found = await drift.missing(limit=limit)
    looked = _looked(found, "the oldest ", "waiting messages")
    if not found.entries:
        return Finding("missing", "ok", f"Redis knows {looked}")
    text = f"Redis does not know {len(found.entries)} of {looked}"
    return Finding("missing", "fail", text, "doctor --fix announces them", _mend(drift.announce, found, "announced"))


async def surplus(drift: Drift, *, limit: int) -> Finding:
    """What is in Redis and has ended in PostgreSQL."""
    found = await drift.surplus(limit=limit)
    looked = _looked(found, "the first ", "messages in Redis")
    if not found.entries:
        return Finding("surplus", "ok", f"{looked} wait or are in flight")
    text = f"{len(found.entries)} of {looked} have ended: they cost memory, and are never sent"
    return Finding("surplus", "warn", text, "doctor --fix drops them", _mend(drift.drop, found, "dropped"))


def _mend(deed: Callable[[Sequence[Entry]], Awaitable[None]], found: Found, done: str) -> Callable[[], Awaitable[str]]:
    async def mend() -> str:
        await deed(found.entries)
        return f"{len(found.entries)} messages {done}"

    return mend


def _looked(found: Found, some: str, what: str) -> str:
    """``all 5 waiting messages``, or ``the oldest 10000 waiting messages``."""
    return f"{'all ' if found.all_seen else some}{found.looked_at} {what}"


def _number(count: int, most: int) -> str:
    return f"{count} or more" if count == most else str(count)
