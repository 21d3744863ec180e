"""What the gateway saw, held against the promises. Pure; each breach is a line."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tests.acceptance.gateway import Send

TOLERANCE_SECONDS = 0.002


def lost(sends: Iterable[Send], expected: Iterable[str]) -> list[str]:
    """Messages that should have gone and did not."""
    went = {send.message_id for send in sends if send.status == 201}
    return [f"lost: {message_id}" for message_id in expected if message_id not in went]


def doubled(sends: Iterable[Send], *, allowed: Iterable[str] = ()) -> list[str]:
    """Messages accepted more than once; those of ``allowed`` may have gone once more."""
    spare = set(allowed)
    times = Counter(send.message_id for send in sends if send.status == 201)
    return [f"doubled: {m} went {n} times" for m, n in times.items() if n > (2 if m in spare else 1)]


def reordered(sends: Iterable[Send], order: Sequence[str]) -> list[str]:
    """Chats whose messages first went in another order than ``order`` (all messages, as enqueued)."""
    place = {message_id: n for n, message_id in enumerate(order)}
    breaches = []
    for chat, of_chat in _by_chat(sends).items():
        firsts = list(dict.fromkeys(send.message_id for send in of_chat))
        if [place[m] for m in firsts] != sorted(place[m] for m in firsts):
            breaches.append(f"reordered: {chat}")
    return breaches


def overlapping(sends: Iterable[Send], *, excused: Iterable[str] = ()) -> list[str]:
    """Sends of one chat that were open at once; ``excused`` are messages whose worker was taken for dead."""
    spare = set(excused)
    return [
        f"overlap in {chat}: {a.message_id} and {b.message_id}"
        for chat, of_chat in _by_chat(sends).items()
        for a, b in pairwise(of_chat)
        if (a.end is None or b.start < a.end) and a.message_id not in spare
    ]


def gaps(sends: Iterable[Send], *, excused: Iterable[str] = ()) -> list[float]:
    """Seconds between the end of one attempt and the start of the next, over all chats."""
    spare = set(excused)
    return [
        b.start - a.end
        for of_chat in _by_chat(sends).values()
        for a, b in pairwise(of_chat)
        if a.end is not None and a.message_id not in spare
    ]


def too_fast(sends: Iterable[Send], minimum: float, *, excused: Iterable[str] = ()) -> list[str]:
    """Gaps below the minimum."""
    return [f"too fast: {gap:.4f} s" for gap in gaps(sends, excused=excused) if gap < minimum - TOLERANCE_SECONDS]


def _by_chat(sends: Iterable[Send]) -> dict[str, list[Send]]:
    chats: dict[str, list[Send]] = defaultdict(list)
    for send in sorted(sends, key=lambda one: one.start):
        chats[send.chat_id].append(send)
    return chats
