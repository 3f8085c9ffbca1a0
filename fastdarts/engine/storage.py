"""Storages of Optuna, which hold the trials of a search or a sweep for processes on any number of machines."""

from __future__ import annotations

import importlib
import os
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.optuna_samplers import import_optuna

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

JOURNAL = "trials.journal"
"""The file in the folder of a run that holds its trials, where no other storage is named."""
_TRIES, _PAUSE = 20, 0.05


class Journal:
    """A journal file of Optuna whose writers may be killed at any moment.

    Two things are added. A kill in the middle of a write, or a full disk, leaves a part of a line. Optuna would write
    the next line behind it, and nobody could read the file any more. So blanks take the place of the part before a
    write. And a kill leaves Optuna's lock, which others take away after 30 seconds. Were there several of them, one
    could take away the lock of another. So they line up for a lock of the operating system first, where there is one.
    """

    def __init__(self, path: Path):
        journal = import_optuna().storages.journal
        lock = journal.JournalFileOpenLock if os.name == "nt" else journal.JournalFileSymlinkLock
        self._path, self._lock = path, lock(str(path))
        self._file = journal.JournalFileBackend(str(path), lock_obj=self)

    def acquire(self) -> bool:
        """The lock of :attr:`_file`, which writes under those of :meth:`append_logs`."""
        return True

    def release(self) -> None:
        """See :meth:`acquire`."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from this number on."""
        for _ in range(_TRIES):
            with suppress(ValueError):  # while it was read, a line has taken the place of a part of one
                return [*self._file.read_logs(log_number_from)]
            time.sleep(_PAUSE)
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries, and wait until they are on the disk."""
        with open(self._path, "r+b") as file, self._locked(file):
            _blank_part(file)
            self._file.append_logs(logs)

    @contextmanager
    def _locked(self, file: BinaryIO) -> Iterator[None]:
        if fcntl is not None:
            with suppress(OSError):  # a file system without such locks
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        self._lock.acquire()
        try:
            yield
        finally:
            with suppress(RuntimeError):  # of another machine, which took the lock away: all is written
                self._lock.release()


def _blank_part(file: BinaryIO) -> None:
    """Write blanks over what stands behind the last end of a line. The file does not become shorter, or one who reads
    it now could take the beginning of one line and the end of another for a line."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() not in (b"", b"\n"):
        file.seek(0)
        begin = file.read().rfind(b"\n") + 1
        file.seek(begin)
        file.write(b" " * (size - begin))
        file.flush()


def open_storage(name: str, create: bool = False) -> Any:
    """The storage that ``name`` means: a file, or a URL of a database or of a gRPC server of Optuna.

    create: make a file, or the tables of a database, that are missing. One process alone may do so, before others come.
    Raises :class:`FastdartsError` if it cannot be opened.
    """
    storages = import_optuna().storages
    scheme, separator, rest = name.partition("://")
    with _naming(name):
        if not separator:
            path = Path(name).expanduser()
            if not create and not path.is_file():
                raise FastdartsError(f"there is no file {path}: name the --storage of the command that makes the study")
            return storages.JournalStorage(Journal(path))
        if scheme == "grpc":
            host, _, port = rest.partition(":")
            if not host or not port.isdecimal():
                raise FastdartsError(f"--storage is {name}: expected grpc://HOST:PORT")
            with warnings.catch_warnings():  # which says that its interface may change
                warnings.simplefilter("ignore", import_optuna().exceptions.ExperimentalWarning)
                proxy = storages.GrpcStorageProxy(host=host, port=int(port))
            proxy.wait_server_ready(timeout=30)
            return proxy
        return storages.get_storage(storages.RDBStorage(name, skip_table_creation=not create))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except FastdartsError:
        raise
    except Exception as error:  # of Optuna, of a database's driver, of gRPC: all have their own
        raise _unusable(name, error) from error


@contextmanager
def working(name: str) -> Iterator[None]:
    """Inside, an error of the storage of this name is one sentence."""
    kinds = [import_optuna().exceptions.StorageInternalError]
    if name.startswith("grpc://"):
        kinds.append(importlib.import_module("grpc").RpcError)
    try:
        yield
    except tuple(kinds) as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: Exception) -> FastdartsError:
    said = " ".join(str(error).split()) or type(error).__name__
    hidden = re.sub(r"://[^/@]*@", "://", name)  # a password
    return FastdartsError(f"--storage {hidden} cannot be used ({said[:300]}): check its name, or start its server")
