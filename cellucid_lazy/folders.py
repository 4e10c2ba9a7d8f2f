"""Folders of one process: locked while it runs, removed by a later one if it was killed."""

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
# Errors of file systems without locks; NFS and Lustre may be mounted so.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lock:
    """A lock file that this process holds until it releases it or ends, for whatever reason.

    Parameters
    ----------
    path
        The file. It is created with the lock and removed on release.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_real = False
        self._descriptor = -1

    def acquire(self) -> bool:
        """Take the lock and write its owner into the file; False if another process holds it.

        On a file system without locks this is always True, and `is_real` stays False.

        Raises
        ------
        OSError
            When the file cannot be created or read.
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
                    self.path.unlink()  # left by another user's process; create an own one
                # The last holder may have removed the file after it was opened here.
                elif _is_at(descriptor, self.path):
                    self._descriptor, descriptor = descriptor, -1
                    break
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        with suppress(OSError):  # on a full disk the lock works without
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, json.dumps(owner).encode())
        return True

    def _open(self) -> tuple[int, bool]:
        """Open the file, and return whether it can be written."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), True
        except PermissionError:
            if not self.path.exists():
                raise
            return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW), False

    def release(self) -> None:
        """Remove the file and release the lock; do nothing if it is not held."""
        if self._descriptor < 0:
            return
        with suppress(OSError):
            if _is_at(self._descriptor, self.path):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def owner(self) -> str:
        """Describe the lock's holder: process, host and time."""
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
    """Create a folder with a lock in it, under a new name that begins with a prefix.

    Raises
    ------
    OSError
        When it cannot be created.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    # Renamed once it is held: a lock file that nobody holds marks a leftover.
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
    """Remove folders of `make_folder` whose processes were killed."""
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            _remove_if_leftover(folder)


def _remove_if_leftover(folder: Path) -> None:
    """Remove a folder whose owner is gone, or whose removal has begun.

    Folders without a lock file stay, and so do those locked on another machine: some shared file
    systems do not show its locks here.
    """
    if not folder.name.endswith(_GONE):
        path = folder / _LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owner = json.loads(path.read_text())
            if owner["host"] != socket.gethostname():
                return
            folder = set_aside(folder)
        finally:
            os.close(descriptor)
    remove_folder(folder)


def set_aside(folder: Path) -> Path:
    """Rename a folder that is about to be removed, and return its path.

    Files in it cannot be opened by their old paths any more.
    """
    if folder.name.endswith(_GONE):
        return folder
    with suppress(OSError):
        return folder.rename(folder.with_name(f"{folder.name}{_GONE}"))
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder, given by absolute path, even while ending tasks still write to it."""
    folder = set_aside(folder)
    for _ in range(20):
        with suppress(OSError):
            if folder.exists():
                shutil.rmtree(folder)
            return
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one atomic step; False if the system cannot.

    Raises
    ------
    OSError
        When one of them does not exist or must not be renamed.
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
    """Flush the file system of a folder to disk.

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
