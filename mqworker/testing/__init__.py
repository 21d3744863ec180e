"""For tests of code that uses mqworker: all of it in memory and in virtual time; docs/TESTING.md shows it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqworker.testing.clock import Clock
    from mqworker.testing.sandbox import Sandbox
    from mqworker.testing.scripted import Answer, Request, ScriptedGateway, fail, hang, lost, ok, retry_after

__all__ = [
    "Answer",
    "Clock",
    "Request",
    "Sandbox",
    "ScriptedGateway",
    "fail",
    "hang",
    "lost",
    "ok",
    "retry_after",
]

_ROOMS = {"Clock": "clock", "Sandbox": "sandbox"}


def __getattr__(name: str) -> Any:
    # At the first use and not here: the demo's gateway is a module of this package, and a process that starts at once.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'scripted')}"), name)
    return value
