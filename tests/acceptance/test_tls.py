"""TLS: a server that cannot prove its name is told nothing, over every one of our connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme
from sqlalchemy.engine import make_url

from mqworker import MessageQueue, QueueStats, StorageUnavailable
from mqworker.broker import Broker, BrokerUnavailable, Keys
from mqworker.patient_redis import PatientRedis
from mqworker.settings import Settings, load_settings
from mqworker.store import Store
from mqworker.testing.waiting import eventually
from tests.acceptance.conftest import Fleet
from tests.acceptance.loopback import LoopbackServer
from tests.acceptance.test_promises import INSTANCE, all_done, fill
from tests.conftest import SHORT

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Front(LoopbackServer):
    """TLS before a plain server, so that the tests need no server that was built with it.

    ``heard`` is all that clients said once they trusted it.
    """

    def __init__(self, context: ssl.SSLContext, port: int, *, speaks_postgresql: bool = False) -> None:
        self._context = context
        self._behind = port
        self._speaks_postgresql = speaks_postgresql
        self.tls = None if speaks_postgresql else context
        self.heard = bytearray()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._speaks_postgresql:
                # PostgreSQL's clients ask in clear whether there is TLS, and go on with it.
                assert await reader.readexactly(8) == SSL_REQUEST
                writer.write(b"S")
                await writer.start_tls(self._context)
            behind_reader, behind = await asyncio.open_connection("127.0.0.1", self._behind)
            try:
                await _until_one_ends(_pour(reader, behind, self.heard), _pour(behind_reader, writer))
            finally:
                behind.close()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went: it did not like our certificate, or was done
        finally:
            writer.close()


async def _until_one_ends(*pours: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(pour) for pour in pours]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pour(source: asyncio.StreamReader, target: asyncio.StreamWriter, copy: bytearray | None = None) -> None:
    while data := await source.read(65_536):
        if copy is not None:
            copy += data
        target.write(data)
        await target.drain()


class Town:
    """Two authorities, one of which we trust, and fronts with certificates of theirs."""

    def __init__(self, folder: Path, settings: Settings, stack: AsyncExitStack) -> None:
        self.ours, self.strange = trustme.CA(), trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ours.cert_pem.write_to_path(str(self.ca_file))
        self._database = make_url(settings.database_url.get_secret_value())
        self._redis = make_url(settings.redis_url.get_secret_value())
        self._stack = stack

    async def redis(self, ca: trustme.CA, name: str) -> Front:
        return await self._front(ca, name, self._redis.port, speaks_postgresql=False)

    async def postgres(self, ca: trustme.CA, name: str) -> Front:
        return await self._front(ca, name, self._database.port, speaks_postgresql=True)

    async def _front(self, ca: trustme.CA, name: str, port: int | None, *, speaks_postgresql: bool) -> Front:
        assert port is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(name).configure_cert(context)
        return await self._stack.enter_async_context(Front(context, port, speaks_postgresql=speaks_postgresql))

    def redis_url(self, front: Front, *, with_ca: bool = True) -> str:
        return f"rediss://localhost:{front.port}/0" + (f"?ssl_ca_certs={self.ca_file}" if with_ca else "")

    def database_url(self, front: Front, mode: str = "verify-full") -> str:
        query = {"sslmode": mode, "sslrootcert": str(self.ca_file)} if mode == "verify-full" else {"sslmode": mode}
        url = self._database.set(host="localhost", port=front.port, query=query)
        return url.render_as_string(hide_password=False)


@pytest.fixture
async def town(tmp_path: Path, settings: Settings) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        yield Town(tmp_path, settings, stack)


@pytest.fixture
async def new_broker() -> AsyncIterator[Callable[[str], Broker]]:
    brokers: list[Broker] = []

    def make(url: str) -> Broker:
        load_settings(_env_file=None, redis_url=url)
        brokers.append(Broker(url, Keys(), owner="test"))
        return brokers[-1]

    yield make
    for broker in brokers:
        await broker.aclose()


async def test_a_redis_that_proves_its_name_is_used(
    town: Town, new_broker: Callable[[str], Broker], new_client: Callable[[str], PatientRedis]
) -> None:
    front = await town.redis(town.ours, "localhost")
    await new_broker(town.redis_url(front)).ping()
    assert await new_client(town.redis_url(front)).ping()
    assert b"PING" in front.heard


@pytest.mark.parametrize("case", ["another host", "an unknown authority", "our authority is not named"])
async def test_any_other_redis_is_told_nothing(
    case: str,
    town: Town,
    new_broker: Callable[[str], Broker],
    new_client: Callable[[str], PatientRedis],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ca = town.strange if case == "an unknown authority" else town.ours
    front = await town.redis(ca, "another.example" if case == "another host" else "localhost")
    url = town.redis_url(front, with_ca=case != "our authority is not named")
    reason = "Hostname mismatch" if case == "another host" else "unable to get local issuer certificate"
    with pytest.raises(BrokerUnavailable, match=f"its certificate is refused: {reason}"):
        await new_broker(url).ping()
    waiting = asyncio.ensure_future(new_client(url).ping())
    await eventually(
        lambda: any(reason in getattr(record, "reason", "") for record in caplog.records),
        "arq's client says why it waits",
    )
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert front.heard == b""


async def test_a_postgresql_that_proves_its_name_is_used(town: Town) -> None:
    front = await town.postgres(town.ours, "localhost")
    assert await answers(town.database_url(front))
    assert front.heard


@pytest.mark.parametrize("case", ["another host", "an unknown authority"])
async def test_with_verify_full_any_other_postgresql_is_told_nothing(case: str, town: Town) -> None:
    ca = town.strange if case == "an unknown authority" else town.ours
    front = await town.postgres(ca, "another.example" if case == "another host" else "localhost")
    with pytest.raises(StorageUnavailable, match="certificate"):
        await answers(town.database_url(front))
    assert front.heard == b""
    assert await answers(town.database_url(front, "require")), "less than verify-full takes anybody's"


async def answers(database_url: str) -> bool:
    settings = load_settings(_env_file=None, database_url=database_url, redis_url="redis://localhost")
    store = Store.open(settings, worker="test")
    try:
        return bool(await store.database.scalar("SELECT 1"))
    finally:
        await store.aclose()


async def test_a_producer_and_a_worker_process_over_tls_alone(town: Town, new_fleet: Callable[..., Fleet]) -> None:
    redis, postgres = await town.redis(town.ours, "localhost"), await town.postgres(town.ours, "localhost")
    settings = load_settings(
        _env_file=None, database_url=town.database_url(postgres), redis_url=town.redis_url(redis), **SHORT
    )
    fleet = new_fleet(settings)
    async with MessageQueue(settings) as queue:
        (worker,) = await fleet.start()
        await fill(queue, chats=3, each=3)
        assert await all_done(queue) == QueueStats(completed=9)
        assert (await queue.get_stats(INSTANCE)).failed == 0
    assert "reached over a network" not in worker.text
