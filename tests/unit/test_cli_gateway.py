"""The gateway of demo and tests: what it answers and what it writes down. On loopback, no other server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from mqworker.message import ChatKey
from mqworker.testing.gateway import Gateway
from mqworker.testing.history import History


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "gateway.jsonl"


@pytest.fixture
async def gateway(log: Path) -> AsyncIterator[Gateway]:
    async with Gateway(log) as started:
        yield started


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as opened:
        yield opened


def message(name: str = "m1", chat: str = "c1", attempt: int = 1, **payload: object) -> dict[str, object]:
    return {"id": name, "instance": "shop", "client_id": 7, "chat_id": chat, "payload": payload, "attempt": attempt}


async def statuses(client: httpx.AsyncClient, gateway: Gateway, times: int, **payload: object) -> list[int]:
    return [(await client.post(gateway.url, json=message() | {"payload": payload})).status_code for _ in range(times)]


async def test_a_message_is_taken(gateway: Gateway, client: httpx.AsyncClient, log: Path) -> None:
    answer = await client.post(gateway.url, json=message(text="secret", attempt=2))
    assert answer.status_code == 201
    assert answer.json()["id"].startswith("gateway-")
    history = History(log)
    history.read()
    [attempt] = history.attempts
    assert history.url == gateway.url
    assert (attempt.message_id, attempt.chat, attempt.number) == ("m1", ChatKey("shop", "c1"), 2)
    assert attempt.sent
    assert attempt.ended_at is not None
    assert attempt.ended_at > attempt.started_at
    assert "secret" not in log.read_text()


@pytest.mark.parametrize(
    ("payload", "answers"),
    [
        ({"fail_times": 2}, [500, 500, 201, 201]),
        ({"fail_always": "permanent"}, [400, 400, 400, 400]),
        ({"fail_always": "temporary"}, [500, 500, 500, 500]),
        ({"retry_after": 2}, [429, 201, 201, 201]),
        ({"fail_times": "two", "send_seconds": None}, [201, 201, 201, 201]),
    ],
)
async def test_payloads_script_it(
    gateway: Gateway, client: httpx.AsyncClient, payload: dict[str, object], answers: list[int]
) -> None:
    assert await statuses(client, gateway, 4, **payload) == answers


async def test_retry_after_is_said(gateway: Gateway, client: httpx.AsyncClient) -> None:
    answer = await client.post(gateway.url, json=message(retry_after=2))
    assert answer.headers["Retry-After"] == "2"


async def test_it_sees_two_at_once_in_a_chat(gateway: Gateway, client: httpx.AsyncClient, log: Path) -> None:
    history = History(log)
    slow = asyncio.create_task(client.post(gateway.url, json=message("m1", send_seconds=0.2)))
    while not any(attempt.message_id == "m1" for attempt in history.read()):
        await asyncio.sleep(0.005)
    await client.post(gateway.url, json=message("m2"))
    await client.post(gateway.url, json=message("m3", chat="c2"))
    await slow
    history.read()
    found = {attempt.message_id: attempt for attempt in history.attempts}
    assert [found[name].in_chat for name in ("m1", "m2", "m3")] == [1, 2, 1]
    ended_at = found["m1"].ended_at
    assert ended_at is not None
    assert found["m2"].started_at < ended_at
    assert ended_at - found["m1"].started_at >= 0.2


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b"{}"])
async def test_what_is_no_message(gateway: Gateway, client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post(gateway.url, content=body)).status_code == 400
    assert (await client.get(gateway.url)).status_code == 400


async def test_a_second_gateway_goes_on_in_the_same_log(log: Path, client: httpx.AsyncClient) -> None:
    for name in ("m1", "m2"):
        async with Gateway(log) as gateway:
            await client.post(gateway.url, json=message(name))
    history = History(log)
    history.read()
    assert [attempt.message_id for attempt in history.attempts] == ["m1", "m2"]
