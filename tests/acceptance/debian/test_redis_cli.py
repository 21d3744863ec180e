"""What operators type at redis-cli's prompt, typed there: tests/guide asks the same over a connection of its own."""

from __future__ import annotations

import subprocess

from mqworker import MessageQueue
from mqworker.testing.waiting import eventually
from tests.guide.pages import OPERATIONS, named


def typed(redis_url: str, lines: list[str]) -> str:
    """What redis-cli prints for these commands."""
    command = ["redis-cli", "-u", redis_url]
    run = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True, timeout=30)
    return run.stdout


async def test_the_prompt_takes_the_commands_of_the_page(queue: MessageQueue, redis_url: str) -> None:
    stored = await queue.enqueue("shop-1", 7, "5511999990001@c.us", {})
    pages = {name: block.lines for name, block in named(OPERATIONS).items() if block.language == "redis"}
    await eventually(lambda: str(stored.id) in typed(redis_url, pages["redis waits"]), "Redis knows the message")
    answers = {name: typed(redis_url, lines) for name, lines in pages.items()}
    assert "5511999990001@c.us" in answers["redis due"]
    assert "run_id:" in answers["redis memory"]
    assert not any(
        line.startswith(("ERR", "WRONGTYPE", "(error)")) for text in answers.values() for line in text.split("\n")
    )
