"""The command: every check, its repair where asked for, one line each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from rich.table import Table
from rich.text import Text

from mqworker.broker import BrokerUnavailable
from mqworker.cli.doctor import servers, state
from mqworker.cli.doctor.finding import Finding
from mqworker.cli.exits import Exit
from mqworker.cli.rooms import Rooms, opened_rooms
from mqworker.cli.running import run
from mqworker.cli.table import put_table
from mqworker.cli.talk import printable, put_json, say
from mqworker.drift import Drift
from mqworker.errors import MqWorkerError

STYLES = {"ok": "green", "fixed": "green", "warn": "yellow", "fail": "red", "away": "red"}


def examine(*, limit: int, fix: bool, as_json: bool) -> Exit:
    """Print what each check found."""
    return run(_examine(limit=limit, fix=fix, as_json=as_json))


async def _examine(*, limit: int, fix: bool, as_json: bool) -> Exit:
    findings = []
    async with opened_rooms() as rooms:
        async for finding in _findings(rooms, limit=limit):
            seen = await _repaired(finding) if fix and finding.repair else finding
            findings.append(seen)
            if as_json:
                put_json({"check": seen.check, "state": seen.state, "found": seen.found, "todo": seen.todo})
            else:
                put_table(_row(seen))
    states = [finding.state for finding in findings]
    if not as_json:
        say(_verdict(states.count("fail") + states.count("away"), states.count("warn")))
    return Exit.AWAY if "away" in states else Exit.FAILED if "fail" in states else Exit.DONE


async def _findings(rooms: Rooms, *, limit: int) -> AsyncIterator[Finding]:
    """All that can be found; what needs a server that is of no use, or tables that are not there, is left out."""
    yield servers.links(rooms)
    tables = True
    async for finding in servers.postgresql(rooms):
        yield finding
        tables = tables and finding.state != "away"
    if tables:
        finding = await servers.schema(rooms)
        yield finding
        tables = finding.state == "ok"
    redis = True
    async for finding in servers.redis(rooms):
        yield finding
        redis = redis and finding.state not in ("away", "fail")
    async for finding in _state(rooms, limit=limit, tables=tables, redis=redis):
        yield finding


async def _state(rooms: Rooms, *, limit: int, tables: bool, redis: bool) -> AsyncIterator[Finding]:
    if tables:
        async for finding in state.duties(rooms):
            yield finding
        yield await state.claims(rooms)
    if redis:
        yield await state.memory(rooms)
    if tables and redis:
        drift = Drift(rooms.store, rooms.broker)
        yield await state.missing(drift, limit=limit)
        yield await state.surplus(drift, limit=limit)


async def _repaired(finding: Finding) -> Finding:
    """The finding after its repair. What could not be repaired stays as it is, with the reason."""
    assert finding.repair is not None
    try:
        done = await finding.repair()
    except (MqWorkerError, BrokerUnavailable) as error:
        return replace(finding, todo=f"not repaired: {error}")
    return replace(finding, state="fixed", found=f"{finding.found}: {done}", todo="")


def _row(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=5)
    table.add_column(width=10)
    table.add_column(ratio=1)
    text = finding.found if not finding.todo else f"{finding.found}. To do: {finding.todo}"
    table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.check, Text(printable(text)))
    return table


def _verdict(failed: int, warned: int) -> str:
    if not failed and not warned:
        return "all is well"
    return f"{failed} failed, {warned} to think about"
