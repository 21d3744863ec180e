"""Executors by name: a message carries a name, since a closure cannot survive a restart."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mqworker.errors import ConfigError
from mqworker.message import Message
from mqworker.validation import EXECUTOR_NAME

Executor = Callable[[Message], Awaitable[object]]
"""An async callable that sends one message and returns the provider's id for it, or nothing."""

_F = TypeVar("_F", bound=Executor)


class ExecutorRegistry:
    """The executors that a worker has.

    ::

        registry = ExecutorRegistry()

        @registry.executor("default")
        async def send(message: Message) -> str | None: ...
    """

    def __init__(self) -> None:
        self._executors: dict[str, Executor] = {}

    def executor(self, name: str = "default") -> Callable[[_F], _F]:
        """Register the decorated function under ``name``; raises what :meth:`register` raises."""
        if not isinstance(name, str):
            raise ConfigError('write @registry.executor("name") or @registry.executor(), with parentheses')

        def decorate(function: _F) -> _F:
            self.register(name, function)
            return function

        return decorate

    def register(self, name: str, function: Executor) -> None:
        """Register ``function``; raises :class:`ConfigError` where it cannot serve."""
        if not isinstance(name, str) or not EXECUTOR_NAME.fullmatch(name):
            raise ConfigError(f"an executor's name is 1 to 64 of A-Z a-z 0-9 _ . -, not {str(name)[:80]!r}")
        if name in self._executors:
            raise ConfigError(f"there is an executor {name!r} already")
        _check_callable(name, function)
        self._executors[name] = function

    def get(self, name: str) -> Executor:
        """The executor of this name; :class:`ConfigError` if there is none."""
        if name not in self._executors:
            raise ConfigError(f"no executor {name!r}; registered: {', '.join(self.names) or 'none'}")
        return self._executors[name]

    @property
    def executors(self) -> dict[str, Executor]:
        """All executors by name."""
        return dict(self._executors)

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._executors)

    def __contains__(self, name: object) -> bool:
        return name in self._executors

    def __len__(self) -> int:
        return len(self._executors)


def _check_callable(name: str, function: object) -> None:
    # Found here and not at the first message, where it would burn the attempts of everything that waits.
    if isinstance(function, type):
        raise ConfigError(f"executor {name!r} is the class {function.__name__}: register an instance of it")
    if not callable(function):
        raise ConfigError(f"executor {name!r} must be an async function, not {type(function).__name__}")
    if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(type(function).__call__):
        raise ConfigError(f"executor {name!r} must be async: write `async def` (a lambda cannot be)")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise ConfigError(f"executor {name!r} must take one argument, the message: {error}") from None
