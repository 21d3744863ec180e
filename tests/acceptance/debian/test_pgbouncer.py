"""Behind PgBouncer in transaction mode: a statement may run on any of the server's connections, each another time."""

from __future__ import annotations

import asyncio
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

from mqworker import MessageQueue, QueueStats
from mqworker.cli.migrate import current_revision
from mqworker.devserver.account import Account
from mqworker.devserver.server import free_port
from mqworker.migrate import downgrade, newest_revision, upgrade
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually
from tests.acceptance.conftest import Fleet
from tests.acceptance.gateway import Gateway
from tests.acceptance.test_promises import all_done, breaches, fill

SERVER_CONNECTIONS = 3

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
"""


@pytest.fixture
async def bouncer(settings: Settings, tmp_path: Path) -> AsyncIterator[URL]:
    """The database's URL through a PgBouncer of this test."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    assert program, "pgbouncer is not installed: apt-get install --no-install-recommends pgbouncer"
    direct, port = make_url(settings.database_url.get_secret_value()), free_port()
    file = tmp_path / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(
            host=direct.host,
            port=direct.port,
            user=direct.username,
            listen_port=port,
            connections=SERVER_CONNECTIONS,
        )
    )
    account = Account.choose(tmp_path)
    # It refuses to run as root.
    user = ["--user", pwd.getpwuid(account.uid).pw_name] if account.switch else []
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *user, str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    url = direct.set(host="127.0.0.1", port=port)
    try:
        await eventually(lambda: _answers(url), "PgBouncer answers")
        yield url.update_query_dict({"prepare_threshold": "none"})
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)


async def _answers(url: URL) -> bool:
    try:
        async with await _connected(url):
            return True
    except psycopg.OperationalError:
        return False


async def _connected(url: URL) -> psycopg.AsyncConnection[tuple[object, ...]]:
    plain = url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
    return await psycopg.AsyncConnection.connect(plain, autocommit=True, prepare_threshold=None)


async def test_all_is_sent_in_order_and_no_setting_is_left_on_the_servers_connections(
    bouncer: URL, settings: Settings, new_fleet: Callable[..., Fleet], gateway: Gateway
) -> None:
    through = settings.model_copy(
        update={"database_url": type(settings.database_url)(bouncer.render_as_string(hide_password=False))}
    )
    fleet = new_fleet(through)
    async with MessageQueue(through) as queue:
        await fleet.start(2)
        ids = await fill(queue, chats=20, each=10)
        assert await all_done(queue) == QueueStats(completed=200)
    assert breaches(gateway, ids) == []
    async with (
        await _connected(bouncer) as first,
        await _connected(bouncer) as second,
        await _connected(bouncer) as third,
    ):
        for client in (first, second, third):
            await client.execute("BEGIN")  # each keeps one of the server's connections
        found = [await _settings_of(client) for client in (first, second, third)]
    assert found == [("on", "auto", 0)] * SERVER_CONNECTIONS


def test_the_schema_goes_down_and_up(bouncer: URL) -> None:
    through = bouncer.render_as_string(hide_password=False)
    downgrade(through, "base")
    assert current_revision(through) == ""
    upgrade(through)
    assert current_revision(through) == newest_revision()


async def _settings_of(client: psycopg.AsyncConnection[tuple[object, ...]]) -> tuple[object, ...] | None:
    cursor = await client.execute(
        "SELECT current_setting('enable_seqscan'), current_setting('plan_cache_mode'), "
        "(SELECT count(*) FROM pg_prepared_statements)"
    )
    return await cursor.fetchone()
