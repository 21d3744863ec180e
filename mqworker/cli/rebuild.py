"""`mqworker rebuild`."""

from __future__ import annotations

import asyncio

from mqworker.cli.rooms import Rooms, opened_rooms
from mqworker.cli.running import run
from mqworker.cli.talk import put, put_json, say
from mqworker.validation import check_instance

LOOK_PAUSE_SECONDS = 1.0


def rebuild(instance: str | None, *, as_json: bool) -> None:
    """Fill Redis from the database and print how many messages wait."""
    count = run(_rebuild(instance))
    if as_json:
        put_json({"messages": count})
    else:
        put(f"waiting messages told to Redis: {count}")


async def _rebuild(instance: str | None) -> int:
    if instance is not None:
        check_instance(instance)
    async with opened_rooms() as rooms:
        if instance is not None:
            return await rooms.sweeps.rebuild_instance(instance)
        return await _rebuild_all(rooms)


async def _rebuild_all(rooms: Rooms) -> int:
    """Rebuild as soon as nobody else does: what another began earlier may have begun before what went wrong."""
    said = False
    while (count := await rooms.clockwork.rebuild_now()) is None:
        if not said:
            say("a worker is rebuilding: waiting for its end")
        said = True
        await asyncio.sleep(LOOK_PAUSE_SECONDS)
    return count
