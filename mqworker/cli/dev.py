"""`mqworker dev`: both servers in the foreground, with data that stays."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from mqworker.cli.migrate import bring_up
from mqworker.cli.running import ended_by_signals
from mqworker.cli.talk import put, put_json, say
from mqworker.devserver import DevServerError, DevServers, default_state_folder
from mqworker.settings import load_settings

LOOK_PAUSE_SECONDS = 0.5


def serve(state_folder: Path | None, *, as_json: bool) -> None:
    """Start the servers, migrate, say where they are, and wait to be told to stop."""
    with ended_by_signals():
        try:
            _serve(state_folder or default_state_folder(), as_json=as_json)
        except KeyboardInterrupt:
            # This is how it ends.
            say("stopped; the data is kept")


def _serve(state_folder: Path, *, as_json: bool) -> None:
    say("starting PostgreSQL and Redis ...")
    with DevServers(state_folder) as servers:
        # As the settings spell it: the driver is added there.
        settings = load_settings(database_url=servers.database_url, redis_url=servers.redis_url)
        bring_up(settings.database_url.get_secret_value())
        _put_addresses(servers, as_json=as_json)
        _tell(servers)
        while True:
            _must_run(servers)
            time.sleep(LOOK_PAUSE_SECONDS)


def _put_addresses(servers: DevServers, *, as_json: bool) -> None:
    if as_json:
        put_json({"database_url": servers.database_url, "redis_url": servers.redis_url})
    else:
        put(f"export MQWORKER_DATABASE_URL={shlex.quote(servers.database_url)}")
        put(f"export MQWORKER_REDIS_URL={shlex.quote(servers.redis_url)}")


def _tell(servers: DevServers) -> None:
    for name, server in (("PostgreSQL", servers.postgres), ("Redis", servers.redis)):
        if server is None:
            say(f"{name} is the one that the environment names; it was not started here")
    lines = [server.psql_line() for server in [servers.postgres] if server]
    lines += [server.cli_line() for server in [servers.redis] if server]
    if lines:
        say("\nLook inside:")
    for line in lines:
        say(f"  {line}")
    if servers.state_folder:
        say(f"\nData and logs: {servers.state_folder}")
    say("Ready. Ctrl-C stops both.")


def _must_run(servers: DevServers) -> None:
    for server in (servers.postgres, servers.redis):
        if server is not None and not server.running:
            raise DevServerError(f"{server.name} has ended by itself; its log is in {servers.state_folder}")
