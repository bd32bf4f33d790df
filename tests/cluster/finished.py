"""How far a run over slides is, and whether its files are those of another: ``python finished.py RUN [OTHER]``."""

from __future__ import annotations

import sys
from pathlib import Path

from monai_ext.data.run_state import RunState

_RESULTS = (".geojson", ".tif", ".csv")  # reports and states have times and folders in them


def files(run: Path) -> dict[str, bytes]:
    """The content of all files of a run."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def main(run: Path, other: Path | None = None) -> None:
    """Print how many slides are done; or which files are equal, and fail where results are not."""
    if other is None:
        entries = RunState(run).read() if run.is_dir() else {}
        print(sum(entry["status"] == "done" for entry in entries.values()))
        return
    one, two = files(run), files(other)
    differ = [name for name in one.keys() & two.keys() if one[name] != two[name]]
    print(f"{len(one.keys() & two.keys()) - len(differ)} files equal byte by byte; others: {', '.join(sorted(differ))}")
    wrong = [name for name in sorted({*differ, *(one.keys() ^ two.keys())}) if name.endswith(_RESULTS)]
    if wrong or not any(name.endswith(_RESULTS) for name in one):
        sys.exit(f"results differ: {', '.join(wrong) or 'none'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
