"""A reviewer's corrections: a file that lines are added to, and the objects that follow from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import shapely
from filelock import FileLock

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Color, Features

__all__ = ["ACTIONS", "Decision", "ReviewLog", "content_of", "reviewed"]

#: What a reviewer can say of an object.
ACTIONS = ("accept", "reject", "class")
_DRAW, _UNDO = "draw", "undo"


@dataclass(frozen=True)
class Decision:
    """What a reviewer said of an object.

    Attributes:
        object: its place in the result's file, from 0; those that were drawn come after the file's.
        action: one of :data:`ACTIONS`, or ``draw``.
        name: the class that it belongs to, for ``class`` and ``draw``.
        reviewer: who said so.
        time: when, UTC, as ISO 8601.
        number: of the line in the log, from 1.
    """

    object: int
    action: str
    name: str | None
    reviewer: str
    time: str
    number: int


def content_of(path: str | os.PathLike) -> str:
    """A short name for what a file holds: 16 hexadecimal digits of its SHA-256."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


class ReviewLog:
    """Corrections of a result, a JSON object a line, which are only ever added to.

    When :meth:`decide`, :meth:`draw` or :meth:`undo` returns, the line is on the disk. A line that was torn, by a power
    cut or a full disk, counts for nothing and hides no other. Several processes may add to the file; each sees what the
    others did when it looks next. Lines about another content of the result's file, such as an earlier run's, stay in
    the file and are not applied.

    Args:
        path: the file; it is made with the first correction.
        result: the content of the result's file, :func:`content_of` it.
        count: how many objects that has.
        classes: that objects may be given.

    Attributes:
        path: the file.
        torn: lines that could not be read.
        of_others: lines about another result.

    Examples:
        >>> import shapely
        >>> from monai_ext.view import ReviewLog
        >>> log = ReviewLog(folder / "a_review.jsonl", "0123456789abcdef", count=3, classes=["Tumor"])
        >>> _ = log.decide(2, "reject", reviewer="ada")
        >>> _ = log.decide(0, "class", "Tumor", reviewer="ada")
        >>> log.undo("ada").object, {k: each.action for k, each in log.decisions().items()}
        (0, {2: 'reject'})
        >>> log.draw(shapely.box(0, 0, 9, 9), "Tumor", reviewer="ada").object, log.drawn().classes.tolist()
        (3, ['Tumor'])
    """

    def __init__(self, path: str | os.PathLike, result: str, count: int, classes: Sequence[str] = ()) -> None:
        self.path, self.result, self.count, self.classes = Path(path), result, count, tuple(classes)
        self._lock = RLock()
        self._forget()

    def _forget(self) -> None:
        self.torn = self.of_others = self._offset = self._last = 0
        self._ended = True  # with a line's end
        self._said: dict[int, Decision] = {}  # by the line's number, in the file's order
        self._shapes: dict[int, tuple[shapely.Geometry, Decision]] = {}  # by the object; also those undone
        self._drawn: Features | None = None

    def decisions(self) -> dict[int, Decision]:
        """What holds of each object that anything was said of, the last that was not undone."""
        with self._lock:
            self._read()
            return {decision.object: decision for decision in self._said.values() if self._is_there(decision.object)}

    def drawn(self) -> Features:
        """The objects that were drawn, as they were drawn, in px of the file.

        The first has the place after the result's last, and so on; an object keeps its place for ever. Where a drawing
        was undone, the geometry is missing. While no more is drawn or undone, the same object is returned.
        """
        with self._lock:
            self._read()
            if self._drawn is None:
                count = max(self._shapes, default=self.count - 1) + 1 - self.count
                shapes, classes = np.full(count, None), np.full(count, None)
                for number, (shape, decision) in self._shapes.items():
                    if self._is_there(number):
                        shapes[number - self.count], classes[number - self.count] = shape, decision.name
                self._drawn = Features(shapes, classes)
            return self._drawn

    def by_reviewer(self) -> dict[str, dict[int, Decision]]:
        """As :meth:`decisions`, of each reviewer by themselves."""
        with self._lock:
            self._read()
            said: dict[str, dict[int, Decision]] = {}
            for decision in self._said.values():
                if self._is_there(decision.object):
                    said.setdefault(decision.reviewer, {})[decision.object] = decision
            return said

    def _is_there(self, number: int) -> bool:
        drawn = self._shapes.get(number)
        return 0 <= number < self.count or (drawn is not None and drawn[1].number in self._said)

    def decide(self, number: int, action: str, name: str | None = None, *, reviewer: str) -> Decision:
        """Add what a reviewer says of an object.

        Args:
            number: the object's place in the result's file, from 0, or that of one which was drawn.
            action: one of :data:`ACTIONS`.
            name: its class, for ``class``.
            reviewer: who says so.

        Raises:
            InputError: no such object, action or class.
            OSError: the file cannot be written; nothing was added.
        """
        is_number = isinstance(number, int) and not isinstance(number, bool)
        with self._lock:
            self._read()
            if not (is_number and self._is_there(number)):
                drawn = ", or that of a drawn object that is there" if self._shapes else ""
                raise InputError("object", f"a whole number 0 to {self.count - 1}{drawn}", repr(number))
        if action not in ACTIONS:
            raise InputError("action", " or ".join((*ACTIONS, _DRAW, _UNDO)), repr(action))
        if action == "class":
            self._check_class(name)
        decision = Decision(number, action, name if action == "class" else None, reviewer, _now(), 0)
        with self._lock, self._file_lock():
            self._read()
            return self._add(decision)

    def draw(self, shape: shapely.Geometry, name: str | None = None, *, reviewer: str) -> Decision:
        """Add an object that the result lacks.

        Args:
            shape: px of the file; see :func:`~monai_ext.view.drawing.drawn_shape`.
            name: its class; ``None`` only where there are no classes.
            reviewer: who has drawn it.

        Returns:
            what was added, with the new object's place.

        Raises:
            InputError: no such class.
            OSError: the file cannot be written; nothing was added.
        """
        if self.classes or name is not None:
            self._check_class(name)
        with self._lock, self._file_lock():
            self._read()
            number = max(self._shapes, default=self.count - 1) + 1
            decision = Decision(number, _DRAW, name, reviewer, _now(), 0)
            return self._add(decision, {"geometry": shapely.geometry.mapping(shape)})

    def _check_class(self, name: str | None) -> None:
        if name not in self.classes:
            raise InputError("class", " or ".join(self.classes) or "a name given by --classes", repr(name))

    def undo(self, reviewer: str) -> Decision | None:
        """Take back what a reviewer said last and has not taken back yet, by a further line.

        Returns:
            what was taken back; ``None`` if there is nothing.

        Raises:
            OSError: the file cannot be written; nothing was added.
        """
        with self._lock, self._file_lock():
            self._read()
            last = next((each for each in reversed(self._said.values()) if each.reviewer == reviewer), None)
            if last is not None:
                line = {"action": _UNDO, "undoes": last.number, "reviewer": reviewer, "time": _now()}
                self._append({"number": self._last + 1, **line})
            return last

    def _add(self, decision: Decision, more: Mapping[str, Any] | None = None) -> Decision:
        decision = replace(decision, number=self._last + 1)
        self._append({**asdict(decision), **(more or {})})
        return decision

    def _file_lock(self) -> FileLock:
        return FileLock(self.path.with_name(f".{self.path.name}.lock"))

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps({**line, "result": self.result}, ensure_ascii=False) + "\n"
        with self.path.open("ab") as file:
            end = file.tell()
            try:
                file.write((text if self._ended else f"\n{text}").encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        self._read()

    def _read(self) -> None:
        """Take in what was added to the file."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:  # another file took its place
                    self._forget()
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            self._forget()
            return
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            if line.strip():
                self._take(line)
        if _is_json(data[end:]):  # all but the line's end was written
            self._take(data[end:])
            end = len(data)
        self._offset += end
        if data:
            self._ended = data.endswith(b"\n")

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            number, of_this = int(entry["number"]), entry["result"] == self.result
            self._last = max(self._last, number)
            if not of_this:
                self.of_others += 1
            elif entry["action"] == _UNDO:
                undone = self._said.pop(int(entry["undoes"]), None)
                if undone is not None and undone.action == _DRAW:
                    self._drawn = None
            elif entry["action"] == _DRAW and self._is_drawing(entry):
                self._said[number] = decision = _decision(entry)
                self._shapes[decision.object] = (shapely.geometry.shape(entry["geometry"]), decision)
                self._drawn = None
            elif entry["action"] in ACTIONS and self._is_known(int(entry["object"])):
                self._said[number] = _decision(entry)
            else:
                self.torn += 1
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, shapely.errors.ShapelyError):
            self.torn += 1

    def _is_known(self, number: int) -> bool:
        return 0 <= number < self.count or number in self._shapes

    def _is_drawing(self, entry: Mapping[str, Any]) -> bool:
        """Whether a line has a shape, and a place that is not taken and that so many lines can lead to."""
        shape, about = shapely.geometry.shape(entry["geometry"]), int(entry["object"])
        is_free = about not in self._shapes and self.count <= about < self.count + int(entry["number"])
        return is_free and not shape.is_empty and bool(shape.is_valid)


def _decision(entry: Mapping[str, Any]) -> Decision:
    name = None if entry["name"] is None else str(entry["name"])
    texts = (str(entry[key]) for key in ("reviewer", "time"))
    return Decision(int(entry["object"]), entry["action"], name, *texts, int(entry["number"]))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def reviewed(features: Features, decisions: Mapping[int, Decision], colours: Mapping[str, Color]) -> Features:
    """The objects as a reviewer has corrected them: without those rejected, with the classes that were given.

    Args:
        features: the result, whole and in the file's order, then what was drawn.
        decisions: of :meth:`ReviewLog.decisions`.
        colours: RGB of classes.

    Examples:
        >>> from monai_ext.formats import Features
        >>> from monai_ext.view import Decision, reviewed
        >>> cells = Features.from_points([[0, 0], [1, 1]], classes="Other")
        >>> said = Decision(1, "class", "Tumor", "ada", "2026-01-01T00:00:00.000Z", 1)
        >>> reviewed(cells, {1: said}, {}).classes.tolist()
        ['Other', 'Tumor']
    """
    classes, keep = features.classes.copy(), ~shapely.is_missing(features.geometry)
    for number, decision in decisions.items():
        if decision.action == "reject":
            keep[number] = False
        elif decision.action == "class":
            classes[number] = decision.name
    return replace(features, classes=classes, colors={**features.colors, **colours})[keep]
