"""The command line's face: help, errors as one line, exit codes. No server."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import typer
from typer.core import TyperOption

from mqworker import (
    ConfigError,
    EnqueueUncertain,
    ExecutorRegistry,
    InvalidMessage,
    Message,
    NotFound,
    StorageReadOnly,
    StorageUnavailable,
    load_settings,
)
from mqworker.cli import stats
from mqworker.cli.app import command as commands
from mqworker.cli.app import main
from mqworker.cli.enqueue import EnqueueStopped, Options, _arguments
from mqworker.cli.exits import Exit, RedisAway
from mqworker.cli.running import ended_by_signals
from mqworker.cli.worker import chosen_executors
from mqworker.executors import console
from mqworker.settings import Settings

COMMANDS = [
    *("demo", "dev", "worker", "migrate", "enqueue", "health"),
    *("stats", "list", "show", "errors", "top", "doctor"),
    *("cancel", "cancel-pending", "clear", "clean", "rebuild"),
]
# What takes a second, or a server, to import: no help needs it.
HEAVY = {"sqlalchemy", "sqlmodel", "alembic", "psycopg", "redis", "arq", "httpx", "pydantic", "rich", "asyncio"}


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


def shown(*arguments: str) -> str:
    """What a command prints before it exits with 0."""
    printed = StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return printed.getvalue()


def examples(name: str) -> list[list[str]]:
    """The examples in a command's help, as words."""
    lines = shown(name, "--help").split("Example:\n")[1].split("\n\n")[0].splitlines()
    return [shlex.split(re.sub(r"^.*\||>.*$", "", line)) for line in lines]


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_shows_examples_that_it_takes(self, name: str) -> None:
        output = shown(name, "--help")
        assert f"Example:\n    mqworker {name}" in output
        assert max(map(len, output.splitlines())) <= 80
        for program, command, *arguments in examples(name):
            assert (program, command) == ("mqworker", name)
            made = commands().commands[name]
            assert made.make_context(name, arguments).command is made

    def test_no_command_is_cut_short_in_the_list(self) -> None:
        output = shown("--help")
        listed = output.split("Commands:")[1].split("Settings come")[0]
        assert [line.split()[0] for line in listed.strip().splitlines()] == COMMANDS
        assert "..." not in listed

    def test_no_help_imports_anything_heavy(self) -> None:
        code = (
            "import sys, mqworker.cli\n"
            f"for arguments in (['--help'], *([name, '--help'] for name in {COMMANDS})):\n"
            "    try: mqworker.cli.main(arguments)\n"
            "    except SystemExit as ended: assert ended.code == 0\n"
            f"print(sorted({HEAVY} & set(sys.modules)))"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert output.splitlines()[-1] == "[]"

    def test_version(self) -> None:
        assert shown("--version").startswith("mqworker 0.")


def options() -> dict[str, TyperOption]:
    """Every option by its environment variable's name, but those that only print something and exit."""
    root = commands()
    made = {"MQWORKER": root, **{f"MQWORKER_{name}": one for name, one in root.commands.items()}}
    return {
        f"{prefix}_{option.opts[0]}".replace("--", "").replace("-", "_").upper(): option
        for prefix, command in made.items()
        for option in command.params
        if isinstance(option, TyperOption) and option.expose_value and option.name not in ("version", "help")
    }


SETTINGS = {f"MQWORKER_WORKER_{name}": f"MQWORKER_{name}" for name in ("APP", "LOG_LEVEL", "LOG_JSON")}
"""Options that are settings, too, have the settings' names."""


class TestVariables:
    def test_every_option_has_one_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        context = typer.Context(commands())
        for name, option in options().items():
            wanted = SETTINGS.get(name, name)
            monkeypatch.setenv(wanted, "a value of its own")
            assert option.resolve_envvar_value(context) == "a value of its own", wanted
            monkeypatch.delenv(wanted)
            assert option.resolve_envvar_value(context) is None

    def test_none_stands_for_another_setting(self) -> None:
        settings = {f"MQWORKER_{name.upper()}" for name in Settings.model_fields}
        assert options().keys() & settings == set()

    def test_a_flag(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQWORKER_DEBUG", "1")
        with pytest.raises(ConfigError):
            main(["stats", "shop"])

    def test_those_that_only_print_have_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("VERSION", "HELP", "INSTALL_COMPLETION", "SHOW_COMPLETION"):
            monkeypatch.setenv(f"MQWORKER_{name}", "1.2.3")
        assert "Commands:" in shown("--help")

    def test_the_options_of_one_message_do_not_stand_in_a_files_way(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MQWORKER_ENQUEUE_INSTANCE", "shop")
        code, _, err = fails(["enqueue", "file.jsonl"], capsys)
        assert (code, "must be set" in err) == (1, True)


class TestCompletion:
    @pytest.mark.parametrize(
        ("typed", "offered"),
        [
            ("mqworker can", {"cancel", "cancel-pending"}),
            ("mqworker list --o", {"--oldest"}),
            ("mqworker list --status f", {"FAILED"}),
            ("mqworker doctor --", {"--fix", "--limit", "--json", "--help"}),
        ],
    )
    def test_bash(self, typed: str, offered: set[str]) -> None:
        asked = {"_MQWORKER_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        answer = subprocess.run(
            [sys.executable, "-m", "mqworker"], env=os.environ | asked, capture_output=True, text=True, check=True
        )
        assert set(answer.stdout.split()) == offered
        assert answer.stderr == ""

    def test_it_can_be_installed(self, tmp_path: Path) -> None:
        shell = f"{sys.executable} -m mqworker --install-completion; exit $?"
        ran = subprocess.run(
            ["bash", "-c", shell], env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "_MQWORKER_COMPLETE=complete_bash" in (tmp_path / ".bash_completions" / "mqworker.sh").read_text()


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ConfigError("x"), Exit.FAILED),
            (NotFound("x"), Exit.FAILED),
            (EnqueueUncertain([]), Exit.FAILED),
            (InvalidMessage("id", "x"), Exit.USAGE),
            (StorageUnavailable("x"), Exit.AWAY),
            (StorageReadOnly("x"), Exit.AWAY),
            (RedisAway("x"), Exit.AWAY),
        ],
    )
    def test_by_error(
        self,
        error: Exception,
        code: Exit,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(stats, "count", refuse)
        assert fails(["stats", "shop"], capsys) == (code, "", f"error: {error}\n")

    def test_what_stopped_because_a_server_went_away(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object, **__: object) -> None:
            raise EnqueueStopped("3 messages stored before it") from StorageUnavailable("x")

        monkeypatch.setattr(stats, "count", stop)
        assert fails(["stats", "shop"], capsys)[0] == Exit.AWAY


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
