"""Post each message to a URL: any gateway, an n8n flow, a service of your own."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses

import httpx

from mqworker.errors import ConfigError, ExecutorError, PermanentError, RetryAfter
from mqworker.message import Message

# What we read of an answer: a provider's id is short, and an endless body must not fill the memory.
ANSWER_LIMIT_BYTES = 65_536
# After the status line says "sent", waiting long for the body could only turn a sent message into a timeout.
ANSWER_SECONDS = 5.0
CONNECT_SECONDS = 10.0
# Shorter than the 5 s of Node and uvicorn: a connection that the server closes meanwhile costs an attempt.
KEEPALIVE_SECONDS = 3.0
# A gateway that names more is asked again after this; one that names 0 is not hammered, as nothing counts.
RETRY_AFTER_MOST_SECONDS = 3600.0
RETRY_AFTER_LEAST_SECONDS = 1.0
_PASSING = frozenset({408, 425, 429})


# A pool of httpx looks at every connection for every request: one of 500 stalls the event loop for seconds.
POOL_CONNECTIONS = 32


@dataclass(slots=True, eq=False)
class _Pool:
    """One client, and how many sends it has under way."""

    client: httpx.AsyncClient
    sends: int = 0


class WebhookExecutor:
    """An executor that posts the message as JSON, with its id as ``Idempotency-Key``.

    2xx is sent (``id`` in a JSON answer is returned). 429 and 503 with ``Retry-After`` raise
    :class:`RetryAfter`, other 4xx :class:`PermanentError` (not 408, 425 and 429, which speak of the moment,
    not the message), all else :class:`ExecutorError`, which is retried.
    No text of these holds the URL, the answer or the payload. Close it with :meth:`aclose`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        max_connections: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``max_connections`` is the worker's ``max_chats``; ``timeout_seconds`` holds for each step.

        A ``transport`` stands in for the network, in tests.
        """
        self._url = _checked(url)
        # At INFO httpx logs each request's whole URL, and with it a token.
        if (httpx_log := logging.getLogger("httpx")).level == logging.NOTSET:
            httpx_log.setLevel(logging.WARNING)
        self._timeout_seconds = timeout_seconds
        self._max_connections = max_connections
        self._transport = transport
        self._pools: list[_Pool] = []

    async def __call__(self, message: Message) -> str | None:
        status, headers, body = await self._post(message)
        if 200 <= status < 300:
            return _provider_id(body)
        raise _refusal(status, headers)

    async def aclose(self) -> None:
        """Close all connections. A later call opens new ones."""
        pools, self._pools = self._pools, []
        for pool in pools:
            await pool.client.aclose()

    async def _post(self, message: Message) -> tuple[int, httpx.Headers, bytes]:
        headers = {"Idempotency-Key": str(message.id)}
        pool = self._least_busy()
        pool.sends += 1
        try:
            async with pool.client.stream("POST", self._url, headers=headers, json=_body(message)) as response:
                return response.status_code, response.headers, await _read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ExecutorError(f"webhook: cannot connect ({type(error).__name__})") from None
        except httpx.TimeoutException as error:
            seconds = self._timeout_seconds
            raise ExecutorError(f"webhook: no answer within {seconds:g} s ({type(error).__name__})") from None
        except httpx.HTTPError as error:
            # httpx's own texts may hold the URL, and with it a token.
            raise ExecutorError(f"webhook: the connection broke ({type(error).__name__})") from None
        finally:
            pool.sends -= 1

    def _least_busy(self) -> _Pool:
        # Made at the first message: a client belongs to the event loop in which it is used.
        if not self._pools:
            tls = self._new_tls()
            self._pools = [
                _Pool(self._new_client(tls)) for _ in range(math.ceil(self._max_connections / POOL_CONNECTIONS))
            ]
        return min(self._pools, key=lambda pool: pool.sends)

    def _new_tls(self) -> ssl.SSLContext:
        # One certificate store for all: loading it takes 20 ms. What is no network needs none.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._transport else ssl.create_default_context()

    def _new_client(self, tls: ssl.SSLContext) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={"User-Agent": "mqworker", "Accept-Encoding": "identity"},
            follow_redirects=False,
            verify=tls,
            transport=self._transport,
            # One connection a chat in flight. Where one is still being closed, waiting for it has no
            # limit of its own: the executor's timeout holds, and a full pool burns no attempt by itself.
            timeout=httpx.Timeout(
                self._timeout_seconds, connect=min(self._timeout_seconds, CONNECT_SECONDS), pool=None
            ),
            limits=httpx.Limits(
                max_connections=min(POOL_CONNECTIONS, self._max_connections),
                max_keepalive_connections=POOL_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
        )


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise ConfigError("the webhook's URL cannot be read") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 80) > 65_535:
        raise ConfigError("the webhook's URL must start with http:// or https:// and name a host")
    return parsed


def _body(message: Message) -> dict[str, object]:
    return {
        "id": str(message.id),
        "instance": message.instance,
        "client_id": message.client_id,
        "chat_id": message.chat_id,
        "is_group": message.is_group,
        "payload": message.payload,
        "attempt": message.attempt,
    }


async def _read(response: httpx.Response) -> bytes:
    """The answer's first bytes; empty where they do not come: by now the status alone decides."""
    body = b""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > ANSWER_LIMIT_BYTES:
                    return b""
    except (httpx.HTTPError, TimeoutError):
        return b""
    return body


def _provider_id(body: bytes) -> str | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    value = answer.get("id") if isinstance(answer, dict) else None
    return str(value) or None if isinstance(value, str | int) and not isinstance(value, bool) else None


def _refusal(status: int, headers: httpx.Headers) -> ExecutorError:
    # Not the server's own phrase, which may quote anything.
    text = f"webhook: HTTP {status} {responses.get(status, '')}".rstrip()
    if status in (429, 503) and (seconds := _retry_after(headers)) is not None:
        # The chat, not the account: the answer is to this message, and a limit per recipient must not stop
        # the others. Where the limit is the account's, each chat hears so itself, at no cost in attempts.
        return RetryAfter(seconds, scope="chat", reason=f"{text}, wait {seconds:g} s")
    if 400 <= status < 500 and status not in _PASSING:
        return PermanentError(text)
    return ExecutorError(text)


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds to wait by ``Retry-After`` (seconds or a date), within bounds; ``None`` without one."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII):
        seconds = float(text)
    elif (until := _date(text)) is not None:
        # By the server's own clock where it tells it, so that ours need not agree with it.
        seconds = (until - (_date(headers.get("Date", "")) or datetime.now(UTC))).total_seconds()
    else:
        return None
    return min(max(seconds, RETRY_AFTER_LEAST_SECONDS), RETRY_AFTER_MOST_SECONDS)


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
