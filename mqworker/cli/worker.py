"""`mqworker worker`: the arq worker, with every mistake of its start as one line."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from arq.worker import run_worker

from mqworker.cli.migrate import bring_up
from mqworker.cli.running import loop_factory, run
from mqworker.cli.talk import say
from mqworker.errors import ConfigError, StorageUnavailable
from mqworker.executors import Executor, WebhookExecutor, load_registry, ready_made
from mqworker.logs import configure_logging
from mqworker.migrate import check_schema
from mqworker.settings import Settings, load_settings
from mqworker.store import Store, translated_errors
from mqworker.worker import worker_settings

LOOK_PAUSE_SECONDS = 0.5


def work(app: str | None, ready: str | None, *, level: str | None, log_json: bool, migrate: bool) -> None:
    """Run one worker until it is told to stop."""
    settings = load_settings().require_servers()
    executors = chosen_executors(app or settings.app, ready, settings)
    configure_logging(level or settings.log_level, json=log_json or settings.log_json, app=app or settings.app)
    if migrate:
        _migrate(settings.database_url.get_secret_value())
    run(_check(settings))
    options = worker_settings(executors, settings, on_shutdown=_closer(executors))
    asyncio.set_event_loop(loop_factory()())
    run_worker(options)


def chosen_executors(app: str, ready: str | None, settings: Settings) -> dict[str, Executor]:
    """The app's executors, and the ready-made one as ``default`` beside them."""
    if not app and not ready:
        raise ConfigError("nothing to send with: give --app module:attribute (or MQWORKER_APP), or --executor console")
    executors = load_registry(app).executors if app else {}
    if ready:
        if "default" in executors:
            raise ConfigError(f"{app} has an executor 'default' already: leave out --executor {ready}")
        executors["default"] = ready_made(ready, settings)
    return executors


def _migrate(database_url: str) -> None:
    """Migrate as soon as PostgreSQL can be reached: a worker waits for its servers, also here."""
    said = False
    while True:
        try:
            return bring_up(database_url)
        except StorageUnavailable as error:
            if not said:
                say(f"waiting for PostgreSQL to migrate: {error}")
            said = True
            time.sleep(LOOK_PAUSE_SECONDS)


async def _check(settings: Settings) -> None:
    """Refuse now what the worker would refuse in the middle of arq's start. PostgreSQL away: it waits there."""
    store = Store.open(settings, worker="check")
    try:
        with translated_errors():
            await store.database.check()
            await check_schema(store.database)
    except StorageUnavailable:
        return
    finally:
        await store.aclose()


def _closer(executors: dict[str, Executor]) -> Any:
    async def close(_ctx: dict[Any, Any]) -> None:
        for executor in executors.values():
            if isinstance(executor, WebhookExecutor):
                await executor.aclose()

    return close
