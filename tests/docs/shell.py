"""What a page tells its reader to type.

Bash itself reads the blocks of a page and the commands in its tables, with a search path on which there is nothing:
every command that it does not find is one that a reader would run, and is noted with the line, the folder and the
words. So quotes, variables, functions, loops, tests and ``cd`` mean here what they mean to the reader.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^ *(?P<marks>`{3,}|~{3,}) *\{? *\.?(?P<language>[\w-]*)(?P<rest>.*)$")
BUNDLE_PAGE = re.compile(r"^bundles/\w+")
TOLD = re.compile(
    r"the\s+(?P<root>repository's\s+root)|(?P<own>this\s+bundle's\s+folder)"
    r"|(?:[Ff]rom|such\s+as|folder\s+\()\s*`(?P<bundle>bundles/\w+)`"
)
SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
FUNCTION = re.compile(r"^(\w+)\(\) *\{", re.MULTILINE)
STARTERS = ("python", "monai-ext", "torchrun", "srun", "pip", "make", "curl", ".venv-label/bin/python")
NOTE = r"""
set -u
# in a pipe, what stands before it has been noted once there is nothing left to read
note() {
  [ ! -p /dev/stdin ] || while read -r; do :; done
  printf '%s\0' "${BASH_LINENO[-2]}" "$PWD" "$#" "$@" >>"$NOTES"
}
command_not_found_handle() { note "$@"; }
"""
SHADOWED = (".", "source", ".venv-label/bin/python")  # what bash would find all the same


@dataclass(frozen=True)
class Command:
    """A command of a page, as the shell would hand it over.

    Attributes:
        page: relative to the repository.
        line: of the page, from 1.
        folder: where it is typed, relative to the repository's root; ``.`` is the root.
        words: the program and its arguments.
        row: whether it stands in a table.
    """

    page: str
    line: int
    folder: str
    words: tuple[str, ...]
    row: bool = False

    @property
    def text(self) -> str:
        return " ".join(
            f'"{word}"' if re.fullmatch(r"[^\"$`\\]*'[^\"$`\\]*", word) else shlex.quote(word) for word in self.words
        )

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def pages() -> list[str]:
    """The pages of the documentation, relative to the repository."""
    found = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("bundles/*/docs/README.md"),
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """First and last line of each fenced block, its fences left out, counted from 0, and its language."""
    lines, start = text.splitlines(), None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if start is None and fence:
            start, marks, language = number + 1, fence["marks"], fence["language"]
        elif start is not None and fence and fence["marks"].startswith(marks) and not fence["language"]:
            yield start, number, language
            start = None
    if start is not None:
        raise ValueError(f"line {start}: a block without an end")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        line: of the page, from 0.
        heading: of its column.
        text: with its code spans.
    """

    line: int
    heading: str
    text: str

    @property
    def spans(self) -> list[str]:
        return [match[2].strip() for match in SPAN.finditer(self.text)]

    @property
    def of_commands(self) -> bool:
        """Whether the column says that it holds commands."""
        return re.search(r"\bcommand\b", SPAN.sub("", self.heading)) is not None


def cells(text: str) -> Iterator[Cell]:
    """The cells of a page's tables, those of headings left out."""
    lines = text.splitlines()
    fenced = {number for start, end, _ in blocks(text) for number in range(start - 1, end + 1)}
    rows = [number for number, line in enumerate(lines) if line.lstrip().startswith("|") and number not in fenced]
    headings: list[str] = []
    for number in rows:
        columns = [part.replace("\\|", "|").strip() for part in re.split(r"(?<!\\)\|", lines[number].strip())[1:-1]]
        if number - 1 not in rows:
            headings = columns
        elif number - 2 in rows:  # below the line of dashes
            yield from (Cell(number, heading, column) for heading, column in zip(headings, columns, strict=True))


def starts(span: str, names: Collection[str]) -> bool:
    """Whether a code span is a program with arguments, or one of these names with or without."""
    first, _, rest = span.partition(" ")
    return (first in STARTERS and bool(rest)) or first in names


def typed(cell: Cell, functions: Collection[str]) -> list[str]:
    """The commands in a cell, whose column may say after what they are typed."""
    before = next((span for span in Cell(0, "", cell.heading).spans if starts(span, ())), None)
    found = []
    for span in cell.spans:
        if starts(span, functions if cell.of_commands else ()):
            found.append(span)
        elif cell.of_commands and before and span.startswith("--") and " " in span:
            found.append(f"{before} {span}")
    return found


def mentions(text: str) -> Iterator[tuple[int, str]]:
    """Commands in a page's running text, with their lines from 1."""
    lines = text.splitlines()
    for start, end, _ in blocks(text):
        lines[start - 1 : end + 1] = [""] * (end + 2 - start)
    lines = ["" if line.lstrip().startswith("|") else line for line in lines]
    for match in SPAN.finditer(prose := "\n".join(lines)):
        if "\n\n" not in match[2] and starts(said := " ".join(match[2].split()), ()):
            yield prose.count("\n", 0, match.start()) + 1, said


def options(text: str) -> Iterator[tuple[int, str]]:
    """The names of options that stand alone in code spans, with their lines from 1."""
    lines = text.splitlines()
    for start, end, _ in blocks(text):
        lines[start - 1 : end + 1] = [""] * (end + 2 - start)
    for number, line in enumerate(lines, start=1):
        for match in SPAN.finditer(line):
            if told := re.match(r"--([A-Za-z][\w#-]+)", match[2].strip()):
                yield number, told[1]


def script(text: str, page: str) -> str:
    """The bash blocks of a page and the commands in its tables, each on the lines where the page has it.

    Each is typed where the text said last (``From `bundles/x`:``), else where the one before it ended. A page of
    a bundle begins in the bundle's folder, any other in the repository's root; and so does a block that activates the
    repository's environment.
    """
    lines = text.splitlines()
    kept, said, read = [""] * len(lines), "", 0
    own = match[0] if (match := BUNDLE_PAGE.match(page)) else "."
    functions = FUNCTION.findall(text)
    pieces = [(start, end, language, lines[start:end]) for start, end, language in blocks(text)]
    for cell in cells(text):
        if shown := typed(cell, functions):
            pieces.append((cell.line, cell.line, "bash", ["; ".join(shown)]))
    for start, end, language, shown in sorted(pieces):
        row = start == end
        said += "\n".join(lines[read : start if row else start - 1]) + "\n"
        read = end + 1
        if language != "bash":
            continue
        told, said = list(TOLD.finditer(said)), ""
        if shown[0].strip().startswith(". .venv/bin/activate"):
            folder = "."
        elif told:
            folder = told[-1]["bundle"] or (own if told[-1]["own"] else ".")
        else:
            folder = None if any(kept) else own
        moved = f'cd "$TREE/{folder}"' if folder else ""
        if row:
            kept[start] = "; ".join(filter(None, [kept[start], moved, *shown]))
        else:
            kept[start - 1] = moved
            kept[start:end] = shown
    return "\n".join(kept) + "\n"


def commands(text: str, page: str, tree: Path = ROOT, variables: Mapping[str, str] | None = None) -> list[Command]:
    """The commands of a page in the order in which its reader would run them; nothing is run.

    Args:
        text: of the page.
        page: its path, relative to the repository.
        tree: a folder that has what the page changes into.
        variables: those that the page leaves to its reader.

    Raises:
        ValueError: what bash says of a block: a variable that was never set, a folder that is not there, wrong syntax.
    """
    with tempfile.TemporaryDirectory() as folder:
        notes, start, typed = (Path(folder) / name for name in ("notes", "start", "page"))
        notes.touch()
        shadows = "".join(f'function {name} {{ note {name} "$@"; }}\n' for name in SHADOWED)
        start.write_text(NOTE + shadows)
        typed.write_text(script(text, page))
        surroundings = {"PATH": "/nonexistent", "BASH_ENV": str(start), "NOTES": str(notes), "TREE": str(tree)}
        done = subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", typed],
            cwd=tree,
            env={**surroundings, **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if said := done.stderr.replace(f"{typed}: line ", f"{page}:"):
            raise ValueError(said)
        fields = iter(notes.read_text().split("\0")[:-1])
    found, rows = [], {cell.line + 1 for cell in cells(text)}
    for line in fields:
        folder = str(Path(next(fields)).relative_to(tree))
        words = tuple(next(fields) for _ in range(int(next(fields))))
        found.append(Command(page, int(line), folder, words, int(line) in rows))
    return found
