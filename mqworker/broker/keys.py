"""The names of the Redis keys. Ids stay readable for redis-cli; all of one account's keys share a cluster slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

# Braces would move the hash tag, a colon would let two chats share a key, and % is our own escape.
_RESERVED = re.compile(r"[{}:%\x00-\x20\x7f-\x9f\u2028\u2029]")


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


@lru_cache(maxsize=65_536)
def encode(name: str) -> str:
    """An instance or chat id as it stands in a key: ``a:b`` is ``a%3Ab``."""
    return _RESERVED.sub(_escape, name)


@lru_cache(maxsize=65_536)
def decode(encoded: str) -> str:
    """The id that :func:`encode` wrote."""
    return unquote(encoded) if "%" in encoded else encoded


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys under one prefix (``mq`` by default)."""

    prefix: str = "mq"

    @property
    def instances(self) -> str:
        """Sorted set: accounts by the time of their earliest due chat (ms)."""
        return f"{self.prefix}:instances"

    @property
    def epoch(self) -> str:
        """String: the run id of the Redis server that was filled; missing means that Redis lost its memory.

        The braces put it into the slot of ``instances``: the two are lost together, or neither is.
        """
        return f"{self.prefix}:epoch:{{{self.instances}}}"

    @property
    def wake(self) -> str:
        """Channel: published by every announce; idle workers listen."""
        return f"{self.prefix}:wake"

    @property
    def arq_queue(self) -> str:
        """arq's own queue: the clockwork's cron jobs."""
        return f"{self.prefix}:arq"

    def of(self, instance: str) -> InstanceKeys:
        """The keys of one account."""
        return _instance_keys(self.prefix, instance)


@dataclass(frozen=True, slots=True)
class InstanceKeys:
    """The keys of one account. Scripts append ``<chat>:stream``, ``<chat>:sorted``, ``<chat>:lock`` to ``chat``."""

    chat: str
    ready: str
    leased: str
    scheduled: str
    epoch: str

    @property
    def all(self) -> list[str]:
        """In the order in which every script takes them."""
        return [self.ready, self.leased, self.scheduled, self.epoch]


@lru_cache(maxsize=4096)
def _instance_keys(prefix: str, instance: str) -> InstanceKeys:
    base = f"{prefix}:{{{encode(instance)}}}"
    return InstanceKeys(f"{base}:chat:", f"{base}:ready", f"{base}:leased", f"{base}:scheduled", f"{base}:epoch")
