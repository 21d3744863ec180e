"""The registry, its loader, and the ready-made executors; the webhook against a real server on loopback."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mqworker.errors import ConfigError
from mqworker.executors import ExecutorRegistry, WebhookExecutor, console, load_registry, ready_made
from mqworker.message import Message
from mqworker.settings import Settings
from tests.unit.samples import MESSAGE, SECRET


async def send(message: Message) -> str | None:
    return message.chat_id


class Sender:
    async def __call__(self, message: Message) -> None: ...

    async def send(self, message: Message, slowly: bool = False) -> None: ...


class SyncSender:
    def __call__(self, message: Message) -> None: ...


class TestRegistry:
    def test_decorator_keeps_the_function(self) -> None:
        registry = ExecutorRegistry()
        assert registry.executor("other")(send) is send
        assert registry.executor()(send) is send
        assert registry.names == ["default", "other"]
        assert registry.get("default") is send
        assert ("default" in registry, "x" in registry, len(registry)) == (True, False, 2)

    @pytest.mark.parametrize(
        "function",
        [Sender(), Sender().send, functools.partial(Sender().send, slowly=True), console],
        ids=repr,
    )
    def test_whatever_can_be_awaited(self, function: Callable[[Message], Awaitable[object]]) -> None:
        registry = ExecutorRegistry()
        registry.register("default", function)
        assert registry.get("default") is function

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (lambda message: message, "must be async"),
            (lambda message: send(message), "must be async"),
            (print, "must be async"),
            (SyncSender(), "must be async"),
            (Sender, "is the class Sender: register an instance of it"),
            (None, "must be an async function, not NoneType"),
            ("send", "must be an async function, not str"),
            (send(MESSAGE), "must be an async function, not coroutine"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_cannot_be_awaited(self, function: Any, reason: str) -> None:
        with pytest.raises(ConfigError, match=f"^executor 'default' {reason}"):
            ExecutorRegistry().register("default", function)
        if asyncio.iscoroutine(function):
            function.close()

    def test_wrong_number_of_arguments(self) -> None:
        async def none() -> None: ...
        async def two(message: Message, other: object) -> None: ...
        async def named(*, message: Message) -> None: ...

        for function in (none, two, named):
            with pytest.raises(ConfigError, match="must take one argument, the message"):
                ExecutorRegistry().register("default", function)  # type: ignore[arg-type]

    def test_a_generator_is_no_executor(self) -> None:
        async def generate(message: Message) -> AsyncIterator[str]:
            yield message.chat_id

        with pytest.raises(ConfigError, match="must be async"):
            ExecutorRegistry().register("default", generate)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "x" * 65, "default\n", 5, None], ids=repr)
    def test_malformed_name(self, name: Any) -> None:
        with pytest.raises(ConfigError, match="an executor's name is 1 to 64 of"):
            ExecutorRegistry().register(name, send)

    def test_taken_name(self) -> None:
        registry = ExecutorRegistry()
        registry.register("default", send)
        with pytest.raises(ConfigError, match="there is an executor 'default' already"):
            registry.register("default", Sender())
        assert registry.get("default") is send

    def test_decorator_without_parentheses(self) -> None:
        with pytest.raises(ConfigError, match="with parentheses"):
            ExecutorRegistry().executor(send)  # type: ignore[arg-type]

    def test_unknown_name(self) -> None:
        registry = ExecutorRegistry()
        with pytest.raises(ConfigError, match="no executor 'x'; registered: none"):
            registry.get("x")
        registry.register("b", send)
        registry.register("a", send)
        with pytest.raises(ConfigError, match="no executor 'x'; registered: a, b"):
            registry.get("x")


BOT = """
from mqworker.executors import ExecutorRegistry
registry, empty, number = ExecutorRegistry(), ExecutorRegistry(), 5

@registry.executor()
async def send(message):
    ...
"""


@pytest.fixture
def bot_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with bots in it, which is not on the Python path."""
    (tmp_path / "some_bot.py").write_text(BOT, encoding="utf-8")
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "inner.py").write_text(BOT, encoding="utf-8")
    (tmp_path / "needs_more.py").write_text("import no_such_library", encoding="utf-8")
    (tmp_path / "breaks.py").write_text(f"raise RuntimeError('password={SECRET}')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("some_bot", "some_package", "some_package.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("bot_folder")
class TestLoader:
    @pytest.mark.parametrize("path", ["some_bot:registry", "some_package.inner:registry"])
    def test_found_in_the_working_directory(self, path: str) -> None:
        assert load_registry(path).names == ["default"]

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("", "write the registry as module:attribute"),
            ("some_bot", "write the registry as module:attribute"),
            ("some_bot:", "write the registry as module:attribute"),
            (":registry", "write the registry as module:attribute"),
            ("some_bot.py:registry()", "write the registry as module:attribute"),
            ("./some_bot:registry", "write the registry as module:attribute"),
            ("..some_bot:registry", "write the registry as module:attribute"),
            ("no_such_bot:registry", "there is no module no_such_bot in "),
            ("some_package.no_such:registry", "there is no module some_package.no_such in "),
            ("no_such_package.inner:registry", "there is no module no_such_package in "),
            ("some_bot:other", "module some_bot has no attribute other"),
            ("some_bot:number", "some_bot:number must be an ExecutorRegistry, not int"),
            ("some_bot:send", "some_bot:send must be an ExecutorRegistry, not function"),
            ("some_bot:empty", "some_bot:empty has no executor"),
            (
                "needs_more:registry",
                "module needs_more cannot be imported: ModuleNotFoundError: No module named",
            ),
            ("breaks:registry", r"module breaks cannot be imported: RuntimeError: password=\*\*\*"),
        ],
    )
    def test_refused(self, path: str, reason: str) -> None:
        with pytest.raises(ConfigError, match=f"^{reason}"):
            load_registry(path)

    def test_the_bots_own_error_is_the_cause(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load_registry("breaks:registry")
        assert isinstance(caught.value.__cause__, RuntimeError)


class TestConsole:
    async def test_one_line_with_the_payload(self, capsys: pytest.CaptureFixture[str]) -> None:
        await console(MESSAGE)
        assert capsys.readouterr().out == (
            'account-1 5511999998888@s.whatsapp.net 0192f0a1-7b2c-7d3e-8f40-123456789abc attempt 2 {"text": "Olá 😀"}\n'
        )

    async def test_nothing_moves_the_cursor(self, capsys: pytest.CaptureFixture[str]) -> None:
        await console(replace(MESSAGE, chat_id="a\nb\x1b[2J", payload={"text": "c\nd\x9be\u2028f"}))
        line = capsys.readouterr().out
        assert "a\\u000ab\\u001b[2J" in line
        assert '"c\\nd\\u009be\\u2028f"' in line
        assert len(line.splitlines()) == 1

    async def test_a_terminal_without_unicode(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with (tmp_path / "out").open("w", encoding="ascii") as out:
            monkeypatch.setattr(sys, "stdout", out)
            await console(MESSAGE)
        assert "Ol\\xe1 \\U0001f600" in (tmp_path / "out").read_text(encoding="ascii")


class TestReadyMade:
    def test_console(self) -> None:
        assert ready_made("console", Settings()) is console

    def test_webhook(self) -> None:
        made = ready_made("webhook", Settings(webhook_url=SecretStr("https://gateway/send")))
        assert isinstance(made, WebhookExecutor)

    def test_another_name(self) -> None:
        with pytest.raises(ConfigError, match="no ready-made executor 'x': there are console and webhook"):
            ready_made("x", Settings())

    def test_webhook_without_url(self) -> None:
        with pytest.raises(ConfigError, match="MQWORKER_WEBHOOK_URL must be set"):
            ready_made("webhook", Settings(webhook_url=SecretStr("")))

    @pytest.mark.parametrize(
        "url",
        [
            "gateway/send",
            "ftp://gateway",
            "//gateway",
            "http://",
            "http:///x",
            "http://[::1",
            "http://h:99999",
            "http://h/\0",
        ],
    )
    def test_webhook_with_another_url(self, url: str) -> None:
        with pytest.raises(ConfigError, match="the webhook's URL") as caught:
            ready_made("webhook", Settings(webhook_url=SecretStr(f"{url}?key={SECRET}")))
        assert SECRET not in str(caught.value)
