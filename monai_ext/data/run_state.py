"""What became of each image of a run, kept so that nothing is lost when a process is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path, locked

__all__ = ["RewriteSchedule", "RunState", "exit_on_sigterm"]

Entry = dict[str, Any]

_APPLICATION = 0x4D455853  # "MEXS", in the header of the database: distinguishes it from another program's
_VERSION = 1
_PATIENCE_S = 300  # for a lock that another process holds; an export of 20,000 images holds it for .3 s
_STATUSES = ("pending", "done", "failed")
_EXPECTED = "the state of an earlier run, or no such file"
_SELECT = "SELECT image, entry FROM images ORDER BY id"
_ANEW = "choose another --output_dir, or begin anew with --resume false"


class RewriteSchedule:
    """When a file that is only written as a whole is to be written, so that it costs little however long it gets.

    That is after each change while it has no more than 20 entries; then when a quarter of them changed, or a hundred
    times as long has passed as the last writing took, which is after each change where changes take long.
    """

    _SMALL, _SHARE, _PAUSE = 20, 0.25, 100

    def __init__(self) -> None:
        self.changes = self._size = 0
        self._ended, self._took = -float("inf"), 0.0

    def is_due(self) -> bool:
        """Whether the file is to be written with the change that comes now."""
        waited = time.monotonic() - self._ended
        return self.changes >= self._SHARE * (self._size - self._SMALL) or waited >= self._PAUSE * self._took

    def written(self, size: int, began: float) -> None:
        """Record that the file was written.

        Args:
            size: its entries.
            began: when its writing did, by ``time.monotonic()``.
        """
        self.changes, self._size, self._ended = 0, size, time.monotonic()
        self._took = self._ended - began


class RunState:
    """The state of a run's images, which any number of processes write.

    While the run lasts it is in ``state.sqlite``, where recording an image costs the same however many there are.
    ``state.json`` and, where entries have a ``summary``, ``summary.csv`` are exported from it by a
    :class:`RewriteSchedule`, and at the end, when the database is removed. A database that is there holds all that was
    recorded, whatever killed the process that did; without one, ``state.json`` does. A process that records an image
    after another one has ended the run writes it there.

    The database has a rollback journal, as a write-ahead log needs memory that all its processes share and so fails on
    the network file systems of a cluster. It is not synchronised with the disk: that would cost more than a
    millisecond an image, and only a power cut asks for it. What a power cut damages is recognised, and the run can
    continue from ``state.json``. A connection lasts for one transaction, so that nothing has to be kept apart between
    threads, forked processes and files that another process removed.

    Args:
        output_dir: the folder of the files.
    """

    def __init__(self, output_dir: str | os.PathLike) -> None:
        self.path = Path(output_dir).absolute() / "state.sqlite"
        self.json_path, self.summary_path = (self.path.with_name(name) for name in ("state.json", "summary.csv"))
        self._schedule = RewriteSchedule()

    def check_writable(self) -> None:
        """Check, before anything is computed, that :meth:`begin` may replace what is there.

        Raises:
            InputError: ``state.sqlite`` is not one of ours.
        """
        if not self._is_damaged():
            with self._transaction():
                pass

    def read(self) -> dict[str, Entry]:
        """What all processes recorded of each image, or an earlier run did.

        Raises:
            InputError: a file of that name that is damaged, or is something else.
        """
        with self._transaction() as database:
            return self._read_json() if database is None else _entries(database)

    def begin(self, entries: Mapping[str, Entry]) -> None:
        """Start a run with these entries and no others.

        Raises:
            InputError: ``state.sqlite`` is not one of ours.
        """
        if self._is_damaged():
            for path in (self.path, self.path.with_name(f"{self.path.name}-journal")):
                path.unlink(missing_ok=True)
        with self._transaction(create=True) as database:
            database.execute("DELETE FROM images")
            _write(database, entries)
        self.summary_path.unlink(missing_ok=True)  # rows of another run
        self.export()

    def write(self, image: str, entry: Entry) -> None:
        """Record what became of an image; when this returns it outlives the process.

        Raises:
            OSError: a full disk, or a lock that is not released.
        """
        with self._transaction() as database:
            if database is not None:
                _write(database, {image: entry})
        if database is None:
            with locked(self.path.with_name(".state.lock")):
                self._export(_as_json(self._read_json() | {image: entry}))
        elif self._schedule.is_due():
            self.export()
        else:
            self._schedule.changes += 1

    def export(self) -> None:
        """Write ``state.json`` and, where there are summaries, ``summary.csv``, if there is a database."""
        with self._transaction() as database:
            if database is not None:
                self._export(database.execute(_SELECT).fetchall())

    def close(self) -> None:
        """Export, and remove the database."""
        with self._transaction() as database:
            if database is not None:
                self._export(database.execute(_SELECT).fetchall())
                # where an open file cannot be removed it stays, and holds the same as the exported ones
                with suppress(PermissionError):
                    self.path.unlink()

    @contextmanager
    def _transaction(self, create: bool = False) -> Iterator[sqlite3.Connection | None]:
        """A transaction that excludes others, and is undone if the block fails; ``None`` where there is no database.

        Args:
            create: make it if there is none. Only the beginning of a run does: a database made while others
                wait for the one that was removed would have its journal taken for that one's.
        """
        try:
            with self._connected(create) as database:
                if database is not None:
                    self._check_schema(database)
                yield database
                if database is not None:
                    database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            ours = self._is_damaged()
            raise self._unusable("a damaged one" if ours else f"something else ({error})", ours) from error

    @contextmanager
    def _connected(self, create: bool = False) -> Iterator[sqlite3.Connection | None]:
        """A locked connection to the file that has the name now: while it waited another process may have closed."""
        while True:
            before = _stat(self.path)
            if not create and (before is None or not before.st_size):
                yield None
                return
            if before is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                sqlite3.connect(self.path).close()  # an empty file
                continue
            try:
                database = sqlite3.connect(f"{self.path.as_uri()}?mode=rw", _PATIENCE_S, isolation_level=None, uri=True)
            except sqlite3.OperationalError:
                if _stat(self.path) is None:
                    continue
                raise
            with closing(database):
                database.execute("PRAGMA synchronous = OFF")
                database.execute("BEGIN IMMEDIATE")
                now = _stat(self.path)
                if now is not None and os.path.samestat(before, now):
                    yield database
                    return

    def _check_schema(self, database: sqlite3.Connection) -> None:
        """Make the tables of a new database; refuse any that is not ours."""
        (application,), (version,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if application == _APPLICATION and version == _VERSION:
            return
        if application == _APPLICATION:
            raise self._unusable(f"that of another version of monai_ext ({version} instead of {_VERSION})", ours=True)
        if application or version or database.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise self._unusable("another program's database", ours=False)
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {_VERSION}")
        columns = "id INTEGER PRIMARY KEY, image TEXT UNIQUE NOT NULL, entry TEXT NOT NULL"
        database.execute(f"CREATE TABLE images ({columns})")

    def _is_damaged(self) -> bool:
        """Whether the database is ours, of this version or another one, and cannot be used."""
        try:
            with self.path.open("rb") as file:
                header = file.read(72)
        except FileNotFoundError:
            return False
        if header[:16] != b"SQLite format 3\0" or int.from_bytes(header[68:72], "big") != _APPLICATION:
            return False
        try:
            with self._connected() as database:
                if database is None:
                    return False
                (version,) = database.execute("PRAGMA user_version").fetchone()
                return version != _VERSION or database.execute("PRAGMA quick_check").fetchone() != ("ok",)
        except sqlite3.OperationalError:
            return False  # a full disk, a lock: the file may be whole
        except sqlite3.DatabaseError:
            return True

    def _unusable(self, actual: str, ours: bool) -> InputError:
        if not ours:
            way = "it is not ours to replace: choose another --output_dir, or remove it"
        elif self.json_path.is_file():
            way = f"delete it to go on from {self.json_path.name} beside it, {_ANEW}"
        else:
            way = f"delete it, {_ANEW}"
        return InputError(self.path, _EXPECTED, f"{actual}; {way}")

    def _read_json(self) -> dict[str, Entry]:
        try:
            content = json.loads(self.json_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:  # JSON's, or UTF-8's
            raise self._no_state(f"a torn or foreign one ({error})") from error
        if not isinstance(content, dict):
            raise self._no_state("another program's JSON")
        for image, entry in content.items():
            if not isinstance(entry, dict) or entry.get("status") not in _STATUSES:
                raise self._no_state(f"another program's JSON (no status of {image!r:.80})")
        return content

    def _no_state(self, actual: str) -> InputError:
        return InputError(self.json_path, _EXPECTED, f"{actual}; delete it, {_ANEW}")

    def _export(self, entries: list[tuple[str, str]]) -> None:
        """Write the exported files; under a lock, so that what another process exports is never older."""
        began = time.monotonic()
        lines = (f" {json.dumps(image, ensure_ascii=False)}: {entry}" for image, entry in entries)
        with atomic_path(self.json_path) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        facts = (json.loads(entry) for _, entry in entries if '"summary"' in entry)
        rows = [entry["summary"] for entry in facts if "summary" in entry]
        if rows:
            with atomic_path(self.summary_path) as temporary:
                pd.DataFrame(rows).sort_values("image").to_csv(temporary, index=False)
        self._schedule.written(len(entries), began)


def _entries(database: sqlite3.Connection) -> dict[str, Entry]:
    return {image: json.loads(entry) for image, entry in database.execute(_SELECT)}


def _write(database: sqlite3.Connection, entries: Mapping[str, Entry]) -> None:
    """Add entries, or replace them where they stand."""
    database.executemany(
        "INSERT INTO images (image, entry) VALUES (?, ?) ON CONFLICT (image) DO UPDATE SET entry = excluded.entry",
        _as_json(entries),
    )


def _as_json(entries: Mapping[str, Entry]) -> list[tuple[str, str]]:
    return [(image, json.dumps(entry, ensure_ascii=False)) for image, entry in entries.items()]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def exit_on_sigterm() -> None:
    """Let SIGTERM, unless it is handled already, end this process as Ctrl-C does, so that its state is exported.

    Signals of processes forked from it keep their meaning, as does that of a server, whose work is in other threads.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            raise SystemExit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
