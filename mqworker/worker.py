"""The arq worker: `arq mqworker.worker.WorkerSettings`, `mqworker worker`, or a class of your own from
:func:`worker_settings`.

arq runs the process and its cron; our dispatcher and its sends are tasks beside it, started in ``on_startup`` and
never arq jobs: arq's end must not cancel a send, and nothing that matters may live in a job alone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from arq.cron import CronJob, cron
from structlog.contextvars import bind_contextvars

from mqworker.broker import Keys
from mqworker.clockwork import CLEAN_LOOK_SECONDS, has_cron
from mqworker.errors import ConfigError, SchemaBehind
from mqworker.executors import Executor, ExecutorRegistry, load_registry
from mqworker.logs import configure_logging, is_configured
from mqworker.observe import Observer
from mqworker.patient_redis import PatientRedis, from_json, to_json
from mqworker.runtime import Runtime, redis_outage
from mqworker.settings import CANCEL_GRACE_SECONDS, Settings, load_settings
from mqworker.tasks import end_tasks
from mqworker.watchdog import Watchdog

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often arq looks for jobs. Its cron knows whole seconds only, and no send waits for it."""

Hook = Callable[[dict[Any, Any]], Awaitable[None]]


def worker_settings(
    registry: ExecutorRegistry | Mapping[str, Executor],
    settings: Settings | None = None,
    *,
    functions: Sequence[Any] = (),
    cron_jobs: Sequence[CronJob] = (),
    on_startup: Hook | None = None,
    on_shutdown: Hook | None = None,
    **arq_options: Any,
) -> type:
    """A class for `arq` that runs the executors of ``registry``, your own arq functions and cron jobs beside them.

    ``arq_options`` are further attributes of arq's WorkerSettings (``max_jobs``, ``job_timeout``, ...). Your functions
    take and return JSON values; enqueue them through ``ctx["redis"]``. Raises :class:`ConfigError`.
    """
    settings = (settings or load_settings()).require_servers()
    executors = registry.executors if isinstance(registry, ExecutorRegistry) else dict(registry)
    if not executors:
        raise ConfigError("a worker needs at least one executor")
    shell = _Shell(settings, executors, on_startup, on_shutdown)
    redis_url, queue_name = settings.redis_url_of_arq(), Keys(settings.key_prefix).arq_queue
    attributes = {
        "redis_pool": PatientRedis(redis_url, shell.redis, queue_name=queue_name),
        "queue_name": queue_name,
        "functions": list(functions),
        "cron_jobs": [*_cron_jobs(settings), *cron_jobs],
        "on_startup": shell.startup,
        "on_shutdown": shell.shutdown,
        "job_serializer": to_json,
        "job_deserializer": from_json,
        "log_results": False,
        "poll_delay": POLL_SECONDS,
        **arq_options,
    }
    # arq reads the attributes of this very class and no inherited ones.
    return type("WorkerSettings", (), attributes)


def _cron_jobs(settings: Settings) -> list[CronJob]:
    """One job for all sweeps, at the seconds of a minute at which any of them comes round.

    Each of arq's jobs costs Redis some 20 commands, and an idle worker's are nearly all of what it asks.
    """
    periods = [settings.reclaim_every_seconds, settings.reconcile_every_seconds, CLEAN_LOOK_SECONDS]
    marks = {second for period in periods if has_cron(period) for second in range(0, 60, min(int(period), 60))}
    return [cron(_sweep, name="mqworker:sweep", second=marks, max_tries=1)]


async def _sweep(ctx: dict[Any, Any]) -> None:
    await ctx["mqworker"].clockwork.look()


async def _check_redis_of_arq(redis: PatientRedis) -> None:
    if (await redis.info("cluster")).get("cluster_enabled"):
        raise ConfigError("MQWORKER_ARQ_REDIS_URL names a node of a Redis Cluster: arq needs a plain Redis")


class _Shell:
    """What stands between arq's process and our runtime: start, signals, stop."""

    def __init__(
        self,
        settings: Settings,
        executors: Mapping[str, Executor],
        on_startup: Hook | None,
        on_shutdown: Hook | None,
    ) -> None:
        self._settings = settings
        self._executors = executors
        self._on_startup = on_startup
        self._on_shutdown = on_shutdown
        self.redis = redis_outage()
        self._runtime: Runtime | None = None
        self._observer: Observer | None = None
        # Not before the lease: a loop that stood shorter than that has lost nothing yet.
        longest = max(settings.executor_timeout_seconds + CANCEL_GRACE_SECONDS, settings.lease_seconds)
        self._watchdog = Watchdog(limit_seconds=longest, on_stall=self._leave)
        self._told_to_end = False
        self._times_told = 0
        self._stopping: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None

    async def startup(self, ctx: dict[Any, Any]) -> None:
        if not is_configured():
            configure_logging(self._settings.log_level, json=self._settings.log_json, app=self._settings.app)
        runtime = Runtime.open(self._settings, self._executors, self.redis)
        bind_contextvars(worker=runtime.name)  # all that starts from here on inherits it
        try:
            # First of all: while the worker waits for PostgreSQL they say so.
            await self._open_probes(runtime)
            await runtime.check()
            await _check_redis_of_arq(ctx["redis"])
        except (ConfigError, SchemaBehind) as error:
            log.error(str(error))
            await self._close_probes()
            await runtime.aclose()
            raise SystemExit(1) from None
        self._runtime = ctx["mqworker"] = runtime
        if self._on_startup is not None:
            await self._on_startup(ctx)
        runtime.start()
        self._watchdog.start()
        # What the start has made stays for good: looked through at each full collection, it would hold up sends.
        gc.collect()
        gc.freeze()
        self._take_signals(ctx)

    async def _open_probes(self, runtime: Runtime) -> None:
        host, port = self._settings.probe_host, self._settings.probe_port
        if port is not None:
            self._observer = await Observer.open(runtime, self.redis, host=host, port=port)

    async def _close_probes(self) -> None:
        if self._observer is not None:
            await self._observer.aclose()

    def _take_signals(self, ctx: dict[Any, Any]) -> None:
        """arq's own handlers cancel at once, or wait for its jobs only; ours drain first."""
        loop = asyncio.get_running_loop()
        arq_main = asyncio.current_task()

        def drain() -> None:
            if self._stopping is None:
                self._stopping = loop.create_task(self._stop(ctx, arq_main), name="stop")

        def stop() -> None:
            self._times_told += 1
            if self._times_told == 1:
                # A drain may be under way already, for an executor that ignores its cancellation: it goes on.
                drain()
            elif self._stopping is not None and arq_main is not None:
                log.warning("told to stop again: not waiting for the sends in flight")
                self._stopping.cancel()
                ctx["redis"].patience.stopping = True
                arq_main.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
            self._note_at_once(number)
        self._replacing = loop.create_task(self._drain_if_stuck(drain), name="replace")

    def _note_at_once(self, number: signal.Signals) -> None:
        """Know of a signal also while the loop stands still: who was told to end must not start over."""
        of_loop = signal.getsignal(number)

        def note(received: int, frame: Any) -> None:
            self._told_to_end = True
            if callable(of_loop):
                of_loop(received, frame)

        signal.signal(number, note)

    async def _stop(self, ctx: dict[Any, Any], arq_main: asyncio.Task[Any] | None) -> None:
        assert self._runtime is not None
        await self._runtime.drain()
        ctx["redis"].patience.stopping = True
        if arq_main is not None:
            await end_tasks([arq_main])

    async def _drain_if_stuck(self, drain: Callable[[], None]) -> None:
        assert self._runtime is not None
        await self._runtime.must_be_replaced.wait()
        drain()

    async def shutdown(self, ctx: dict[Any, Any]) -> None:
        if self._runtime is not None:
            bind_contextvars(worker=self._runtime.name)  # arq calls this from a task of its own
        if self._on_shutdown is not None:
            await self._on_shutdown(ctx)
        if self._runtime is None:
            return
        if self._replacing is not None:
            self._replacing.cancel()
        await self._close_probes()
        await self._runtime.aclose()
        self._watchdog.stop()
        if self._runtime.must_be_replaced.is_set() and not self._told_to_end:
            self._leave()

    def _leave(self) -> None:
        """Start over, or end where that was asked for: nothing else ends a task that ignores its cancellation.

        The same command, the same pid: a supervisor sees nothing of it.
        """
        if not self._told_to_end:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def __getattr__(name: str) -> Any:
    # Here and not at import: importing this module must read no environment.
    if name == "WorkerSettings":
        settings = load_settings()
        if not settings.app:
            raise ConfigError(
                "MQWORKER_APP must be set: module:attribute of your ExecutorRegistry, such as bot:registry"
            )
        return worker_settings(load_registry(settings.app), settings)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
