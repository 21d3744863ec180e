"""The commands as processes, on real servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mqworker import MessageQueue
from mqworker.cli.demo.play import clean_environment
from mqworker.devserver import DevServers
from mqworker.devserver.folders import StateFolder
from mqworker.devserver.guard import descendants, is_alive
from mqworker.settings import Settings
from mqworker.testing.waiting import eventually, wait_until
from tests.conftest import execute, process_environment, with_database

MESSAGE: dict[str, object] = {"instance": "shop", "client_id": 7, "chat_id": "c", "payload": {"text": "Olá"}}


@pytest.fixture
def mqworker(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command to its end, in a folder without .env."""

    def run(*arguments: str, given: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mqworker", *arguments],
            env=environment | changes,
            cwd=tmp_path,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def lines(count: int) -> list[str]:
    return [json.dumps(MESSAGE | {"chat_id": f"c{number % 10}"}) for number in range(count)]


class TestEnqueue:
    def test_one_message(self, mqworker: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        one = ["enqueue", "--instance", "shop", "--client-id", "7", "--chat", "c", "--text", "Olá"]
        first = mqworker(*one)
        assert (first.returncode, first.stderr) == (0, "")
        message_id = first.stdout.strip()
        again = json.loads(mqworker(*one, "--message-id", message_id, "--json").stdout)
        assert (again["id"], again["status"], again["deduplicated"]) == (message_id, "PENDING", True)
        counts = mqworker("stats", "shop", "--client-id", "7", "--json").stdout
        assert json.loads(counts) == {"pending": 1, "processing": 0, "completed": 0, "failed": 0, "cancelled": 0}
        assert mqworker("stats", "shop", "--client-id", "8").stdout.split() == [
            "pending", "0", "processing", "0", "completed", "0", "failed", "0", "cancelled", "0",
        ]  # fmt: skip

    async def test_a_file(
        self, mqworker: Callable[..., subprocess.CompletedProcess[str]], settings: Settings, tmp_path: Path
    ) -> None:
        texts = [json.dumps(MESSAGE | {"payload": {"number": number}}) for number in range(2500)]
        (tmp_path / "messages.jsonl").write_text("\n".join(texts))
        result = mqworker("enqueue", "messages.jsonl")
        assert (result.returncode, result.stdout, result.stderr) == (0, "2500 messages stored\n", "")
        async with MessageQueue(settings) as queue:
            assert (await queue.get_stats("shop")).pending == 2500

    def test_a_bad_line_of_a_file_stores_nothing(
        self,
        mqworker: Callable[..., subprocess.CompletedProcess[str]],
        environment: dict[str, str],
        tmp_path: Path,
    ) -> None:
        texts = lines(1500)
        texts[1406] = json.dumps(MESSAGE | {"priority": "high"})
        (tmp_path / "messages.jsonl").write_text("\n".join(texts))
        expected = "error: line 1407: priority: must be int, got str; nothing was stored\n"
        result = mqworker("enqueue", "messages.jsonl")
        assert (result.returncode, result.stdout, result.stderr) == (1, "", expected)
        # A file that the shell opens is checked whole, too.
        with (tmp_path / "messages.jsonl").open() as file:
            command = [sys.executable, "-m", "mqworker", "enqueue", "-"]
            redirected = subprocess.run(
                command, stdin=file, capture_output=True, text=True, env=environment, cwd=tmp_path
            )
        assert (redirected.returncode, redirected.stderr) == (1, expected)
        assert json.loads(mqworker("stats", "shop", "--json").stdout)["pending"] == 0

    def test_a_bad_line_of_a_pipe_says_what_was_stored(
        self, mqworker: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        result = mqworker("enqueue", "-", given="\n".join([*lines(3000), "{}", *lines(10)]))
        assert result.returncode == 1
        assert result.stderr.startswith("error: line 3001: chat_id: is required; ")
        stored = json.loads(mqworker("stats", "shop", "--json").stdout)["pending"]
        assert 1000 <= stored <= 3000
        assert f"; {stored} messages stored before it (lines 1 to {stored})\n" in result.stderr

    def test_a_repeated_id(self, mqworker: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        message_id = "0192f0a1-7b2c-7d3e-8f40-123456789abc"
        same = json.dumps(MESSAGE | {"message_id": message_id})
        other = json.dumps(MESSAGE | {"message_id": message_id, "chat_id": "other"})
        assert mqworker("enqueue", "-", "--json", given=f"{same}\n{same}").stdout == '{"stored": 1, "repeats": 1}\n'
        conflict = mqworker("enqueue", "-", given=f"{lines(1)[0]}\n{other}\n")
        assert conflict.returncode == 1
        assert conflict.stderr.startswith(f"error: line 2: message_id {message_id} is already used")
        assert conflict.stderr.endswith("; nothing was stored\n")

    async def test_a_slow_producer_s_messages_do_not_wait(
        self, environment: dict[str, str], settings: Settings, tmp_path: Path
    ) -> None:
        command = [sys.executable, "-m", "mqworker", "enqueue", "-"]
        with subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            process.stdin.write(lines(1)[0] + "\n")
            process.stdin.flush()
            async with MessageQueue(settings) as queue:

                async def stored() -> bool:
                    return (await queue.get_stats("shop")).pending == 1

                await eventually(stored, "the first message is stored", timeout_seconds=20)
            # Ctrl-C ends it although it waits for a line.
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130


class TestMigrate:
    @pytest.fixture
    def empty(self, servers: DevServers) -> Iterator[str]:
        """A database without tables."""
        name = f"mqworker_empty_{os.getpid()}"
        execute(servers.database_url, f'CREATE DATABASE "{name}"')
        yield with_database(servers.database_url, name)
        execute(servers.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')

    def test_up_and_down(self, mqworker: Callable[..., subprocess.CompletedProcess[str]], empty: str) -> None:
        def migrate(*arguments: str) -> subprocess.CompletedProcess[str]:
            return mqworker("migrate", *arguments, MQWORKER_DATABASE_URL=empty)

        up = migrate()
        assert up.stdout.startswith("nothing -> ")
        assert up.stdout.endswith(" (head)\n")
        assert migrate().stdout.startswith("already at head: ")
        told = json.loads(migrate("--json").stdout)
        assert (told["before"], told["head"]) == (told["after"], True)
        refused = migrate("--to", "base")
        assert refused.returncode == 2
        assert "deletes data: add --yes" in refused.stderr
        assert migrate("--to", "base", "--yes").stdout.endswith(" -> nothing\n")
        assert "there is no revision 'nonsense'" in migrate("--to", "nonsense").stderr

    def test_a_worker_whose_database_is_behind(
        self, mqworker: Callable[..., subprocess.CompletedProcess[str]], empty: str
    ) -> None:
        result = mqworker("worker", "--executor", "console", MQWORKER_DATABASE_URL=empty)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert result.stderr == "error: the database has not mqworker's tables, or older ones: run `mqworker migrate`\n"
        assert "run `mqworker migrate`" in mqworker("stats", "shop", MQWORKER_DATABASE_URL=empty).stderr

    def test_a_worker_that_is_told_to_migrate(self, empty: str, redis_url: str, tmp_path: Path) -> None:
        with Running(
            ["worker", "--executor", "console", "--migrate", "--log-level", "DEBUG", "--log-json"],
            process_environment(empty, redis_url),
            tmp_path,
        ) as worker:
            worker.until("worker started")
            one = ["enqueue", "--instance", "shop", "--client-id", "7", "--chat", "c", "--text", "Olá"]
            subprocess.run(
                [sys.executable, "-m", "mqworker", *one], env=process_environment(empty, redis_url), check=True
            )
            worker.until('"text": "Olá"')
            worker.until('"event": "processed"')
            assert worker.end(signal.SIGTERM) == 0


class TestWorker:
    def test_an_app_beside_a_ready_made_executor(self, environment: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "bot.py").write_text(
            "from mqworker import ExecutorRegistry, Message\n"
            "registry = ExecutorRegistry()\n"
            "@registry.executor('other')\n"
            "async def send(message: Message) -> None:\n"
            "    print('other sends', message.payload['text'], flush=True)\n"
        )
        with Running(["worker", "--app", "bot:registry", "--executor", "console"], environment, tmp_path) as worker:
            worker.until("worker started")
            for executor in ("other", "default"):
                options = ["--client-id", "7", "--chat", "c", "--text", f"for {executor}", "--executor", executor]
                subprocess.run(
                    [sys.executable, "-m", "mqworker", "enqueue", "--instance", "shop", *options],
                    env=environment,
                    check=True,
                )
            worker.until("other sends for other")
            worker.until('"text": "for default"')
            assert worker.end(signal.SIGINT) == 0

    @pytest.mark.parametrize(
        ("arguments", "changes"),
        [
            ([], {}),
            ([], {"MQWORKER_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/away"}),
            (["--migrate"], {"MQWORKER_DATABASE_URL": "postgresql://postgres@127.0.0.1:1/away"}),
        ],
        ids=["up", "away", "migrate"],
    )
    def test_sigterm(
        self, arguments: list[str], changes: dict[str, str], environment: dict[str, str], tmp_path: Path
    ) -> None:
        with Running(["worker", "--executor", "console", *arguments], environment | changes, tmp_path) as worker:
            worker.until("PostgreSQL" if changes else "rebuilt")
            assert worker.end(signal.SIGTERM) == 0
            assert "Traceback" not in worker.text


class TestDev:
    @pytest.fixture
    def state_folder(self) -> Iterator[Path]:
        """Not ``tmp_path``: pytest closes that to everybody else, and as root the servers are somebody else."""
        folder = Path(tempfile.mkdtemp(prefix="mqworker-test-"))
        folder.chmod(0o711)
        yield folder
        StateFolder.open(folder).close()
        shutil.rmtree(folder)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_up_and_down(self, number: signal.Signals, state_folder: Path, tmp_path: Path) -> None:
        command = ["dev", "--state-folder", str(state_folder)]
        with Running(command, clean_environment(), tmp_path) as dev:
            dev.until("Ready.")
            for word in ("psql ", "redis", "Look inside", str(state_folder)):
                assert word in dev.text
            processes = descendants(dev.process.pid)
            assert len(processes) >= 4
            exports = "\n".join(line for line in dev.text.splitlines() if line.startswith("export "))
            one = "enqueue --instance shop --client-id 7 --chat c --text Hello"
            script = f"{exports}\n{sys.executable} -m mqworker {one}\n{sys.executable} -m mqworker stats shop --json"
            shell = subprocess.run(
                ["sh", "-ec", script], env=clean_environment(), capture_output=True, text=True, check=True
            )
            assert json.loads(shell.stdout.splitlines()[-1])["pending"] == 1
            assert dev.end(number) == 0
            assert not [pid for pid in processes if is_alive(pid)]
        with Running([*command, "--json"], clean_environment(), tmp_path) as again:
            again.until("Ready.")
            addresses = next(json.loads(line) for line in again.text.splitlines() if line.startswith("{"))
            assert all(address in exports for address in addresses.values())
            shell = subprocess.run(
                ["sh", "-ec", f"{exports}\n{sys.executable} -m mqworker stats shop --json"],
                env=clean_environment(), capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert json.loads(shell.stdout)["pending"] == 1, "the data is kept, and so are the ports"
            assert again.end(number) == 0


class Running:
    """A command in the foreground of nobody; killed at the end if it still runs."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self._log = folder / f"{arguments[0]}-{os.urandom(3).hex()}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mqworker", *arguments],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def text(self) -> str:
        return self._log.read_text()

    def until(self, word: str) -> None:
        """Wait until it has printed ``word``; fail at once where it has ended without."""
        wait_until(lambda: word in self.text or self.process.poll() is not None, f"prints {word!r}", timeout_seconds=30)
        assert word in self.text, self.text

    def end(self, number: signal.Signals, *, group: bool = False) -> int:
        """Send a signal, to its whole group if so told, and wait for its exit code."""
        os.kill(-self.process.pid if group else self.process.pid, number)
        return self.process.wait(30)
