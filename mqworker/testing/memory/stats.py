"""What people's reads find among the rows in memory: counts, lists, errors, one message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from types import SimpleNamespace
from typing import Any

from mqworker.store import stats
from mqworker.testing.memory.tables import Answers, Parameters, Row, Statement, Tables, timestamp

_TIMES = ("scheduled_at", "available_at", "created_at", "updated_at", "processing_started_at", "processed_at")


class _Stored(SimpleNamespace):
    def _asdict(self) -> dict[str, Any]:
        return vars(self)


def _stored(row: Row) -> _Stored:
    names = [name for name in stats.StoredMessage.__dataclass_fields__ if hasattr(row, name)]
    values = {name: getattr(row, name) for name in names}
    values |= {name: None if values[name] is None else timestamp(values[name]) for name in _TIMES}
    return _Stored(instance=row.chat.instance, chat_id=row.chat.chat_id, **values)


def _get(tables: Tables, given: Parameters, began: float) -> Answers:
    row = tables.items.get(given["id"])
    return [] if row is None else [_stored(row)]


def _payload(tables: Tables, given: Parameters, began: float) -> Answers:
    row = tables.items.get(given["id"])
    return [] if row is None else [(row.payload,)]


def _counts(tables: Tables, given: Parameters, began: float) -> Answers:
    counts = Counter(
        row.status for row in tables.of(given) if given.get("client_id") is None or row.client_id == given["client_id"]
    )
    return [SimpleNamespace(status=status, number=number) for status, number in counts.items()]


def _oldest_first(tables: Tables, given: Parameters, began: float) -> Answers:
    rows = sorted(tables.of(given), key=lambda row: row.arrival)
    after = _after(given)
    return _listed([row for row in rows if after is None or row.arrival > after], given)


def _newest_first(tables: Tables, given: Parameters, began: float) -> Answers:
    rows = sorted(tables.of(given), key=lambda row: row.arrival, reverse=True)
    after = _after(given)
    return _listed([row for row in rows if after is None or row.arrival < after], given)


def _after(given: Parameters) -> tuple[float, int] | None:
    return (given["after"].timestamp(), given["after_seq"]) if "after" in given else None


def _listed(rows: Iterable[Row], given: Parameters) -> Answers:
    return [_stored(row) for row in rows if row.status in given["statuses"]][: given["limit"]]


def _errors(tables: Tables, given: Parameters, began: float) -> Answers:
    found: dict[str, list[float]] = {}
    for status in given["statuses"]:
        rows = sorted((row for row in tables.of(given) if row.status == status), key=lambda row: row.arrival)
        for row in rows[-given["look_at"] :]:
            if row.error is not None:
                found.setdefault(row.error.split("\n", 1)[0], []).append(row.updated_at)
    errors = sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))
    return [
        SimpleNamespace(error=error, number=len(seen), last_seen_at=timestamp(max(seen)))
        for error, seen in errors[: given["limit"]]
    ]


def _every(*names: str) -> Iterable[frozenset[str]]:
    """All choices of filters."""
    return (frozenset(some) for number in range(len(names) + 1) for some in combinations(names, number))


STATEMENTS: dict[str, Statement] = {
    stats.GET: _get,
    stats.PAYLOAD: _payload,
    **{stats.counts_statement(given | {"instance"}): _counts for given in _every("client_id")},
    **{stats.list_statement(g, oldest_first=True): _oldest_first for g in _every("instance", "chat_id", "after")},
    **{stats.list_statement(g, oldest_first=False): _newest_first for g in _every("instance", "chat_id", "after")},
    **{stats.errors_statement(given): _errors for given in _every("instance")},
}
