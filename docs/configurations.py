"""Write the bundles' configurations in one style, and the tables of their READMEs from the files' own first lines.

``python docs/configurations.py`` rewrites what has changed; a test runs ``stale()`` and fails while something would be.
A configuration's ``_desc_`` says in a line what it does, ``_over_`` over which others it may be laid: ``"train"``, or
``"train + evaluate"`` for both, from left to right. MONAI's parser takes both as entries that nothing refers to; of
several files laid over each other the last one's remain, and no computation sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 120
INDENT = 4
FIRST = ("train", "evaluate", "inference", "slides", "quickstart")  # in this order, before all others
BEGIN, END = "<!-- configurations: docs/configurations.py writes this table -->", "<!-- end of configurations -->"


def formatted(value: Any, indent: int = 0, used: int = 0) -> str:
    """JSON that is short without being dense.

    What fits on a line is on one. Of what does not, short entries share lines; those at the top have their own, and so
    have objects in a list.

    Args:
        value: what ``json`` reads.
        indent: columns before the value's lines.
        used: columns that its first line has taken already.
    """
    line = json.dumps(value, ensure_ascii=False)
    top = not indent and isinstance(value, dict)
    if not isinstance(value, dict | list) or (not top and used + len(line) < WIDTH):
        return line
    inner, entries = indent + INDENT, []
    for name, entry in value.items() if isinstance(value, dict) else ((None, entry) for entry in value):
        key = "" if name is None else f"{json.dumps(name)}: "
        entries.append(key + formatted(entry, inner, inner + len(key) + 1))
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    lines = entries if top or _steps(value) else _packed(entries, inner)
    body = ",\n".join(" " * inner + line for line in lines)
    return f"{opening}\n{body}\n{' ' * indent}{closing}"


def _steps(value: Any) -> bool:
    """Whether these are objects in a row, such as transforms, which read best one below the other."""
    return isinstance(value, list) and any(isinstance(entry, dict) for entry in value)


def _packed(entries: list[str], indent: int) -> list[str]:
    lines: list[str] = []
    for entry in entries:
        single = lines and "\n" not in lines[-1] + entry
        if single and indent + len(lines[-1]) + len(entry) + 3 <= WIDTH:
            lines[-1] += f", {entry}"
        else:
            lines.append(entry)
    return lines


def configurations(bundle: Path) -> list[Path]:
    """A bundle's configurations but for its metadata: those at the top first, then by kind."""

    def rank(path: Path) -> tuple:
        at_top = path.parent.name == "configs"
        return not at_top, FIRST.index(path.stem) if at_top and path.stem in FIRST else len(FIRST), path.as_posix()

    return sorted((path for path in bundle.glob("configs/**/*.json") if path.name != "metadata.json"), key=rank)


def table(bundle: Path) -> str:
    """The rows that a README shows: file, what it goes over, what it does."""
    rows = ["| file in `configs/` | over | what it does |", "|---|---|---|"]
    for path in configurations(bundle):
        content = json.loads(path.read_text(encoding="utf-8"))
        over = ", ".join(f"`{files}`" for files in content.get("_over_", ()))
        name = path.relative_to(bundle / "configs").as_posix()
        rows.append(f"| `{name}` | {over} | {content.get('_desc_', '')} |")
    return "\n".join(rows)


def changes() -> Iterator[tuple[Path, str]]:
    """Files that this would rewrite, with their new text."""
    for bundle in sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json")):
        pages = {
            path: formatted(json.loads(path.read_text(encoding="utf-8"))) + "\n" for path in configurations(bundle)
        }
        readme = bundle / "docs/README.md"
        between = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?=\n{re.escape(END)})", re.DOTALL)
        pages[readme] = between.sub(lambda _, of=bundle: f"\n{table(of)}\n", readme.read_text(encoding="utf-8"))
        yield from ((path, text) for path, text in pages.items() if path.read_text(encoding="utf-8") != text)


def stale() -> list[str]:
    """Names of the files that are not as this writes them."""
    return [path.relative_to(ROOT).as_posix() for path, _ in changes()]


if __name__ == "__main__":
    for changed, content in list(changes()):
        changed.write_text(content, encoding="utf-8")
        print(changed.relative_to(ROOT))
