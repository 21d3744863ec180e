"""One run, end to end: servers, processes, faults, quiet, and a folder with all that happened."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from mqworker.devserver import DevServers
from mqworker.migrate import upgrade
from mqworker.settings import load_settings
from mqworker.tasks import end_tasks
from mqworker.testing.gateway import now
from mqworker.testing.waiting import eventually
from tests.canaries import found
from tests.chaos import audit
from tests.chaos.fleet import CANARY_PASSWORD, Fleet
from tests.chaos.nemesis import Faults, Nemesis
from tests.chaos.plan import Plan
from tests.chaos.producer import CANARY

DRAIN_PATIENCE_SECONDS = 30.0
MOST_OVERTIME = 2.0
CLOCK_STEP_SECONDS = 0.003


async def carry_out(plan: Plan, folder: Path) -> None:
    """Run ``plan``; afterwards ``folder`` holds what :func:`tests.chaos.history.read` reads."""
    offset = _gateway_offset()
    with DevServers(folder / "servers") as servers:
        settings = load_settings(_env_file=None, database_url=servers.database_url)
        await asyncio.to_thread(upgrade, settings.database_url.get_secret_value())
        audit.install(servers.database_url)
        if plan.drop_index:
            audit.drop_index(servers.database_url)
        fleet = Fleet(plan, servers, folder)
        try:
            await fleet.start()
            await _unfold(plan, servers, fleet, folder)
        finally:
            await fleet.aclose()
        audit.dump(servers.database_url, folder)
    _note(plan, folder, offset)


async def _unfold(plan: Plan, servers: DevServers, fleet: Fleet, folder: Path) -> None:
    stopping = asyncio.Event()
    faults = Faults(plan, servers, fleet, folder)
    keeper = asyncio.create_task(fleet.keep_alive())
    nemesis = asyncio.create_task(Nemesis(plan, faults).run(stopping))
    try:
        await _enough(plan, faults, nemesis, keeper)
        stopping.set()
        await nemesis
        for slot in fleet.producers:
            slot.busy = True
            assert await slot.stop(DRAIN_PATIENCE_SECONDS) is not None, f"{slot.name} goes on"
        quiet_from = time.time()
        emptied = await _until_empty(plan, servers)
        left = await _until_redis_empty(servers) if emptied else []
    finally:
        # Also where the run is broken off: the keeper would start again what is ended.
        await end_tasks([nemesis, keeper])
    await faults.stop_all()
    (folder / "quiet.json").write_text(json.dumps({"quiet_seconds": time.time() - quiet_from, "redis_left": left}))


async def _enough(plan: Plan, faults: Faults, *tasks: asyncio.Task[None]) -> None:
    """Return when the time is over and enough was done: on a slow machine that takes longer. Or when a task failed."""
    begun = time.monotonic()
    while not any(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        minutes = (time.monotonic() - begun) / 60
        if minutes > plan.minutes and (faults.enough or minutes > MOST_OVERTIME * plan.minutes):
            return


async def _until_empty(plan: Plan, servers: DevServers) -> bool:
    try:
        await eventually(
            lambda: audit.waiting(servers.database_url) == 0, "all has ended", timeout_seconds=plan.quiet_seconds
        )
    except AssertionError:
        return False  # the checker says what is left
    return True


async def _until_redis_empty(servers: DevServers) -> list[str]:
    """What Redis holds of chats a moment after the last gap has passed."""
    client = redis.Redis.from_url(servers.redis_url, decode_responses=True)

    def left() -> list[str]:
        words = (":chat:", ":ready", ":leased", ":scheduled")
        return [key for key in client.scan_iter("mq:*", count=1000) if any(word in key for word in words)]

    try:
        await eventually(lambda: not left(), "Redis holds nothing of a chat", timeout_seconds=15)
    except AssertionError:
        return left()
    else:
        return []
    finally:
        client.close()


def _gateway_offset() -> float:
    """What to add to the gateway's clock to have the wall's."""
    return time.time() - now()


def _note(plan: Plan, folder: Path, offset: float) -> None:
    step = abs(_gateway_offset() - offset)
    assert step < CLOCK_STEP_SECONDS, f"the wall clock was set by {step:.3f} s during the run: nothing can be compared"
    quiet = json.loads((folder / "quiet.json").read_text())
    facts: dict[str, Any] = {
        **{key: value for key, value in asdict(plan).items() if key not in ("lanes", "settings")},
        **plan.settings,
        **quiet,
        "gateway_offset": offset,
        "canaries": _canaries(folder),
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1))


def _canaries(folder: Path) -> list[str]:
    """Where the text of a message, or a password, can be read."""
    for log in (folder / "servers").glob("*.log"):
        shutil.copy2(log, folder / f"server-{log.name}")
    return found((CANARY, CANARY_PASSWORD), *(path for path in sorted(folder.iterdir()) if path.is_file()))
