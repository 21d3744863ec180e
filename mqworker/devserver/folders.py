"""The state folder: where it is, and the lock that says who owns it.

The lock file's descriptor is inherited by the guards and the servers. So the lock is free only when no
process of the last owner is left, and whoever holds it may treat every trace of an earlier run as stale.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mqworker.devserver.error import DevServerError
from mqworker.devserver.guard import PATIENCE_SECONDS, is_alive

LOCK_NAME = "lock"
# The guards of a killed owner need this long at worst: three signals, each with its patience.
LOCK_PATIENCE_SECONDS = 3 * PATIENCE_SECONDS + 5

_THROW_AWAY = "mqworker-throwaway-"
_OPEN_TO_ALL = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108


@dataclass
class StateFolder:
    """A locked folder; everything that the servers keep is below ``path``."""

    path: Path
    lock: int
    throw_away: bool

    @classmethod
    def open(cls, path: Path) -> StateFolder:
        """Make the folder if need be and lock it; DevServerError if somebody else owns it."""
        path = path.expanduser().absolute()
        try:
            _make(path)
            lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DevServerError(f"the state folder {path} cannot be used: {error.strerror}") from error
        try:
            _acquire(lock, path)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock, throw_away=False)

    @classmethod
    def open_throw_away(cls) -> StateFolder:
        """A new folder that ``close`` removes. Those of owners that were killed are removed here."""
        base = _temporary_base()
        _remove_abandoned(base)
        fresh = Path(tempfile.mkdtemp(prefix=".mqworker-new-", dir=base))
        # The servers' user must pass through; what is inside has modes of its own.
        fresh.chmod(0o711 if os.geteuid() == 0 else 0o700)
        folder = cls.open(fresh)
        # Only now, locked, does it get the name that the clean-up looks for.
        folder.path = base / fresh.name.replace(".mqworker-new-", _THROW_AWAY)
        fresh.rename(folder.path)
        folder.throw_away = True
        return folder

    def close(self) -> None:
        """Give the folder up; call it when the servers have ended."""
        if self.throw_away:
            shutil.rmtree(self.path, ignore_errors=True)
        os.ftruncate(self.lock, 0)
        # Not by closing alone: a forked child of ours would go on holding it.
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        os.close(self.lock)


def _make(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True)
        # A strict umask of root's would close it to the user that the servers run as.
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)


def _acquire(lock: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while not _try_lock(lock):
        owner = _owner_of(lock)
        if owner is not None and is_alive(owner):
            who = "this process" if owner == os.getpid() else f"process {owner}"
            raise DevServerError(
                f"the state folder {path} is in use by {who}: stop that one first, or choose another folder"
            )
        # The owner is dead and its guards are ending the servers; or a new owner has not signed yet.
        if time.monotonic() > deadline:
            raise DevServerError(f"the state folder {path} is still locked by servers of a process that is gone")
        time.sleep(0.02)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner_of(lock: int) -> int | None:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _remove_abandoned(base: Path) -> None:
    """Remove throw-away folders of ours whose lock is free: their owner was killed."""
    for folder in base.glob(f"{_THROW_AWAY}*"):
        try:
            if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
                continue
            lock = os.open(folder / LOCK_NAME, os.O_RDWR)
        except OSError:
            continue  # being removed by its owner, or not ours to touch
        if _try_lock(lock):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def default_state_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where ``mqworker dev`` keeps its data: ``$XDG_STATE_HOME/mqworker`` or ``~/.local/state/mqworker``.

    For root it is a folder that an unprivileged user can pass through: PostgreSQL refuses to run as root.
    """
    if os.geteuid() == 0:
        path = Path("/var/lib/mqworker")
        return path if _can_be_made(path) else private_temporary_folder()
    environ = os.environ if environ is None else environ
    configured = Path(environ.get("XDG_STATE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    base = configured if configured.is_absolute() else Path("~/.local/state").expanduser()
    path = base / "mqworker"
    return path if _can_be_made(path) else private_temporary_folder()


def _can_be_made(path: Path) -> bool:
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def private_temporary_folder() -> Path:
    """This user's folder with a fixed name under the temporary folder. DevServerError if another made it."""
    path = _temporary_base() / f"mqworker-{os.geteuid()}"
    path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
    found = path.lstat()
    # Everybody may write to /tmp, and so may have taken a name that can be guessed, to have us trust it.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise DevServerError(f"{path} belongs to somebody else: remove it, or choose a state folder")
    return path


def _temporary_base() -> Path:
    """The temporary folder; for root one that everybody can pass through."""
    chosen = Path(tempfile.gettempdir())
    if os.geteuid() != 0:
        return chosen
    return next((base for base in (chosen, *_OPEN_TO_ALL) if not closed_parent(base)), chosen)


def closed_parent(path: Path, uid: int = -1, gid: int = -1) -> Path | None:
    """The first folder on the way to ``path`` (itself included) that a user cannot pass; None when it can.

    Judged by the mode bits; the default stands for a user who owns nothing on the way.
    """
    for folder in (*reversed(path.parents), path):
        found = folder.stat()
        bit = stat.S_IXUSR if found.st_uid == uid else stat.S_IXGRP if found.st_gid == gid else stat.S_IXOTH
        if not found.st_mode & bit:
            return folder
    return None
