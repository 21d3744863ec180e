"""The operating-system user that the servers run as, and binaries that this user can reach.

PostgreSQL refuses to run as root. Where we are root, both servers run as an unprivileged user, and neither
the state folder nor the binaries may lie behind a folder that is closed to it, as the home of root is.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mqworker.devserver.error import DevServerError
from mqworker.devserver.find import Binaries
from mqworker.devserver.folders import closed_parent, default_state_folder

# Nothing of our environment goes to the servers: no secrets, and no PG* variables that change their settings.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}

_USERS = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """A user by number. ``switch`` says that a server must change to it, because we are root."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def choose(cls, state_folder: Path) -> Account:
        """Ourselves; as root the owner of the data that is there, else ``postgres``, else ``nobody``."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        for data in sorted(state_folder.glob("pg*/")):
            found = data.stat()
            if found.st_uid != 0:
                return cls(found.st_uid, found.st_gid, switch=True)
        for name in _USERS:
            try:
                user = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(user.pw_uid, user.pw_gid, switch=True)
        raise DevServerError(
            "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as"
        )

    def check_passes(self, folder: Path) -> None:
        """DevServerError if this user cannot reach the folder."""
        closed = closed_parent(folder, self.uid, self.gid) if self.switch else None
        if closed is not None:
            raise DevServerError(
                f"as root the servers run as user id {self.uid}, which cannot pass {closed} "
                f"on the way to {folder}: choose another state folder, or run as an ordinary user"
            )

    def make_folder(self, folder: Path) -> None:
        """A folder of this user's own."""
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.switch:
            os.chown(folder, self.uid, self.gid)

    def version_of(self, program: Path) -> str | None:
        """What ``program --version`` prints when this user runs it; None when it cannot."""
        user = {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}
        try:
            run = subprocess.run(  # type: ignore[call-overload]  # noqa: S603
                [program, "--version"], cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=30, **user,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
        return str(run.stdout) if run.returncode == 0 else None

    def reach(self, binaries: Binaries) -> Binaries | None:
        """The installation, or a copy of it that this user can reach; None when it runs neither way."""
        if self.version_of(binaries.program) is not None:
            return binaries
        if not self.switch or binaries.base is None:
            return None
        copy = binaries.moved_to(_copied(binaries))
        return copy if self.version_of(copy.program) is not None else None


def _copied(binaries: Binaries) -> Path:
    """The folder that holds a copy of the installation; made once for each version (41 MB, 0.1 s)."""
    assert binaries.base is not None
    cache = default_state_folder() / "binaries"
    cache.mkdir(parents=True, exist_ok=True)
    for folder in (cache.parent, cache):
        folder.chmod(0o711)
    target = cache / binaries.label
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        # Under another name first, so that a copy which was cut short is never taken for whole.
        unfinished = cache / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in binaries.parts:
            shutil.copytree(binaries.base / part, unfinished / part, symlinks=True)
        _open_for_reading(unfinished)
        unfinished.rename(target)
    return target


def _open_for_reading(tree: Path) -> None:
    """What ``chmod -R u=rwX,go=rX`` does: a strict umask may have closed the originals."""
    for folder, _, names in os.walk(tree):
        os.chmod(folder, 0o755)  # noqa: S103
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
