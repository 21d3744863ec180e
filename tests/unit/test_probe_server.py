"""The small HTTP server of the probes: what it answers, and that nobody can make it stand still."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from mqworker.errors import ConfigError
from mqworker.observe import server as module
from mqworker.observe.server import Answer, ProbeServer
from mqworker.testing.waiting import eventually

PORT = "http://127.0.0.1:"


def alive() -> Answer:
    return Answer(200, "text/plain", b"alive\n")


@pytest.fixture
async def server() -> AsyncIterator[ProbeServer]:
    started = ProbeServer({"/livez": alive, "/big": lambda: Answer(200, "text/plain", b"x" * 5_000_000)})
    await started.listen("127.0.0.1", 0)
    yield started
    await started.aclose()


def port(server: ProbeServer) -> int:
    assert server.url.startswith(PORT)
    return int(server.url.removeprefix(PORT))


async def ask(server: ProbeServer, request: bytes) -> bytes:
    """All that is answered until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.parametrize("path", ["/livez", "/livez?verbose=1"])
async def test_a_path_that_it_knows(server: ProbeServer, path: str) -> None:
    head, _, body = (await ask(server, get(path))).partition(b"\r\n\r\n")
    assert body == b"alive\n"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain",
        b"Content-Length: 6",
        b"Cache-Control: no-store",
        b"Connection: close",
    ]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/livez/"), 404),
        (get("/%2e%2e/livez"), 404),
        (get("/liv\xe9z"), 404),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 405),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 405),
        (b"GET /livez\r\n\r\n", 400),
        (b"GET /livez HTTP/2\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * module.HEAD_BYTES + b"\r\n\r\n", 431),
    ],
    ids=["root", "slash", "dots", "latin", "post", "head", "http09", "http2", "nothing", "tls", "long"],
)
async def test_everything_else_is_refused(server: ProbeServer, request_: bytes, status: int) -> None:
    assert (await ask(server, request_)).startswith(b"HTTP/1.1 %d " % status)
    assert (await ask(server, get("/livez"))).startswith(b"HTTP/1.1 200 ")


async def test_who_says_nothing_is_not_waited_for(server: ProbeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    assert await ask(server, b"GET /livez HTTP/1.1\r\n") == b""


async def test_who_does_not_read_is_not_waited_for(server: ProbeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    _, writer = await asyncio.open_connection("127.0.0.1", port(server), limit=1)
    writer.write(get("/big"))
    await eventually(lambda: not server._open, "it is cut off")
    writer.close()


async def test_those_who_say_nothing_keep_nobody_out(server: ProbeServer) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", port(server)) for _ in range(2 * module.CONNECTIONS)]
    assert (await ask(server, get("/livez"))).endswith(b"alive\n")
    assert await silent[0][0].read() == b"", "the first was pushed out"
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_an_address_that_cannot_be_had_is_told_with_what_to_do(host: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on {host}:{taken} \(.+\): set MQWORKER_PROBE_PORT"):
            await ProbeServer({}).listen(host, taken)


async def test_an_ipv6_address_is_written_as_in_a_url() -> None:
    started = ProbeServer({"/livez": alive})
    await started.listen("::1", 0)
    assert started.url.startswith("http://[::1]:")
    await started.aclose()
