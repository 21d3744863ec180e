"""The command line's face: help, errors as one line, exit codes. No server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mqworker import ConfigError, ExecutorRegistry, InvalidMessage, Message, load_settings
from mqworker.cli import stats
from mqworker.cli.app import app, main
from mqworker.cli.enqueue import Options, _arguments
from mqworker.cli.running import ended_by_signals
from mqworker.cli.worker import chosen_executors
from mqworker.executors import console
from mqworker.settings import Settings

COMMANDS = ["demo", "dev", "worker", "migrate", "enqueue", "stats", "health"]


async def send(message: Message) -> None: ...


registry = ExecutorRegistry()
registry.register("default", send)
other = ExecutorRegistry()
other.register("other", send)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "APP", "WEBHOOK_URL"):
        monkeypatch.delenv(f"MQWORKER_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that is run here."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(str(ended.value.code)), captured.out, captured.err


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_shows_an_example(self, command: str) -> None:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert f"Example:\n    mqworker {command}" in result.output
        assert max(map(len, result.output.splitlines())) <= 80

    def test_no_command_is_cut_short_in_the_list(self) -> None:
        output = CliRunner().invoke(app, ["--help"]).output
        listed = output.split("Commands:")[1].split("Settings come")[0]
        assert [line.split()[0] for line in listed.strip().splitlines()] == COMMANDS
        assert "..." not in listed

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys, mqworker.cli\n"
            "try: mqworker.cli.main(['--help'])\n"
            "except SystemExit: pass\n"
            "print(sorted({'sqlalchemy', 'arq', 'pydantic', 'alembic', 'rich', 'redis'} & set(sys.modules)))"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert output.splitlines()[-1] == "[]"

    def test_version(self) -> None:
        assert CliRunner().invoke(app, ["--version"]).output.startswith("mqworker 0.")


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["stats", "shop"], "MQWORKER_DATABASE_URL and MQWORKER_REDIS_URL must be set"),
            (["worker", "--executor", "console"], "MQWORKER_DATABASE_URL and MQWORKER_REDIS_URL must be set"),
            (["migrate"], "MQWORKER_DATABASE_URL must be set"),
            (["enqueue", "missing.jsonl"], "MQWORKER_DATABASE_URL and MQWORKER_REDIS_URL must be set"),
            (["demo", "missing.jsonl"], "missing.jsonl cannot be opened: No such file or directory"),
        ],
    )
    def test_an_error_of_ours_is_one_line(
        self,
        arguments: list[str],
        text: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)
        code, out, err = fails(arguments, capsys)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {text}")
        assert err.count("\n") == 1

    def test_debug_shows_where(self) -> None:
        with pytest.raises(ConfigError):
            main(["--debug", "stats", "shop"])

    def test_a_bug_is_one_line_too(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise KeyError("what")

        monkeypatch.setattr(stats, "count", broken)
        code, _, err = fails(["stats", "shop"], capsys)
        assert code == 1
        assert err == "error: unexpected KeyError: 'what' (`mqworker --debug COMMAND` shows where)\n"

    def test_control_characters_do_not_reach_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        _, _, err = fails(["demo", "\x1b[31mred"], capsys)
        assert "\x1b" not in err

    def test_ctrl_c(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(stats, "count", interrupted)
        assert fails(["stats", "shop"], capsys)[0] == 130

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["nonsense"], "No such command"),
            (["worker", "--executor", "pigeon"], "pigeon"),
            (["worker", "--log-level", "loud"], "loud"),
            (["enqueue"], "--instance, --client-id, --chat"),
            (["enqueue", "--instance", "a", "--client-id", "1", "--chat", "c"], "--text, --payload"),
            (["enqueue", "file.jsonl", "--text", "x"], "not both"),
            (["stats"], "INSTANCE"),
        ],
    )
    def test_wrong_usage(
        self,
        arguments: list[str],
        text: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(signal, "signal", lambda *_: signal.SIG_DFL)
        code, _, err = fails(arguments, capsys)
        assert code == 2
        assert text in err

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    def test_signals_end_a_foreground_command_in_order(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with ended_by_signals() as ending, pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert ending.exit_code == 128 + number
        assert signal.getsignal(number) is before


class TestExecutors:
    @pytest.fixture
    def settings(self) -> Settings:
        return load_settings(_env_file=None)

    def test_the_ready_made_one_stands_beside_the_apps(self, settings: Settings) -> None:
        found = chosen_executors(f"{__name__}:other", "console", settings)
        assert found == {"other": send, "default": console}

    def test_the_app_alone(self, settings: Settings) -> None:
        assert chosen_executors(f"{__name__}:registry", None, settings) == {"default": send}

    @pytest.mark.parametrize(
        ("path", "ready", "reason"),
        [
            ("", None, "nothing to send with"),
            (f"{__name__}:registry", "console", "has an executor 'default' already"),
            ("", "webhook", "MQWORKER_WEBHOOK_URL must be set"),
            ("no_such_module:registry", None, "there is no module"),
        ],
    )
    def test_mistakes(self, path: str, ready: str | None, reason: str, settings: Settings) -> None:
        with pytest.raises(ConfigError, match=reason):
            chosen_executors(path, ready, settings)


class TestOneMessage:
    MESSAGE = Options(instance="shop", client_id=7, chat="c", text="Olá")

    def test_text(self) -> None:
        assert _arguments(self.MESSAGE) == {
            "instance": "shop",
            "client_id": 7,
            "chat_id": "c",
            "payload": {"to": "c", "text": "Olá"},
            "message_id": None,
            "is_group": False,
            "max_retries": None,
            "scheduled_at": None,
        }

    def test_all_else(self) -> None:
        options = Options(
            instance="shop",
            client_id=7,
            chat="1203@g.us",
            payload='{"media": [1]}',
            message_id="0192f0a1-7b2c-7d3e-8f40-123456789abc",
            executor="other",
            priority=0,
            max_retries=1,
            at="2030-01-31T09:00:00Z",
        )
        arguments = _arguments(options)
        assert arguments["payload"] == {"media": [1]}
        assert arguments["is_group"] is True
        assert (arguments["executor"], arguments["priority"], arguments["max_retries"]) == ("other", 0, 1)
        assert arguments["scheduled_at"].isoformat() == "2030-01-31T09:00:00+00:00"

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            (Options(instance="a", client_id=1, chat="c", payload="{"), "--payload"),
            (Options(instance="a", client_id=1, chat="c", payload=json.dumps([1])), "--payload"),
            (Options(instance="a", client_id=1, chat="c", text="x", at="tomorrow"), "--at"),
        ],
    )
    def test_refusals_name_the_option(self, options: Options, field: str) -> None:
        with pytest.raises(InvalidMessage) as refusal:
            _arguments(options)
        assert refusal.value.field == field
