"""Pages are read as a shell reads them."""

import pytest

from tests.docs.shell import Command, blocks, cells, commands, mentions, options, script


def words(text, page="docs/page.md", **options):
    return [command.words for command in commands(f"```bash\n{text}\n```\n", page, **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("python -m x  # why", [("python", "-m", "x")], id="comment"),
        pytest.param("# nothing", [], id="comment alone"),
        pytest.param("python a \\\n    --b c", [("python", "a", "--b", "c")], id="continuation"),
        pytest.param("""python "['a','b c']" 'd e' f\\ g""", [("python", "['a','b c']", "d e", "f g")], id="quotes"),
        pytest.param('python "\\$f(@a)" --d#e 1', [("python", "$f(@a)", "--d#e", "1")], id="escape"),
        pytest.param("P=\"'a','b'\"\npython \"[$P,'c']\"", [("python", "['a','b','c']")], id="variable"),
        pytest.param("D=../x M=y\npython $D ${M}_1", [("python", "../x", "y_1")], id="two assignments"),
        pytest.param("A=1 python b", [("python", "b")], id="assignment before a command"),
        pytest.param("export A='[\"*\"]'\npython $A", [("python", '["*"]')], id="export"),
        pytest.param("python a && make b; pip c", [("python", "a"), ("make", "b"), ("pip", "c")], id="several"),
        pytest.param("for s in 0 1; do\n  python $s\ndone", [("python", "0"), ("python", "1")], id="loop"),
        pytest.param("F=a; [ b = a ] || F=b\npython $F", [("python", "b")], id="test"),
        pytest.param("H=$(host | head -n 1)\nrun $H", [("host",), ("head", "-n", "1"), ("run",)], id="substitution"),
        pytest.param(". .venv/bin/activate", [(".", ".venv/bin/activate")], id="activation"),
        pytest.param(".venv-label/bin/python -m x", [(".venv-label/bin/python", "-m", "x")], id="a path"),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_lines_are_those_of_the_page():
    text = "a\n\n```bash\npython 1\n\npython 2 \\\n  3\n```\nb\n   ```bash\n   python 4\n   ```\n"
    assert [(c.line, c.words[1]) for c in commands(text, "docs/page.md")] == [(4, "1"), (6, "2"), (11, "4")]


def test_other_blocks_hold_no_commands():
    assert commands("```python\nimport x\n```\n```\npython y\n```\n", "docs/page.md") == []
    assert commands("```{.bash title=x}\npython y\n```\n", "docs/page.md")[0].words == ("python", "y")
    assert [block[2] for block in blocks("````text\n```bash\n```\n````\n")] == ["text"]


def test_a_block_without_an_end():
    with pytest.raises(ValueError, match="line 2: a block without an end"):
        script("a\n```bash\npython x\n", "docs/page.md")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("python $UNSET", r"docs/page\.md:2: UNSET: unbound variable"),
        ("cd nowhere", r"docs/page\.md:2: cd: nowhere: No such file or directory"),
        ("for x in 1; do python", "syntax error"),
        ("./mine", r"docs/page\.md:2: \./mine: No such file or directory"),
    ],
)
def test_what_a_shell_refuses(text, said):
    with pytest.raises(ValueError, match=said):
        words(text)


def test_variables_that_the_page_leaves_open():
    assert words("python $B", variables={"B": "x"}) == [("python", "x")]


@pytest.mark.parametrize(
    ("page", "text", "folders"),
    [
        ("docs/page.md", "{block}", ["."]),
        ("bundles/b/docs/README.md", "{block}", ["bundles/b"]),
        ("docs/page.md", "From `bundles/b` or `bundles/c`:\n{block}\nthen\n{block}", ["bundles/b"] * 2),
        ("docs/page.md", "from `bundles/b`:\n{block}\nFrom the repository's\nroot:\n{block}", ["bundles/b", "."]),
        ("bundles/b/README.md", "the repository's root\n{block}\nthis bundle's folder\n{block}", [".", "bundles/b"]),
        ("docs/page.md", "From `bundles/b`:\n```\nfrom `bundles/c`\n```\n{block}", ["bundles/b"]),
        ("docs/page.md", "From `bundles/b`:\n{block}\n{activated}", ["bundles/b", "."]),
        ("docs/page.md", "{moving}\n{block}", ["bundles/c", "bundles/c"]),
    ],
)  # fmt: skip
def test_a_block_is_typed_where_the_text_says(page, text, folders, tmp_path):
    for name in ("b", "c"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
    parts = {"": "", "moving": "cd bundles/c\n", "activated": ". .venv/bin/activate\n"}
    filled = text.format(**{name or "block": f"```bash\n{first}python x\n```" for name, first in parts.items()})
    found = commands(filled, page, tmp_path)
    assert [command.folder for command in found if command.words[0] == "python"] == folders


TABLE = """
```bash
P="'a.json'"
T() { python -m x "$@"; }
```

| row | command | note |
|---|---|---|
| one | `T --c "[$P]"` (or `T` alone); `--d` | `python y 1` |
| two | `T --e 1 \\| z` | `T` is no command here |

| row | command, after `python -m z` |
|---|---|
| three | `--f 2` |
"""


def test_commands_in_tables():
    rows = [command for command in commands(TABLE, "docs/page.md") if command.row]
    assert [(c.line, c.words) for c in rows] == [
        (9, ("python", "-m", "x", "--c", "['a.json']")),
        (9, ("python", "-m", "x")),
        (9, ("python", "y", "1")),
        (10, ("python", "-m", "x", "--e", "1")),
        (10, ("z",)),
        (14, ("python", "-m", "z", "--f", "2")),
    ]


def test_a_row_without_a_command_is_noticed():
    page = TABLE.replace("`--f 2`", "the same as `two`")
    lines = {command.line for command in commands(page, "docs/page.md")}
    assert [cell.line + 1 for cell in cells(page) if cell.of_commands and cell.line + 1 not in lines] == [14]


def test_what_a_page_mentions():
    page = "See `python -m x\n--a`, `--bc 1` and `python`.\n```bash\npython y\n```\n| `python z 1` |\n"
    assert list(mentions(page)) == [(1, "python -m x --a")]
    assert list(options("`--bc 1`, `-d`, `--e#f`")) == [(1, "bc"), (1, "e#f")]


def test_a_command_tells_its_page_and_line():
    command = Command("docs/page.md", 7, ".", ("python", "['a','b']", "$c", "d"))
    assert str(command) == "docs/page.md:7: python \"['a','b']\" '$c' d"
