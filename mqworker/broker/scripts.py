"""Loads the Lua commands and runs many of them in one round trip, also after a SCRIPT FLUSH."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

_INCLUDE = re.compile(r"^--! include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua command with its includes put in."""

    name: str
    source: str
    sha: str


@cache
def load(name: str) -> Script:
    """The command ``lua/<name>.lua``."""
    folder = files("mqworker.broker") / "lua"
    source = _INCLUDE.sub(
        lambda match: (folder / f"{match[1]}.inc.lua").read_text("utf-8"), (folder / f"{name}.lua").read_text("utf-8")
    )
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One command with its keys and arguments."""

    name: str
    keys: Sequence[str]
    arguments: Sequence[str | int]

    @property
    def key(self) -> str:
        """One of its keys: all are in the same slot of a cluster."""
        return self.keys[0]


@dataclass(frozen=True, slots=True)
class Plain:
    """One of Redis' own commands, to go along with others."""

    words: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key that it is about."""
        return self.words[1]


async def replies_of(redis: Redis, calls: Sequence[Call | Plain]) -> list[Any]:
    """Run commands in one round trip and in order; answer in their order, with the errors among the answers.

    Where the server forgot a script, all is run again from there on, so that the order stays; every command of ours
    may be repeated.
    """
    if not calls:
        return []
    replies = await _pipeline(redis, calls)
    first = next((index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)), None)
    if first is not None:
        await _load_all(redis, calls[first:])
        replies[first:] = await _pipeline(redis, calls[first:])
    return replies


def raised(replies: list[Any]) -> list[Any]:
    """The answers, or the first error among them."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _load_all(redis: Redis, calls: Sequence[Call | Plain]) -> None:
    for name in {call.name for call in calls if isinstance(call, Call)}:
        await redis.script_load(load(name).source)


async def _pipeline(redis: Redis, calls: Sequence[Call | Plain]) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipeline:
        for call in calls:
            if isinstance(call, Plain):
                pipeline.execute_command(*call.words)
            else:
                pipeline.evalsha(load(call.name).sha, len(call.keys), *call.keys, *map(str, call.arguments))
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies
