"""The probes of worker processes, asked as a container's checks and Prometheus ask them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import AbstractAsyncContextManager

import pytest

from mqworker import MessageQueue
from mqworker.devserver import PostgresServer, RedisServer
from mqworker.testing.waiting import eventually
from tests.acceptance.conftest import Fleet
from tests.acceptance.gateway import Gateway
from tests.acceptance.processes import ROOT, WorkerProcess
from tests.acceptance.test_promises import open_sends
from tests.canaries import found
from tests.integration.probing import Asking, Samples, asking

CLIENT_ID = 1987654321
NUMBER = "5511987650001"
CHAT, TEXT, FAILING = "canaryChat7d21", "canaryText93ab", "canaryFailing5f0c"


async def probes_of(worker: WorkerProcess) -> AbstractAsyncContextManager[Asking]:
    """The probes of a worker, which may still wait for its servers."""
    answer = re.compile(r"probes answer +url=(http://127\.0\.0\.1:\d+)")
    match = await eventually(lambda: answer.search(worker.text), "its probes answer", timeout_seconds=20)
    return asking(match[1])


async def health(probes: Asking) -> tuple[int, str]:
    """What `mqworker health` exits with, and the status that it prints."""
    command = [sys.executable, "-m", "mqworker", "health", "--json", "--port", str(probes.client.base_url.port)]
    run = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    return run.returncode, json.loads(run.stdout)["status"]


async def test_a_worker_tells_what_it_waits_for_from_its_start_to_its_end(
    own_fleet: Fleet, own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    await asyncio.to_thread(own_postgres.stop)
    worker = own_fleet.launch(probe_port=0)
    async with await probes_of(worker) as probes:

        async def is_failing(*names: str) -> None:
            async def reached() -> bool:
                return await probes.failing() == sorted(names)

            await eventually(reached, f"failing: {names}")
            assert (await probes.client.get("/livez")).text == "alive\n"

        await is_failing("postgres", "worker")
        assert (await probes.client.get("/readyz")).status_code == 503
        assert await health(probes) == (1, "unready")
        assert "mqworker_in_flight_messages 0.0" in await probes.metrics()
        await asyncio.to_thread(own_postgres.start)
        await is_failing()
        assert await health(probes) == (0, "ready")
        await asyncio.to_thread(own_redis.kill)
        await is_failing("redis")
        assert (await probes.client.get("/readyz")).status_code == 200
        assert await health(probes) == (0, "degraded")
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0, worker.text[-2000:]
        assert await health(probes) == (1, "unreachable")
    assert "Traceback" not in worker.text


async def test_a_worker_that_drains_says_so(fleet: Fleet, queue: MessageQueue, gateway: Gateway) -> None:
    (worker,) = await fleet.start(probe_port=0)
    await queue.enqueue("shop", 7, "chat", {"hold_seconds": 2})
    await eventually(lambda: open_sends(gateway), "its send is open")
    async with await probes_of(worker) as probes:
        worker.send(signal.SIGTERM)

        async def drains() -> bool:
            return (await probes.ready())[2].get("worker", "").startswith("it was told to stop")

        await eventually(drains, "it says that it drains")
    assert await worker.exit_code() == 0
    assert len(gateway.delivered) == 1


async def test_metrics_name_no_chat_no_client_no_number_and_no_text(fleet: Fleet, queue: MessageQueue) -> None:
    messages = [
        {"instance": instance, "client_id": CLIENT_ID, "chat_id": chat, "payload": {"text": TEXT, **script}}
        for instance in ("shop", NUMBER, f"{NUMBER}@c.us")
        for chat, script in (
            (CHAT, {}),
            (NUMBER, {}),
            (f"{CHAT}2", {"fail_times": 1}),
            (FAILING, {"status": 400}),
        )
    ]
    await queue.enqueue_many(messages)
    later = await queue.enqueue("shop", CLIENT_ID, f"{CHAT}3", {"text": TEXT}, executor="not-here")
    (worker,) = await fleet.start(probe_port=0, log_level="DEBUG")
    await eventually(lambda: worker.text.count("processed") == 9, "all but one are settled", timeout_seconds=20)
    async with await probes_of(worker) as probes:

        async def is_surveyed() -> str | None:
            metrics = await probes.metrics()
            return metrics if "mqworker_account_backlog_messages{" in metrics else None

        metrics = await eventually(is_surveyed, "the backlog is surveyed", timeout_seconds=30)

        async def all_counted() -> str | None:
            text = await probes.metrics()
            outcomes = Samples(text).by("messages_settled_total", "outcome")
            return text if outcomes == {"sent": 9, "retry": 3, "failed": 3} else None

        answers = [metrics, await eventually(all_counted, "each is counted"), (await probes.client.get("/readyz")).text]
    assert CHAT in worker.text, "what must not be there is there to be found"
    assert found([str(CLIENT_ID), NUMBER, CHAT, TEXT, FAILING, later.id.hex], *answers) == []
    assert 'account="shop"' in answers[1]
    assert 'account="*0001@c.us"' in answers[1]


APP = {"MQWORKER_APP": "tests.acceptance.app:registry", "MQWORKER_WEBHOOK_URL": "http://127.0.0.1:1/"}


@pytest.mark.parametrize("command", [["arq", "mqworker.worker.WorkerSettings"], ["mqworker", "worker"]], ids=" ".join)
def test_a_port_that_is_taken_ends_the_start_with_one_line(command: list[str], environment: dict[str, str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        changes = {**APP, "MQWORKER_PROBE_PORT": str(port)}
        run = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment | changes,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert run.returncode == 1
    told = [line for line in run.stderr.splitlines() if f"the probes cannot listen on 127.0.0.1:{port} (" in line]
    assert len(told) == 1, run.stderr
    assert "Traceback" not in run.stderr
