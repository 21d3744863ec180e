"""Are the servers there, and set up so that no promise breaks?"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from mqworker.broker import BrokerUnavailable, Inspection, ServerFacts
from mqworker.cli.doctor.finding import Finding
from mqworker.cli.rooms import Rooms
from mqworker.errors import ConfigError, SchemaBehind, StorageReadOnly, StorageUnavailable
from mqworker.migrate import check_schema, newest_revision
from mqworker.settings import open_links

SAFE_POLICY = "noeviction"
MOST_STREAM_NODE_BYTES = 1024


def links(rooms: Rooms) -> Finding:
    """The ways to the servers."""
    risks = open_links(rooms.settings)
    if risks:
        return Finding("links", "warn", "; ".join(risks))
    return Finding("links", "ok", "both servers are on this machine, or behind TLS that checks who answers")


async def postgresql(rooms: Rooms) -> AsyncIterator[Finding]:
    """PostgreSQL's settings, and whether it takes writes."""
    try:
        risks = await rooms.store.database.check()
        await _must_take_writes(rooms)
    except StorageReadOnly as error:
        todo = "point MQWORKER_DATABASE_URL at the primary, with a role that may write"
        yield Finding("postgresql", "fail", str(error), todo)
        return
    except StorageUnavailable as error:
        yield Finding("postgresql", "away", str(error), "start it, or mend MQWORKER_DATABASE_URL")
        return
    except ConfigError as error:
        yield Finding("postgresql", "fail", str(error))
        return
    for risk in risks:
        yield Finding("postgresql", "warn", risk)
    if not risks:
        yield Finding("postgresql", "ok", "reachable, and safe for what is accepted")


async def _must_take_writes(rooms: Rooms) -> None:
    with contextlib.suppress(SchemaBehind):  # which is another check's
        await rooms.store.monitor.check()


async def schema(rooms: Rooms) -> Finding:
    """The tables' revision."""
    try:
        await check_schema(rooms.store.database)
    except SchemaBehind as error:
        return Finding("schema", "fail", str(error))
    return Finding("schema", "ok", f"at {newest_revision()}, as this code needs it")


async def redis(rooms: Rooms) -> AsyncIterator[Finding]:
    """Redis' settings. What it forgets is filled in again, so nothing here is worse than slow."""
    try:
        await rooms.broker.ping()
        facts = await Inspection(rooms.broker).facts()
    except BrokerUnavailable as error:
        yield Finding("redis", "away", f"Redis cannot be used: {error}", "start it, or mend MQWORKER_REDIS_URL")
        return
    if facts is None:
        yield Finding("redis", "ok", "reachable; how it is set up our user may not ask")
        return
    try:
        await rooms.broker.check()
    except ConfigError as error:
        yield Finding("redis", "fail", str(error))
        return
    risks = _risks(facts)
    for risk in risks:
        yield risk
    if not risks:
        lasts = "its memory lasts over a restart" if facts.appendonly else "after a restart it is filled anew"
        yield Finding("redis", "ok", f"{facts.version}, evicts nothing; {lasts}")


def _risks(facts: ServerFacts) -> list[Finding]:
    risks = []
    if facts.is_lone_replica:
        found = "is a replica, which takes no writes"
        risks.append(Finding("redis", "fail", found, "point MQWORKER_REDIS_URL at its master"))
    if facts.eviction_policy != SAFE_POLICY:
        found = f"may evict keys (maxmemory-policy {facts.eviction_policy}): chats then wait for the next reconcile"
        risks.append(Finding("redis", "warn", found, f"set maxmemory-policy to {SAFE_POLICY}"))
    if facts.stream_node_bytes is not None and facts.stream_node_bytes > MOST_STREAM_NODE_BYTES:
        found = f"takes some {facts.stream_node_bytes} bytes for each chat in which a message waits"
        risks.append(Finding("redis", "warn", found, "set stream-node-max-bytes to 256"))
    return risks
