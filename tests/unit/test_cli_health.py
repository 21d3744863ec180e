"""`mqworker health`: what it says and exits with, whoever answers; and that it is quick."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mqworker.cli.app import main

ROOT = Path(__file__).parents[2]
READY: dict[str, object] = {"status": "ready", "failing": {}}
DEGRADED: dict[str, object] = {"status": "degraded", "failing": {"redis": "ConnectionError"}}
UNREADY: dict[str, object] = {"status": "unready", "failing": {"postgres": "cannot be reached", "worker": "starts"}}


class Probe(HTTPServer):
    """A worker's place on loopback: it answers what it was told."""

    answer = b""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Probe)
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in the base class
        """Nobody reads it."""


@pytest.fixture
def probe() -> Iterator[Probe]:
    with Probe(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PORT", "HOST"):
        monkeypatch.delenv(f"MQWORKER_PROBE_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def health(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["health", *arguments])
    captured = capsys.readouterr()
    return int(str(ended.value.code or 0)), captured.out, captured.err


@pytest.mark.parametrize(
    ("answer", "code", "line"),
    [
        (READY, 0, "ready"),
        (DEGRADED, 0, "degraded (redis: ConnectionError)"),
        (UNREADY, 1, "unready (postgres: cannot be reached; worker: starts)"),
    ],
)
def test_what_a_worker_answers(
    probe: Probe, answer: object, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.answer = json.dumps(answer).encode()
    port = str(probe.server_port)
    assert health(capsys, "--port", port) == (code, f"{line}\n", "")
    exit_code, out, _ = health(capsys, "--port", port, "--json")
    assert (exit_code, json.loads(out)) == (code, answer)


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"status": "ready"}', b'{"status": 1, "failing": 2}'])
def test_who_answers_otherwise_is_no_worker(probe: Probe, answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    probe.answer = answer
    code, out, _ = health(capsys, "--port", str(probe.server_port))
    assert code == 1
    assert out.endswith(": whoever answers there is no mqworker)\n")


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        code, out, _ = health(capsys, "--port", str(port), "--json")
    reason = f"127.0.0.1:{port}: Connection refused"
    assert (code, json.loads(out)) == (1, {"status": "unreachable", "failing": {"probe": reason}})


@pytest.mark.parametrize("host", [None, "127.0.0.1", "0.0.0.0"])
def test_the_address_comes_from_the_settings(
    probe: Probe, host: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.answer = json.dumps(READY).encode()
    monkeypatch.setenv("MQWORKER_PROBE_PORT", str(probe.server_port))
    if host is not None:
        monkeypatch.setenv("MQWORKER_PROBE_HOST", host)
    assert health(capsys)[:2] == (0, "ready\n")


def test_the_address_comes_from_a_file(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe.answer = json.dumps(READY).encode()
    Path(".env").write_text(f"MQWORKER_PROBE_PORT={probe.server_port}\n", encoding="utf-8")
    assert health(capsys)[:2] == (0, "ready\n")


@pytest.mark.parametrize("port", ["", "0"])
def test_a_port_that_is_not_known(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if port:
        monkeypatch.setenv("MQWORKER_PROBE_PORT", port)
    code, _, err = health(capsys)
    assert code == 1
    assert err.startswith("error: the worker's port is not known: give --port")


def test_it_imports_nothing_heavy(probe: Probe) -> None:
    """Beyond what Typer itself does."""
    probe.answer = json.dumps(READY).encode()
    code = (
        "import sys, mqworker.cli\n"
        f"try: mqworker.cli.main(['health', '--port', '{probe.server_port}'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'sqlalchemy', 'arq', 'pydantic_settings', 'httpx', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["ready", "[]"]
