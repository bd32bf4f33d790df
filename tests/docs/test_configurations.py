"""The READMEs' tables are made from the configurations, which are written in one style."""

import importlib.util
import json

import pytest

from tests.docs.shell import ROOT

SPEC = importlib.util.spec_from_file_location("configurations", ROOT / "docs/configurations.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))


def test_tables_and_style_are_up_to_date():
    assert script.stale() == [], "run python docs/configurations.py"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_readme_has_a_row_for_every_configuration(bundle):
    page = (bundle / "docs/README.md").read_text()
    rows = page[page.index(script.BEGIN) : page.index(script.END)].splitlines()
    for path in bundle.glob("configs/**/*.json"):
        if path.name != "metadata.json":
            (row,) = [row for row in rows if row.startswith(f"| `{path.relative_to(bundle / 'configs').as_posix()}` |")]
            assert row.endswith(f" {json.loads(path.read_text())['_desc_']} |")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_top_level_holds_what_is_run(bundle):
    allowed = {
        *("train", "evaluate", "inference", "slides", "metadata", "quickstart", "cycle", "chain"),
        *("multi_gpu_train", "multi_gpu_evaluate"),  # where the zoo looks for them
    }
    assert {path.stem for path in bundle.glob("configs/*.json")} <= allowed
    names = [path.stem for path in bundle.glob("configs/**/*.json")]
    assert len(names) == len(set(names)), "tests and readers find a configuration by its name"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, '{\n    "a": 1\n}'),
        ({"a": {"b": [1, 2]}}, '{\n    "a": {"b": [1, 2]}\n}'),
        ({"a": ["x" * 80, "y" * 40]}, f'{{\n    "a": [\n        "{"x" * 80}",\n        "{"y" * 40}"\n    ]\n}}'),
        (
            {"a": {"b": "x" * 60, "c": 1, "d": "y" * 60}},
            f'{{\n    "a": {{\n        "b": "{"x" * 60}", "c": 1,\n        "d": "{"y" * 60}"\n    }}\n}}',
        ),
        (
            {"a": [{"b": "x" * 60}, {"c": "y" * 60}]},
            f'{{\n    "a": [\n        {{"b": "{"x" * 60}"}},\n        {{"c": "{"y" * 60}"}}\n    ]\n}}',
        ),
    ],
    ids=["top", "one line", "too long", "packed", "objects in a row"],
)
def test_style(value, expected):
    text = script.formatted(value)
    assert text == expected
    assert json.loads(text) == value


def test_a_changed_description_is_noticed(tmp_path, monkeypatch):
    bundle = tmp_path / "bundles/some"
    for folder in ("configs/overlays/label", "docs"):
        (bundle / folder).mkdir(parents=True)
    (bundle / "configs/metadata.json").write_text("{}")
    (bundle / "configs/train.json").write_text(script.formatted({"_desc_": "trains", "run": []}) + "\n")
    overlay = {"_desc_": "other labels", "_over_": ["train", "train + evaluate"]}
    path = bundle / "configs/overlays/label/other.json"
    path.write_text(script.formatted(overlay) + "\n")
    page = bundle / "docs/README.md"
    page.write_text(f"before\n{script.BEGIN}\n\n{script.END}\nafter\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    assert script.stale() == ["bundles/some/docs/README.md"]
    for changed, text in list(script.changes()):
        changed.write_text(text)
    assert script.stale() == []
    assert "| `overlays/label/other.json` | `train`, `train + evaluate` | other labels |" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nafter\n")
    path.write_text(script.formatted({**overlay, "_desc_": "fixed labels"}) + "\n")
    assert script.stale() == ["bundles/some/docs/README.md"]
