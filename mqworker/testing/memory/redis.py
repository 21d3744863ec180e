"""Redis' keys in memory, and what each of the broker's Lua commands does to them.

That it is what the Lua does is shown by ``tests/conformance``. Times are whole milliseconds on the memory's clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, inf
from typing import Any

from mqworker.broker.scripts import load

PASS = 200
"""As in lease.lua."""
UNLEASE_PASS = 500
"""As in unlease.lua."""


@dataclass(slots=True)
class Lock:
    token: str
    ends_ms: float
    dirty: bool = False


@dataclass(slots=True)
class Stream:
    """A lane in order of seq; it knows its last seq for as long as it stands."""

    last: int = 0
    entries: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Account:
    """One account's keys; sorted sets are dictionaries of scores."""

    ready: dict[str, float] = field(default_factory=dict)
    leased: dict[str, float] = field(default_factory=dict)
    scheduled: dict[str, float] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    sorted: dict[str, dict[str, float]] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)

    def lock(self, chat: str, now: int) -> Lock | None:
        lock = self.locks.get(chat)
        if lock is not None and now > lock.ends_ms:
            del self.locks[chat]
            return None
        return lock

    def add(self, chat: str, seq: int, message_id: str, priority: int) -> bool:
        """Put an entry into its lane; whether it is new."""
        lane, member = self.sorted.get(chat, {}), _member(seq, message_id)
        if member in lane:
            return False
        if priority == 0:
            stream = self.streams.setdefault(chat, Stream())
            if seq > stream.last:
                stream.last = seq
                stream.entries[seq] = message_id
                return True
            if seq in stream.entries:
                return False
        self.sorted.setdefault(chat, {})[member] = -priority
        return True

    def drop(self, chat: str, seq: int, message_id: str) -> None:
        """Take an entry out of its lanes."""
        stream = self.streams.get(chat)
        if stream is not None and seq in stream.entries:
            del stream.entries[seq]
        elif chat in self.sorted:
            self.sorted[chat].pop(_member(seq, message_id), None)
            if not self.sorted[chat]:
                del self.sorted[chat]
        if stream is not None and not stream.entries:
            del self.streams[chat]

    def head(self, chat: str) -> tuple[int, int] | None:
        """Priority and seq of the best entry."""
        stream = self.streams.get(chat)
        best = [(0, next(iter(stream.entries)))] if stream else []
        if chat in self.sorted:
            member, score = _first(self.sorted[chat])
            best.append((int(score), int(member[:19])))
        score_and_seq = min(best, default=None)
        return None if score_and_seq is None else (-score_and_seq[0], score_and_seq[1])

    def is_new_head(self, chat: str, seq: int) -> bool:
        head = self.head(chat)
        return head is not None and head[1] == seq and self.depth(chat) > 1

    def depth(self, chat: str) -> int:
        stream = self.streams.get(chat)
        return len(stream.entries if stream else ()) + len(self.sorted.get(chat, ()))


class Memory:
    """All keys of one server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.accounts: dict[str, Account] = {}
        self.instances: dict[str, float] = {}
        self.strings: dict[str, tuple[str, float]] = {}
        self.publish: Callable[[str], None] = lambda channel: None

    @property
    def now(self) -> int:
        return int(self._clock() * 1000)

    def account(self, prefix: str) -> Account:
        return self.accounts.setdefault(prefix, Account())

    def get(self, key: str) -> str | None:
        value, ends_ms = self.strings.get(key, (None, inf))
        return None if self.now > ends_ms else value

    def set(self, key: str, value: str, *options: str) -> bool | None:
        """SET with PX, XX, NX: ``None`` where it may not be set."""
        if ("XX" in options and self.get(key) is None) or ("NX" in options and self.get(key) is not None):
            return None
        ends_ms = self.now + int(options[1]) if options[:1] == ("PX",) else inf
        self.strings[key] = (value, ends_ms)
        return True

    def lower(self, instance: str, score: float) -> None:
        """Have an account due no later; a guard, which has a half, loses it."""
        _lower(self.instances, instance, score)
        if score != inf:
            self.instances[instance] = floor(self.instances[instance])

    def sweep(self) -> int:
        """Remove the accounts at infinity."""
        idle = [instance for instance, score in self.instances.items() if score == inf]
        for instance in idle:
            del self.instances[instance]
        return len(idle)

    def call(self, sha: str, keys: Sequence[str], arguments: Sequence[str]) -> Any:
        return SCRIPTS[sha](self, keys, arguments)


def _member(seq: int, message_id: str) -> str:
    return f"{seq:019}:{message_id}"


def _first(scores: dict[str, float]) -> tuple[str, float]:
    return min(scores.items(), key=lambda one: (one[1], one[0]))


def _due(scores: dict[str, float], now: int, limit: int) -> list[str]:
    return [member for _, member in sorted((s, m) for m, s in scores.items() if s <= now)[:limit]]


def _lower(scores: dict[str, float], member: str, score: float) -> None:
    """ZADD LT."""
    scores[member] = min(scores.get(member, inf), score)


def _rows(arguments: Sequence[str], width: int) -> list[list[Any]]:
    words = json.loads(arguments[1])
    return [words[start : start + width] for start in range(0, len(words), width)]


def _announce(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> int:
    account, now, added = memory.account(arguments[0]), memory.now, 0
    for chat, seq, message_id, priority, due_ms in _rows(arguments, 5):
        if due_ms > 0:
            member = f"{chat}:{priority}:{seq}:{message_id}"
            added += member not in account.scheduled
            account.scheduled[member] = now + due_ms
            continue
        new = account.add(chat, int(seq), message_id, priority)
        added += new
        if chat in account.leased:
            lock = account.lock(chat, now)
            if new and lock is not None:
                lock.dirty = True
            continue
        due = account.ready.get(chat)
        if due is None or (due > now and new and account.is_new_head(chat, int(seq))):
            account.ready[chat] = now
    return added


def _lease(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> list[Any]:
    prefix, most, lock_ms, _owner, token = arguments
    account, now = memory.account(prefix), memory.now
    for member in _due(account.scheduled, now, PASS):
        chat, priority, seq, message_id = member.split(":", 3)
        del account.scheduled[member]
        account.add(chat, int(seq), message_id, int(priority))
        _lower(account.ready, chat, now)
    for chat in _due(account.leased, now, PASS):
        del account.leased[chat]
        account.ready.setdefault(chat, now)
    leased: list[Any] = []
    for chat in _due(account.ready, now, int(most)):
        del account.ready[chat]
        lock = account.lock(chat, now)
        if lock is not None:
            lock.dirty = True
            account.leased.setdefault(chat, now + max(lock.ends_ms - now, 0) + 1)
        elif account.head(chat) is not None:
            account.locks[chat] = Lock(token, now + int(lock_ms))
            account.leased[chat] = now + int(lock_ms)
            leased += [chat, account.depth(chat)]
    firsts = [min(scores.values()) for scores in (account.ready, account.scheduled, account.leased) if scores]
    return [memory.get(keys[3]), max(min(firsts) - now, 0) if firsts else -1, *leased]


def _finish(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> float:
    account, now, earliest = memory.account(arguments[0]), memory.now, -1
    for chat, token, action, seq, message_id, priority, wait_ms, gap_ms in _rows(arguments, 8):
        if action == "drop":
            account.drop(chat, int(seq), message_id)
        elif action == "keep":
            account.add(chat, int(seq), message_id, priority)
        if wait_ms < 0:
            continue
        lock = account.lock(chat, now)
        if lock is not None and token not in ("", lock.token):
            lock.dirty = True
            continue
        account.locks.pop(chat, None)
        account.leased.pop(chat, None)
        due_ms = gap_ms if lock is not None and lock.dirty else wait_ms
        if due_ms > 0 or account.depth(chat):
            _lower(account.ready, chat, now + due_ms)
            earliest = due_ms if earliest < 0 else min(earliest, due_ms)
    return earliest


def _forget(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> int:
    account, now, earliest = memory.account(arguments[0]), memory.now, -1
    for chat, token in _rows(arguments, 2):
        lock = account.lock(chat, now)
        if lock is None or lock.token != token:
            continue
        del account.locks[chat]
        account.leased.pop(chat, None)
        if lock.dirty:
            _lower(account.ready, chat, now)
            earliest = 0
        else:
            for lanes in (account.streams, account.sorted, account.ready):
                lanes.pop(chat, None)
    return earliest


def _renew(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> int:
    account, now, kept = memory.account(arguments[0]), memory.now, 0
    for chat, token in _rows(arguments, 2):
        lock = account.lock(chat, now)
        if lock is not None and lock.token == token:
            lock.ends_ms = now + int(arguments[2])
            if chat in account.leased:
                account.leased[chat] = lock.ends_ms
            kept += 1
    return kept


def _drop(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> int:
    account, now = memory.account(arguments[0]), memory.now
    for chat, seq, message_id, priority in _rows(arguments, 4):
        head = account.head(chat)
        account.drop(chat, int(seq), message_id)
        if head is not None and head[1] == int(seq):
            if chat in account.ready:
                _lower(account.ready, chat, now)
            lock = account.lock(chat, now)
            if lock is not None:
                lock.dirty = True
        account.scheduled.pop(f"{chat}:{priority}:{seq}:{message_id}", None)
    return 1


def _point(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> int:
    for instance in arguments[1:]:
        memory.lower(instance, memory.now)
    if arguments[0]:
        memory.publish(arguments[0])
    return 1


def _take(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> list[Any]:
    now = memory.now
    guard = now + int(arguments[1]) + 0.5
    first = min(memory.instances.values(), default=inf)
    due = _due(memory.instances, now, int(arguments[0]))
    for instance in due:
        memory.instances[instance] = guard
    return [str(guard), -1 if first == inf else max(ceil(first) - now, 0), *due]


def _park(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> int:
    guard, now = arguments[0], memory.now
    for instance, wait in zip(arguments[1::2], arguments[2::2], strict=True):
        score = inf if int(wait) < 0 else now + int(wait)
        if guard and memory.instances.get(instance) == float(guard):
            memory.instances[instance] = score
        else:
            memory.lower(instance, score)
    return 1


def _unlease(memory: Memory, keys: Sequence[str], arguments: Sequence[str]) -> int:
    account = memory.account(arguments[0])
    chats = [chat for _, chat in sorted((score, chat) for chat, score in account.leased.items())[:UNLEASE_PASS]]
    for chat in chats:
        del account.leased[chat]
        account.locks.pop(chat, None)
        account.ready.setdefault(chat, memory.now)
    return len(chats)


SCRIPTS: dict[str, Callable[[Memory, Sequence[str], Sequence[str]], Any]] = {
    load(name).sha: command
    for name, command in {
        "announce": _announce,
        "lease": _lease,
        "finish": _finish,
        "forget": _forget,
        "renew": _renew,
        "drop": _drop,
        "point": _point,
        "take": _take,
        "park": _park,
        "unlease": _unlease,
    }.items()
}
