"""Folders that one run owns: locked while it lives, removed by a later one when it died."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_LOCK = "lock"
_GONE = ".gone"

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# What file systems without locks answer; NFS and Lustre may be mounted so.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lock:
    """A lock file that this process holds until it releases it or ends, however it ends.

    Parameters
    ----------
    path
        The file; it is made, and removed with the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_real = False
        self._descriptor = -1

    def acquire(self) -> bool:
        """Take the lock and say in the file who has it; False if another process holds it.

        Where a file system has no locks nobody is kept out, and `is_real` stays False.

        Raises
        ------
        OSError
            When the file cannot be made or read.
        """
        while True:
            descriptor, is_own = self._open()
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.is_real = True
                except BlockingIOError:
                    return False
                except OSError as problem:
                    if problem.errno not in _NO_LOCKS:
                        raise
                if not is_own:
                    self.path.unlink()  # of a user whose process is gone
                # Whoever held it before may have removed the file meanwhile.
                elif _is_at(descriptor, self.path):
                    self._descriptor, descriptor = descriptor, -1
                    break
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        with suppress(OSError):  # on a full disk the lock is as good without
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, json.dumps(owner).encode())
        return True

    def _open(self) -> tuple[int, bool]:
        """Open the file; also whether it is this user's to write."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), True
        except PermissionError:
            if not self.path.exists():
                raise
            return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW), False

    def release(self) -> None:
        """Remove the file and give up the lock; nothing if it is not held."""
        if self._descriptor < 0:
            return
        with suppress(OSError):
            if _is_at(self._descriptor, self.path):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def owner(self) -> str:
        """Tell who holds the lock, as a part of a sentence."""
        try:
            found = json.loads(self.path.read_text())
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
            return f"process {found['pid']} on {found['host']} since {since}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def make_folder(parent: Path, prefix: str) -> tuple[Path, Lock]:
    """Make a folder of this run, with its lock, whose name begins with a prefix.

    Raises
    ------
    OSError
        When it cannot be made.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    # Under another name until it is held, or another run might take the folder for a leftover.
    lock = Lock(folder / f"{_LOCK}.new")
    try:
        lock.acquire()
        lock.path = lock.path.rename(folder / _LOCK)
    except BaseException:
        lock.release()
        remove_folder(folder)
        raise
    return folder, lock


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove the folders that `make_folder` made in runs which ended without removing them."""
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            _remove_if_leftover(folder)


def _remove_if_leftover(folder: Path) -> None:
    """Remove a folder that somebody began to remove, or whose owner is gone.

    One without a lock file is left alone, as is one that was locked on another machine: on some
    shared file systems a lock is known on its own machine only.
    """
    if folder.name.endswith(_GONE):
        remove_folder(folder)
        return
    path = folder / _LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner = json.loads(path.read_text())
        if owner["host"] == socket.gethostname():
            folder = set_aside(folder)
    finally:
        os.close(descriptor)
    if folder.name.endswith(_GONE):
        remove_folder(folder)


def set_aside(folder: Path) -> Path:
    """Give a folder a name that says it is being removed; returns its path.

    Whoever opens a file in it by its old name from now on fails.
    """
    if folder.name.endswith(_GONE):
        return folder
    with suppress(OSError):
        return folder.rename(folder.with_name(f"{folder.name}{_GONE}"))
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder if it is there, even while tasks that are ending still write into it.

    Parameters
    ----------
    folder
        Absolute path.
    """
    folder = set_aside(folder)
    for _ in range(20):
        with suppress(OSError):
            if folder.exists():
                shutil.rmtree(folder)
            return
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system cannot.

    Raises
    ------
    OSError
        When one of them is gone or must not be renamed.
    """
    renameat2 = getattr(_LIBC, "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


def synchronize(folder: Path) -> None:
    """Have the system write to disk all that was written to a folder's file system.

    Raises
    ------
    OSError
        When the disk fails.
    """
    syncfs = getattr(_LIBC, "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)
