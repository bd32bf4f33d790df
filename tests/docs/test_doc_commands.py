"""Every command of the documentation is valid, and something is known to become of it."""

import re

import pytest

from tests.docs.checks import problem, problem_of_mention, problem_of_option
from tests.docs.shell import ROOT, Command, blocks, cells, mentions, options, pages
from tests.docs.table import ELSEWHERE, MITOSIS, NOT_RUN, NUCLEI, PLACES, SHORTER, fate, named, shortened

LIKE_COMMANDS = re.compile(r"^\s*(\$ |python3? |pip |torchrun |make |curl )", re.MULTILINE)
RUN = ("python", "-m", "monai.bundle", "run", "--config_file")
TRAIN = ("python", "-m", "monai.bundle", "run", "training", "--config_file")
EXT = ("python", "-m", "monai_ext")


@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_are_valid(page, documented, tree):
    assert [f"{c}\n  {wrong}" for c in documented[page] if (wrong := problem(c, tree))] == []


@pytest.mark.parametrize("page", pages())
def test_what_a_page_mentions_is_valid(page, tree):
    text = (ROOT / page).read_text()
    wrong = [
        f"{page}:{line}: {said}\n  {why}" for line, said in mentions(text) if (why := problem_of_mention(said, tree))
    ]
    wrong += [f"{page}:{line}: {why}" for line, name in options(text) if (why := problem_of_option(name, page))]
    assert wrong == []


@pytest.mark.parametrize("page", [page for page in pages() if page.startswith("bundles/")])
def test_every_row_of_commands_has_one(page, documented):
    rows = {command.line for command in documented[page] if command.row}
    columns = [cell for cell in cells((ROOT / page).read_text()) if cell.of_commands]
    assert [f"{page}:{cell.line + 1}: {cell.text}" for cell in columns if cell.line + 1 not in rows] == []


@pytest.mark.parametrize("page", pages())
def test_commands_stand_in_blocks_of_bash(page):
    lines = (ROOT / page).read_text().splitlines()
    others = ["\n".join(lines[start:end]) for start, end, language in blocks("\n".join(lines)) if language != "bash"]
    assert [text for text in others if LIKE_COMMANDS.search(text)] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("wget", "x"), "unknown command wget"),
        (("python", "-m", "http.server"), "unknown module http.server"),
        (("python", "benchmarks/none.py"), "no such file: benchmarks/none.py"),
        ((*RUN, "configs/none.json"), "no such file: configs/none.json"),
        ((*RUN, "['configs/inference.json','configs/none.json']"), "no such file: configs/none.json"),
        ((*RUN, "mine.json"), "no such configuration: mine.json"),
        (("python", "-m", "monai.bundle", "run", "trian", "--config_file", "configs/train.json"), "has no trian"),
        (("python", "-m", "monai.bundle", "rnu"), "rnu"),
        ((*TRAIN, "configs/train.json", "--epoch", "1"), "--epoch: the configuration has no such entry"),
        ((*TRAIN, "configs/train.json", "--network_def#weight", "x"), "--network_def#weight: the configuration"),
        ((*TRAIN, "configs/train.json", "--network_def#weights#x", "x"), "--network_def#weights#x: the configuration"),
        ((*TRAIN, "configs/train.json", "--network", "$f(@network_deff)"), "has no @network_deff"),
        ((*EXT, "phantom", "mitosis"), "dst"),
        ((*EXT, "phantom", "cats", "--dst", "x", "--slide", "1"), "phantom: expected mitosis or"),
        ((*EXT, "prepare", "cats", "--src", "a", "--dst", "b"), "prepare: expected "),
        ((*EXT, "prepare", "pcam", "--src", "a", "--dst", "b", "--patches", "3"), "options"),
        ((*EXT, "tune", "cats"), "tune: expected mitosis or"),
        ((*EXT, "tune", "mitosis", "--bundle", ".", "--dataset_dir", "d", "--epohcs", "1"), "epohcs"),
        ((*EXT, "report", "cats"), "report: expected annotations or"),
        ((*EXT, "export", "all"), "dst"),
        (
            ("torchrun", "--standalone", "-m", "monai.bundle", "run", "--config_file", "configs/none.json"),
            "no such file",
        ),
        (("torchrun", "--np", "2", "-m", "x"), ""),
        (("torchrun", "--standalone", "configs/train.json"), "torchrun without -m"),
        (("make", "nothing"), "nothing"),
        (("pip", "install", "monai==1.0.0"), "not as in requirements.txt"),
        (("curl", "http://127.0.0.1:8000/inference/"), "unknown request GET /inference/"),
        (("curl", "-X", "POST", "http://127.0.0.1:8000/train/no_bundle"), "unknown request"),
        ((".", "venv/bin/activate"), "make makes .venv"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_found(words, expected, tree):
    found = problem(Command("docs/page.md", 1, MITOSIS, words), tree)
    assert found is not None
    assert expected in found


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("python -m monai_ext prepare NAME --src SRC --dst DST", None),
        ("python -m monai_ext prepare NAME --src SRC --dts DST", "--dts"),
        ("python -m monai_ext tune evidence", None),
        ("python -m monai_ext tune evidnce", "tune: expected evidence"),
        ("make nothing", "nothing"),
    ],
)
def test_what_is_wrong_with_a_mention_is_found(said, expected, tree):
    found = problem_of_mention(said, tree)
    assert (found is None) if expected is None else expected in (found or "")


@pytest.mark.parametrize(
    ("name", "valid"),
    [("cache_rate", True), ("detect#smooth", True), ("nooverwrite", True), ("label-noise", True), ("cach_rate", False)],
)
def test_an_option_that_nothing_takes_is_found(name, valid):
    assert (problem_of_option(name, "docs/page.md") is None) is valid


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("{'epochs':1,'network_def#unlabelled':'ignore'}", None),
        ("{'epoch':1}", "--back_settings: --epoch: the configuration"),
    ],
)
def test_settings_of_phases_are_entries_of_their_configurations(settings, expected, tree):
    found = problem(
        Command("docs/page.md", 1, NUCLEI, (*TRAIN, "configs/cycle.json", "--back_settings", settings)), tree
    )
    assert (found is None) if expected is None else (found or "").startswith(expected)


@pytest.mark.parametrize("rule", [*NOT_RUN, *ELSEWHERE, *SHORTER], ids=lambda rule: rule.match)
def test_every_rule_has_its_commands(rule, documented):
    matched = [command for found in documented.values() for command in found if rule.matches(command)]
    assert matched
    if rule not in SHORTER:
        assert any(fate(command) is rule for command in matched)


@pytest.mark.parametrize("rule", ELSEWHERE, ids=lambda rule: rule.match)
def test_what_runs_commands_elsewhere_is_there(rule):
    file, _, name = rule.by.partition("::")
    assert f"def {name or 'test_'}" in (ROOT / file).read_text()


def test_every_place_is_named_by_a_command(documented):
    run = [command for found in documented.values() for command in found if fate(command) is None]
    used = {place for command in run for place in named(command.folder, shortened(command))}
    assert {(folder, name) for folder, names in PLACES.items() for name in names} - used == set()
