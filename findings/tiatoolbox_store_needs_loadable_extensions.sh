#!/usr/bin/env bash
# TIAToolbox's annotation store cannot be opened where Python's sqlite3 has no loadable extensions, which it does not use.
#
# Seen with tiatoolbox 2.1.3: SQLiteStore() raises AttributeError ('sqlite3.Connection' object has no attribute
# 'enable_load_extension') under a Python that was built without --enable-loadable-sqlite-extensions, as pyenv builds it
# by default and as python.org's and Apple's for macOS are. With that one call left out the same store works: it stands
# before "pragma compile_options", which lists options and needs no extension.
# Who meets it: whoever opens annotations by TIAToolbox in such a Python, whatever wrote them.
# Source: tiatoolbox/annotation/storage.py of 2.1.3, SQLiteStore.compile_options.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.2.6 pandas==2.3.3 shapely==2.1.2 pyyaml requests typing_extensions
"$work/env/bin/pip" install --quiet --disable-pip-version-check --no-deps tiatoolbox==2.1.3
cat > "$work/try.py" <<'PY'
import sqlite3
import sys

from shapely.geometry import Point
from tiatoolbox.annotation.storage import Annotation, SQLiteStore


class Plain(sqlite3.Connection):
    """As such a Python has it."""

    def __getattribute__(self, name):
        if name == "enable_load_extension":
            raise AttributeError("'sqlite3.Connection' object has no attribute 'enable_load_extension'")
        return super().__getattribute__(name)


connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, **{"factory": Plain, **options})
try:
    SQLiteStore()
    failed = False
except AttributeError as error:
    failed = True
    print(f"as it is: {error}")
with sqlite3.connect(":memory:") as connection:
    compiled = [option for (option,) in connection.execute("pragma compile_options")]
SQLiteStore.compile_options = staticmethod(lambda: compiled)
store = SQLiteStore()
store.append(Annotation(Point(1, 2), {"type": "Mitosis"}))
print(f"without the call: {len(store.query((0, 0, 5, 5)))} object found by its place")
sys.exit(not failed)
PY
"$work/env/bin/python" "$work/try.py" 2> /dev/null
