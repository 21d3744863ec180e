"""The log of a worker process: one context in every line, whoever writes it, and levels to live with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest

from mqworker import MessageQueue
from mqworker.testing.waiting import eventually
from tests.integration.rows import INSTANCE

BOT = """
import logging

import structlog

from mqworker import ExecutorRegistry, Message, PermanentError

registry = ExecutorRegistry()


@registry.executor("default")
async def send(message: Message) -> None:
    logging.getLogger(__name__).info("asking the gateway")
    structlog.get_logger().info("asking again", words=2)
    if message.payload.get("fails") and message.attempt == 1:
        raise ConnectionError("no route")
    if message.payload.get("fails"):
        raise PermanentError("blocked")
"""
CONTEXT = {"instance", "chat_id", "message_id", "attempt", "worker"}
OF_MESSAGES = {"processing", "asking the gateway", "asking again", "processed", "retry", "failed"}
COMMANDS = {"mqworker": ["mqworker", "worker"], "arq": ["arq", "mqworker.worker.WorkerSettings"]}


class Logged:
    """A worker process that runs the bot, and what it has logged."""

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        (folder / "bot.py").write_text(BOT)
        self._log = folder / "worker.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env={**environment, "MQWORKER_APP": "bot:registry"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self._log.read_text()

    async def until_finished(self, queue: MessageQueue, number: int) -> str:
        """All that it has logged when so many messages are COMPLETED or FAILED and it has ended."""

        async def finished() -> bool:
            stats = await queue.get_stats(INSTANCE)
            return stats.completed + stats.failed == number

        await eventually(finished, f"{number} messages are finished", timeout_seconds=30)
        self.process.send_signal(signal.SIGTERM)
        await eventually(lambda: self.process.poll() is not None, "it ends", timeout_seconds=20)
        assert self.process.returncode == 0, self.text
        return self.text


@pytest.fixture
def launch(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Logged]]:
    """Starts a worker; it ends with the test."""
    started: list[Logged] = []

    def start(command: str, **changes: str) -> Logged:
        settings = {f"MQWORKER_{name.upper()}": value for name, value in changes.items()}
        started.append(Logged(COMMANDS[command], {**environment, **settings}, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


async def enqueue(queue: MessageQueue) -> list[str]:
    sent = await queue.enqueue(INSTANCE, 7, "fine", {"text": "hi"})
    failing = await queue.enqueue(INSTANCE, 7, "failing", {"text": "hi", "fails": True})
    return [str(sent.id), str(failing.id)]


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_json_line_has_its_context(
    command: str, launch: Callable[..., Logged], queue: MessageQueue
) -> None:
    sent, failing = await enqueue(queue)
    text = await launch(command, log_json="1", log_level="DEBUG").until_finished(queue, 2)
    # arq's command says by itself, before it starts us, that it starts.
    ours = dropwhile(lambda line: not line.startswith("{"), text.splitlines())
    lines: list[dict[str, Any]] = [json.loads(line) for line in ours]
    (worker,) = {line["worker"] for line in lines}
    assert re.fullmatch(r".+:\d+:[0-9a-f]{6}", worker)
    about = [line for line in lines if line["event"] in OF_MESSAGES]
    assert {line["event"] for line in about} == OF_MESSAGES
    for line in about:
        assert line.keys() > CONTEXT | {"level", "timestamp", "logger"}, line
        assert (line["message_id"], line["chat_id"]) in {(sent, "fine"), (failing, "failing")}
    attempts = [line["attempt"] for line in about if line["event"] == "asking again" and line["message_id"] == failing]
    assert attempts == [1, 2]
    levels = {line["event"]: line["level"] for line in lines}
    assert [levels[event] for event in ("processed", "settled", "retry", "failed")] == [
        "debug",
        "info",
        "warning",
        "error",
    ]


async def test_by_default_people_read_what_went_wrong_and_one_line_for_all_the_rest(
    launch: Callable[..., Logged], queue: MessageQueue
) -> None:
    _, failing = await enqueue(queue)
    await queue.enqueue_many(
        [{"instance": INSTANCE, "client_id": 7, "chat_id": f"c{n}", "payload": {}} for n in range(50)]
    )
    text = await launch("mqworker").until_finished(queue, 52)
    assert "processed" not in text
    (retry,) = re.findall(r".*\[warning *\] retry .*", text)
    assert {f"message_id={failing}", "attempt=1", f"instance={INSTANCE}", "chat_id=failing"} <= set(retry.split())
    assert sum(map(int, re.findall(r"settled .* sent=(\d+)", text))) == 51
    assert sum(map(int, re.findall(r"settled .* failed=(\d+)", text))) == 1
    assert len([line for line in text.splitlines() if "asking" not in line]) < 15, text
    assert all(" worker=" in line for line in text.splitlines())
