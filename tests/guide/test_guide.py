"""The guide's examples, run as they stand."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mqworker import MessageQueue, QueueStats
from mqworker.testing.waiting import eventually
from tests.acceptance.gateway import Gateway
from tests.guide.conftest import Spawn
from tests.guide.pages import GUIDE, blocks, named

LOCAL_GATEWAY = "http://127.0.0.1:8080"
ACCOUNT, CLIENT_ID, CHAT = "shop-1", 7, "5511999990001@c.us"
RUN_THE_BOT = named(GUIDE)["run the bot"].lines

RUN_HERE = {
    *(
        "bot.py",
        "shop.py",
        "run the bot",
        "api.py",
        "once.py",
        "group.py",
        "priorities.py",
        "patient.py",
        "schedule.py",
    ),
    *("errors.py", "test_bot.py", "test_delivery.py", "before.py", "after.py"),
}

Run = Callable[[str], str]


@pytest.fixture
def folder(shell: dict[str, str], gateway: Gateway) -> Path:
    """All examples as files, their gateway that of the test."""
    base_url = gateway.url.removesuffix("/send")
    folder = Path(shell["HOME"])
    for name, block in named(GUIDE).items():
        if block.language == "python":
            (folder / name).write_text(block.text.replace(LOCAL_GATEWAY, base_url))
    return folder


@pytest.fixture
def run(folder: Path, shell: dict[str, str]) -> Run:
    """Runs one example to its end; what it printed."""

    def run_one(name: str) -> str:
        command = [sys.executable, name]
        return subprocess.run(
            command, cwd=folder, env=shell, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        ).stdout

    return run_one


async def become(queue: MessageQueue, **counts: int) -> None:
    """Wait until the account's messages have come to these states."""

    async def as_expected() -> bool:
        return await queue.get_stats(ACCOUNT) == QueueStats(**counts)

    await eventually(as_expected, f"the states are {counts}", timeout_seconds=30)


def test_every_example_is_marked_and_run_here() -> None:
    assert all(block.name for block in blocks(GUIDE))
    assert set(named(GUIDE)) == RUN_HERE


def test_the_bot_has_twenty_lines() -> None:
    assert len([line for line in named(GUIDE)["bot.py"].text.splitlines() if line.strip()]) <= 20


async def test_the_bot_and_the_shop_deliver(
    folder: Path, shell: dict[str, str], spawn: Spawn, queue: MessageQueue, gateway: Gateway
) -> None:
    worker, shop = RUN_THE_BOT
    spawn(worker, shell)
    subprocess.run(["bash", "-c", shop], cwd=folder, env=shell, check=True, timeout=60)
    await become(queue, completed=2)
    assert [send.body["text"] for send in gateway.delivered] == ["Hello!", "Your order is on its way."]


async def test_higher_priorities_go_first(
    run: Run, shell: dict[str, str], spawn: Spawn, queue: MessageQueue, gateway: Gateway
) -> None:
    run("priorities.py")
    spawn(RUN_THE_BOT[0], shell)
    await become(queue, completed=3)
    texts = [send.body["text"] for send in gateway.delivered]
    assert texts == ["Your code: 481-223", "Your order is on its way.", "This week's offers"]


async def test_a_repeat_a_group_and_a_schedule(run: Run, queue: MessageQueue) -> None:
    assert run("once.py").split() == ["False", "True"]
    assert run("group.py").split() == ["True"]
    assert run("schedule.py").split() == ["cancelled"]
    assert await queue.get_stats(ACCOUNT) == QueueStats(pending=2, cancelled=1)


async def test_what_fails_is_told_and_counted(
    run: Run, shell: dict[str, str], spawn: Spawn, queue: MessageQueue, gateway: Gateway, folder: Path
) -> None:
    # The bot puts the payload's fields beside `to`; the gateway reads its script there.
    failing = await queue.enqueue(ACCOUNT, CLIENT_ID, CHAT, {"payload": {"status": 500}}, max_retries=2)
    await queue.enqueue(ACCOUNT, CLIENT_ID, "5511999990002@c.us", {"payload": {"status": 400}})
    told = folder / "told"
    spawn(f"mqworker worker --app patient:registry > {told}", shell)
    await become(queue, failed=2)
    assert f"giving up on {failing.id}\n" in told.read_text()
    printed = run("errors.py").splitlines()
    assert "1 PermanentError: the gateway refused it: 400" in printed
    assert "FAILED 5511999990002@c.us 1 PermanentError: the gateway refused it: 400" in printed
    assert len([line for line in printed if line.startswith(f"FAILED {CHAT} 2 HTTPStatusError")]) == 1


async def test_the_old_queue_and_the_new_one_send_the_same(
    run: Run, shell: dict[str, str], spawn: Spawn, queue: MessageQueue, folder: Path
) -> None:
    before = run("before.py")
    assert before == f"{CHAT} Hello!\n{CHAT} Your order is on its way.\n"
    run("after.py")
    spawn("mqworker worker --app after:registry > after.txt", shell)
    await become(queue, completed=2)
    assert (folder / "after.txt").read_text() == before


def test_the_tests_of_ones_own_executor_pass(folder: Path, shell: dict[str, str]) -> None:
    # They start servers of their own, with the settings' own gaps.
    environment = {name: value for name, value in shell.items() if not name.startswith("MQWORKER_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bot.py", "test_delivery.py"]
    tests = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert "4 passed" in tests.stdout, tests.stdout


class TestFastAPI:
    @pytest.fixture
    async def shop(
        self, folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[httpx.AsyncClient]:
        """The example's application, started as a server starts it."""
        for name, value in environment.items():
            if name.startswith("MQWORKER_"):
                monkeypatch.setenv(name, value)
        app = _application(folder / "api.py")
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                yield client

    async def test_an_order_and_its_message_exist_together(self, shop: httpx.AsyncClient, queue: MessageQueue) -> None:
        answer = await shop.post("/orders", json={"chat_id": CHAT, "item": "Coffee"})
        assert (answer.status_code, answer.json()) == (201, {"id": 1, "chat_id": CHAT, "item": "Coffee"})
        (message,) = await queue.list(ACCOUNT)
        assert (message.chat_id, message.status) == (CHAT, "PENDING")

    async def test_neither_exists_where_one_is_refused(self, shop: httpx.AsyncClient, queue: MessageQueue) -> None:
        refused = await shop.post("/orders", json={"chat_id": "x" * 256, "item": "Coffee"})
        assert (refused.status_code, "chat_id" in refused.json()["detail"]) == (422, True)
        assert await queue.list(ACCOUNT) == []
        stored = await shop.post("/orders", json={"chat_id": CHAT, "item": "Tea"})
        # The refused order took a number and left no row: its transaction was rolled back.
        assert stored.json()["id"] == 2


_applications: dict[str, Any] = {}


def _application(path: Path) -> Any:
    """The example's ``app``. Loaded once: SQLModel knows a table's class for the whole process."""
    if "app" not in _applications:
        spec = importlib.util.spec_from_file_location("guide_api", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["guide_api"] = module
        spec.loader.exec_module(module)
        _applications["app"] = module.app
    return _applications["app"]
