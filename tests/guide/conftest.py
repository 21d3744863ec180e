"""What the tests of the pages share: a gateway, and processes that end with their test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mqworker.devserver.folders import StateFolder
from tests.acceptance.gateway import Gateway
from tests.guide.pages import shell_environment

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway() as started:
        yield started


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of commands as the pages print them, on this test's servers."""
    return shell_environment(environment, tmp_path)


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts a command line as a process in the test's folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(line: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            # exec: the process that is ended is the command, not a shell that waits for it.
            words = ["bash", "-c", f"exec {line}"]
            process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stderr=log)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.terminate()
        process.wait()


@pytest.fixture
def state_folder() -> Iterator[Path]:
    """Where `mqworker dev` keeps its data in a test. As root its servers are another user, whom tmp_path shuts out."""
    folder = Path(tempfile.mkdtemp(prefix="mqworker-test-"))
    folder.chmod(0o711)
    yield folder
    StateFolder.open(folder).close()
    shutil.rmtree(folder)
