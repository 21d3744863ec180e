"""What users install: the wheel and the sdist, looked into, and the wheel at work in a virtualenv of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mqworker
from mqworker.devserver import DevServers
from mqworker.testing.waiting import wait_until
from tests.acceptance.processes import ROOT
from tests.acceptance.virtualenvs import Virtualenv, needed_by
from tests.conftest import execute, process_environment, with_database

NAME = f"mqworker-{mqworker.__version__}"


def build(source: Path, target: str, folder: Path) -> Path:
    """Build one distribution, with the same program that pip builds it with."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata_of(wheel: Path) -> Message:
    return message_from_bytes(files_of(wheel)[f"{NAME}.dist-info/METADATA"])


def sources(folder: str) -> set[str]:
    """The files of a folder of the project as git sees them: links not followed, nothing that it ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.splitlines() if not (ROOT / name).is_symlink()}


class TestContents:
    def test_the_wheel_has_one_package_and_all_of_it(self, wheel: Path) -> None:
        expected = sources("mqworker") | {f"mqworker/{name}" for name in sources("models") | sources("migrations")}
        found = {name for name in files_of(wheel) if not name.startswith(f"{NAME}.dist-info/")}
        assert found == expected
        assert {"mqworker/py.typed", "mqworker/broker/lua/lease.lua", "mqworker/models/items.py"} < found

    def test_its_metadata(self, wheel: Path) -> None:
        files, metadata = files_of(wheel), metadata_of(wheel)
        assert metadata["Version"] == mqworker.__version__
        assert metadata["License-Expression"] == "MIT"
        assert metadata.get_all("Provides-Extra") == ["dev", "embedded"]
        assert f"{NAME}.dist-info/licenses/LICENSE" in files
        points = files[f"{NAME}.dist-info/entry_points.txt"]
        assert b"mqworker = mqworker.cli:main" in points
        assert b"[pytest11]\nmqworker.testing.plugin = mqworker.testing.plugin" in points

    def test_the_image_s_build_builds_the_same_wheel(self, wheel: Path, tmp_path: Path) -> None:
        """From what .dockerignore lets through."""
        source = tmp_path / "source"
        source.mkdir()
        for name in re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source)
        assert files_of(build(source, "wheel", tmp_path / "wheel")) == files_of(wheel)
        assert (source / "constraints.txt").exists(), "pip is told to keep to it"

    def test_the_sdist_builds_the_same_wheel(self, wheel: Path, sdist: Path, tmp_path: Path) -> None:
        with tarfile.open(sdist) as archive:
            # Python before 3.11.4 knows no filters, and 3.14 has this one by itself; the archive is our own.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(tmp_path / "source")
        again = build(tmp_path / "source" / NAME, "wheel", tmp_path / "wheel")
        assert files_of(again) == files_of(wheel)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Virtualenv:
    """A virtualenv with the wheel and what it declares to need: no extra, and nothing of this project's own tools."""
    made = Virtualenv(tmp_path_factory.mktemp("virtualenv"))
    made.install(wheel)
    declared = [text for text in metadata_of(wheel).get_all("Requires-Dist", []) if is_always_needed(text)]
    made.link(needed_by(declared))
    return made


def is_always_needed(text: str) -> bool:
    marker = Requirement(text).marker
    return marker is None or marker.evaluate({"extra": ""})


@pytest.fixture
def environment(servers: DevServers, redis_url: str) -> Iterator[dict[str, str]]:
    """An environment with an empty database, and with nothing that could lend a process our own sources."""
    name = f"mqworker_wheel_{os.getpid()}"
    execute(servers.database_url, f'CREATE DATABASE "{name}"')
    values = process_environment(with_database(servers.database_url, name), redis_url)
    yield {key: value for key, value in values.items() if not key.startswith("PYTHON")}
    execute(servers.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def run(command: list[str | Path], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_imported_there_is_the_wheel_s(
    installed: Virtualenv, environment: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import importlib.util, mqworker.migrations, mqworker.models\n"
        "print(mqworker.__file__, mqworker.models.__file__, mqworker.migrations.__file__)\n"
        "print([name for name in ('models', 'migrations', 'tests', 'pytest') if importlib.util.find_spec(name)])"
    )
    places, others = run([installed.bin / "python", "-c", code], environment, tmp_path).splitlines()
    assert [Path(place).relative_to(installed.packages / "mqworker") for place in places.split()] == [
        Path("__init__.py"),
        Path("models/__init__.py"),
        Path("migrations/__init__.py"),
    ]
    assert others == "[]"


def test_both_commands_are_the_same(installed: Virtualenv, environment: dict[str, str], tmp_path: Path) -> None:
    command = run([installed.bin / "mqworker", "--help"], environment, tmp_path)
    assert command == run([installed.bin / "python", "-m", "mqworker", "--help"], environment, tmp_path)
    assert {"demo", "dev", "enqueue", "health", "migrate", "stats", "worker"} <= set(re.findall(r"\w+", command))


def test_it_migrates_enqueues_and_delivers(installed: Virtualenv, environment: dict[str, str], tmp_path: Path) -> None:
    mqworker = installed.bin / "mqworker"
    assert run([mqworker, "migrate"], environment, tmp_path).endswith(" (head)\n")
    message = ["--instance", "shop", "--client-id", "7", "--chat", "c", "--text", "Olá"]
    message_id = run([mqworker, "enqueue", *message], environment, tmp_path).strip()
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [installed.bin / "python", "-m", "mqworker", "worker", "--executor", "console"],
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        delivered = f'shop c {message_id} attempt 1 {{"to": "c", "text": "Olá"}}'
        wait_until(lambda: delivered in log.read_text() or worker.poll() is not None, "it is sent", timeout_seconds=30)
        worker.terminate()
        assert worker.wait(30) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()
    assert delivered in log.read_text()
    assert '"completed": 1' in run([mqworker, "stats", "shop", "--json"], environment, tmp_path)
