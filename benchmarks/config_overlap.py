"""How many lines of a bundle's ``train.json`` and ``inference.json`` stand in another bundle's file of that name too.

``python benchmarks/config_overlap.py`` measures this checkout, ``python benchmarks/config_overlap.py FOLDER`` another.
White space at the ends, trailing commas and lines of brackets alone do not count. `closest` is the share of a file's
lines that the most similar file of another bundle has, `any` the share that any other bundle's has.
"""

from __future__ import annotations

import sys
from pathlib import Path

NAMES = ("train", "inference")


def lines(path: Path) -> list[str]:
    """The lines of a configuration that say something."""
    stripped = (line.strip().rstrip(",") for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in stripped if any(letter.isalnum() for letter in line)]


def main(root: Path) -> None:
    """Print a row for each file and the sum of all."""
    print(f"{'file':54} lines shared  any closest")
    total = shared = 0
    for name in NAMES:
        files = {path.parents[1].name: lines(path) for path in sorted(root.glob(f"bundles/*/configs/{name}.json"))}
        for bundle, said in files.items():
            others = [set(other) for key, other in files.items() if key != bundle]
            anywhere = sum(line in set().union(*others) for line in said)
            closest = max(sum(line in other for line in said) for other in others)
            total, shared = total + len(said), shared + anywhere
            label = f"{bundle}/{name}.json"
            print(f"{label:54} {len(said):5} {anywhere:6} {anywhere / len(said):4.0%} {closest / len(said):7.0%}")
    print(f"{'all':54} {total:5} {shared:6} {shared / total:4.0%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
