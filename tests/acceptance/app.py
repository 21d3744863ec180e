"""The application of the worker processes: it posts to the gateway of the test."""

from __future__ import annotations

import asyncio
import time

from mqworker import ExecutorRegistry, Message
from mqworker.executors import ready_made
from mqworker.settings import load_settings

registry = ExecutorRegistry()
registry.register("default", ready_made("webhook", load_settings()))


@registry.executor("blocking")
async def block(_: Message) -> None:
    """Never gives the event loop back."""
    while True:
        time.sleep(1)  # on purpose: the watchdog must replace the process


@registry.executor("stubborn")
async def ignore_cancellation(_: Message) -> None:
    """Never ends, whoever cancels it."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
