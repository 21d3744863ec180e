"""The README's examples and tables, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mqworker import MessageQueue, Settings
from mqworker.testing.waiting import eventually
from tests.acceptance.gateway import Gateway

README = (Path(__file__).parents[2] / "README.md").read_text()


def example(name: str) -> str:
    """The code block marked with this file name."""
    found = re.search(rf"<!-- test: {re.escape(name)} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has an example {name}"
    return found[1]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway() as started:
        yield started


@pytest.fixture
def bot(tmp_path: Path, environment: dict[str, str], gateway: Gateway) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that runs the README's bot against the test's gateway."""
    (tmp_path / "shop.py").write_text(example("shop.py"))
    base_url = gateway.url.removesuffix("/send")
    (tmp_path / "bot.py").write_text(example("bot.py").replace("http://127.0.0.1:8080", base_url))
    command = [sys.executable, "-m", "mqworker", "worker", "--app", "bot:registry"]
    worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    yield worker
    worker.kill()
    worker.wait()


async def test_the_bot_and_the_shop_deliver(
    tmp_path: Path, environment: dict[str, str], settings: Settings, gateway: Gateway, bot: subprocess.Popen[bytes]
) -> None:
    subprocess.run([sys.executable, "shop.py"], cwd=tmp_path, env=environment, check=True, timeout=30)
    await eventually(lambda: len(gateway.accepted) == 3, "three messages are delivered", timeout_seconds=20)
    texts = [send.body["text"] for send in gateway.sends]
    assert sorted(texts) == ["Hello!", "Your code: 481-223", "Your order is on its way."]
    assert texts.index("Hello!") < texts.index("Your order is on its way.")
    async with MessageQueue(settings) as queue:

        async def all_settled() -> bool:
            return (await queue.get_stats("shop-1", 7)).completed == 3

        await eventually(all_settled, "all are COMPLETED")


def test_the_bot_has_twenty_lines() -> None:
    lines = [line for line in example("bot.py").splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_settings_table_is_the_settings() -> None:
    table = README.split("<!-- settings -->")[1].split("\n\n")[0]
    shown: dict[str, str] = {}
    for row in table.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        names = re.findall(r"`([A-Z_]+)`", cells[0])
        defaults = [value.strip(" `") for value in cells[1].split(",")] if len(cells) > 1 else []
        shown |= dict(zip(names, defaults, strict=False))
    actual = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    assert set(shown) == set(actual)
    for name, default in actual.items():
        text = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        text = "" if text is None else text
        assert shown[name] == str(text) or float(shown[name]) == float(text), name
