"""The webhook executor against a real server on loopback: each kind of answer, and the lack of one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.errors import ExecutorError, PermanentError, RetryAfter
from mqworker.executors import WebhookExecutor, webhook
from tests.unit.samples import MESSAGE, SECRET


class Gateway:
    """An HTTP server that gives one scripted answer to every request and keeps what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.reset()

    def reset(self) -> None:
        """Back to an empty 200, with nothing asked so far."""
        self.then: Literal["read on", "close", "go on for ever"] = "read on"
        self.delay_seconds = 0.0
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.asked = asyncio.Event()
        self.connections = 0
        self.answers(200)

    def answers(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Words of the server: {SECRET}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body) if length is None else length}", "", ""]
        self.answer = "\r\n".join(lines).encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._converse(reader, writer)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await self._read(reader)
            self.requests.append(request)
            self.asked.set()
            await asyncio.sleep(self.delay_seconds)
            writer.write(self.answer)
            await writer.drain()
            while self.then == "go on for ever":
                writer.write(b"x" * 65_536)
                await writer.drain()
            if self.then == "close":
                return

    async def _read(self, reader: asyncio.StreamReader) -> tuple[str, dict[str, str], Any]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return first, headers, json.loads(await reader.readexactly(int(headers["content-length"])))


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def server() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    gateway.port = server.sockets[0].getsockname()[1]
    yield gateway
    server.close()


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def hook(server: Gateway) -> AsyncIterator[WebhookExecutor]:
    """One for the class: each client reads the machine's certificates anew, which takes its time."""
    url = f"http://bot:{SECRET}@127.0.0.1:{server.port}/send?key={SECRET}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        hook = WebhookExecutor(url, timeout_seconds=5, max_connections=10)
        yield hook
        await hook.aclose()


@pytest.fixture
def gateway(server: Gateway) -> Gateway:
    server.reset()
    return server


async def refusal(hook: WebhookExecutor) -> ExecutorError:
    with pytest.raises(ExecutorError) as caught:
        await hook(MESSAGE)
    assert SECRET not in str(caught.value)
    return caught.value


@pytest.mark.asyncio(loop_scope="class")
class TestWebhook:
    async def test_the_request(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        await hook(MESSAGE)
        [(first, headers, body)] = gateway.requests
        assert first == f"POST /send?key={SECRET} HTTP/1.1"
        assert headers["idempotency-key"] == str(MESSAGE.id)
        assert headers["content-type"] == "application/json"
        assert headers["authorization"].startswith("Basic ")
        assert body == {
            "id": str(MESSAGE.id),
            "instance": "account-1",
            "client_id": 7,
            "chat_id": "5511999998888@s.whatsapp.net",
            "is_group": False,
            "payload": {"text": "Olá 😀"},
            "attempt": 2,
        }

    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    async def test_2xx_is_sent(self, status: int, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answers(status)
        assert await hook(MESSAGE) is None

    @pytest.mark.parametrize(
        ("body", "provider_id"),
        [
            (b'{"id": "wamid.1"}', "wamid.1"),
            (b'{"id": 42, "other": {}}', "42"),
            ('{"id": "é"}'.encode(), "é"),
            (b'{"id": ""}', None),
            (b'{"id": null}', None),
            (b'{"id": true}', None),
            (b'{"id": {"_serialized": "x"}}', None),
            (b'{"key": {"id": "x"}}', None),
            (b'["id"]', None),
            (b'"id"', None),
            (b"sent, thank you", None),
            (b"\xff\xfe\x00", None),
            (b"[" * 20_000, None),
            (b'{"id": ' + b"9" * 5000 + b"}", None),
        ],
        ids=lambda value: repr(value)[:24],
    )
    async def test_the_providers_id(
        self, body: bytes, provider_id: str | None, gateway: Gateway, hook: WebhookExecutor
    ) -> None:
        gateway.answers(200, body)
        assert await hook(MESSAGE) == provider_id

    async def test_an_endless_answer_is_sent(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answers(200, length=10**12)
        gateway.then = "go on for ever"
        assert await hook(MESSAGE) is None

    async def test_an_answer_that_breaks_off_is_sent(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answers(200, b'{"id"', length=100)
        gateway.then = "close"
        assert await hook(MESSAGE) is None

    async def test_an_answer_whose_body_never_comes_is_sent(
        self, gateway: Gateway, hook: WebhookExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(webhook, "ANSWER_SECONDS", 0.05)
        gateway.answers(200, length=100)
        assert await hook(MESSAGE) is None

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 423, 451, 499])
    async def test_4xx_is_permanent(self, status: int, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answers(status, SECRET.encode(), Retry_After="5")
        error = await refusal(hook)
        assert type(error) is PermanentError
        assert str(error).startswith(f"webhook: HTTP {status}")

    @pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 408, 425, 429, 500, 501, 502, 503, 504, 599])
    async def test_the_rest_is_tried_again(self, status: int, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answers(status, SECRET.encode(), Location=f"http://127.0.0.1:{gateway.port}/other")
        error = await refusal(hook)
        assert type(error) is ExecutorError
        assert str(error).startswith(f"webhook: HTTP {status}")
        assert len(gateway.requests) == 1

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("7", 7.0),
            (" 7 ", 7.0),
            ("1.5", 1.5),
            ("0", 1.0),
            ("86400", 3600.0),
            ("999999999999", 3600.0),
            ("Tue, 01 Jan 2030 00:01:00 GMT", 60.0),
            ("Tue, 01 Jan 2030 00:01:00 -0000", 60.0),
            ("Tuesday, 01-Jan-30 00:01:00 GMT", 60.0),
            ("Mon, 31 Dec 2029 00:00:00 GMT", 1.0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ],
    )
    async def test_retry_after(
        self, status: int, text: str, seconds: float, gateway: Gateway, hook: WebhookExecutor
    ) -> None:
        gateway.answers(status, Retry_After=text, Date="Tue, 01 Jan 2030 00:00:00 GMT")
        error = await refusal(hook)
        assert isinstance(error, RetryAfter)
        assert (error.seconds, error.scope) == (seconds, "chat")
        assert str(error).startswith(f"webhook: HTTP {status} ")

    async def test_retry_after_a_date_by_our_own_clock(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answers(503, Retry_After="Sat, 01 Jan 2000 00:00:00 GMT")
        error = await refusal(hook)
        assert isinstance(error, RetryAfter)
        assert error.seconds == 1.0

    @pytest.mark.parametrize(
        "text", ["", "soon", "-5", "nan", "inf", "1e5", "1_0", "٣", "Tue, 99 Jan 2030", "5;", "9" * 99]
    )
    async def test_retry_after_that_says_nothing(self, text: str, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answers(429, Retry_After=text)
        assert type(await refusal(hook)) is ExecutorError

    async def test_connection_refused(self, gateway: Gateway) -> None:
        hook = WebhookExecutor(f"http://bot:{SECRET}@127.0.0.1:1/", timeout_seconds=5, max_connections=10)
        assert str(await refusal(hook)) == "webhook: cannot connect (ConnectError)"
        await hook.aclose()

    async def test_connection_broken(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answer, gateway.then = b"", "close"
        assert str(await refusal(hook)) == "webhook: the connection broke (RemoteProtocolError)"

    async def test_no_http(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answer = f"220 {SECRET} ESMTP\r\n\r\n".encode()
        assert str(await refusal(hook)) == "webhook: the connection broke (RemoteProtocolError)"

    async def test_hanging_ends_by_its_own_timeout(self, gateway: Gateway) -> None:
        gateway.answer = b""
        hook = WebhookExecutor(f"http://127.0.0.1:{gateway.port}/", timeout_seconds=0.05, max_connections=10)
        assert str(await refusal(hook)) == "webhook: no answer within 0.05 s (ReadTimeout)"
        await hook.aclose()

    async def test_cancelled_by_its_caller(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answer = b""
        sending = asyncio.ensure_future(hook(MESSAGE))
        await gateway.asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    async def test_no_context_that_shows_the_url(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        gateway.answer, gateway.then = b"", "close"
        error = await refusal(hook)
        assert error.__suppress_context__

    async def test_connections_are_kept(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        await hook.aclose()
        for _ in range(5):
            await hook(MESSAGE)
        assert (len(gateway.requests), gateway.connections) == (5, 1)

    async def test_waiting_for_a_connection_is_no_timeout(self, gateway: Gateway) -> None:
        gateway.delay_seconds = 0.04
        hook = WebhookExecutor(f"http://127.0.0.1:{gateway.port}/", timeout_seconds=0.25, max_connections=1)
        await asyncio.gather(*(hook(MESSAGE) for _ in range(8)))
        assert (len(gateway.requests), gateway.connections) == (8, 1)
        await hook.aclose()

    async def test_used_again_after_it_was_closed(self, gateway: Gateway, hook: WebhookExecutor) -> None:
        await hook(MESSAGE)
        await hook.aclose()
        await hook.aclose()
        gateway.reset()
        await hook(MESSAGE)
        assert gateway.connections == 1


class TestWebhookAlone:
    def test_its_repr_keeps_the_url(self) -> None:
        hook = WebhookExecutor(f"http://bot:{SECRET}@gateway/", timeout_seconds=5, max_connections=10)
        assert SECRET not in repr(hook)

    @given(st.text(st.characters(codec="latin-1")), st.text(st.characters(codec="latin-1")))
    @settings(max_examples=20)
    def test_dates_of_any_kind(self, text: str, now: str) -> None:
        webhook._date(text)
        webhook._date(f"Tue, {now}")


def test_httpx_does_not_log_the_url_of_each_request() -> None:
    WebhookExecutor("http://127.0.0.1:9/?token=secret", timeout_seconds=1, max_connections=1)
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
