"""The documentation keeps its promises about links and figures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json"))
MOST_PICTURE_BYTES = 150_000
MOST_PICTURES_BYTES = 1_500_000
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/*/docs/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_no_figure_is_open(page):
    text = page.read_text()
    assert "@@" not in text
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|#", link)]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    for target in targets:
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0, (
            target
        )


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert [
        path for path, text in pages.items() if re.search(r"<(script|img|link)[^>]+(src|href)=\"?https?:", text)
    ] == []
    assert [path for path, text in pages.items() if re.search(r":(class|func|meth|mod):", text)] == []  # Sphinx's roles
    assert "ConcentricLoss(" in re.sub(r"<[^>]+>", "", (tmp_path / "reference/api/losses.html").read_text())


def _pages(entries):
    for entry in entries:
        yield from [entry] if isinstance(entry, str) else _pages(entry.values() if isinstance(entry, dict) else entry)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_bundle_has_a_page_with_its_readme_and_a_picture(bundle):
    pages = [ROOT / "docs" / page for page in _pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]
    (page,) = [
        page for page in pages if f'include-markdown "../../bundles/{bundle}/docs/README.md"' in page.read_text()
    ]
    assert re.search(r"!\[[^]]+\]\(\.\./images/", page.read_text())


def test_committed_pictures_are_small():
    sizes = [path.stat().st_size for path in (ROOT / "docs/images").glob("*.jpg")]
    assert max(sizes) <= MOST_PICTURE_BYTES
    assert sum(sizes) <= MOST_PICTURES_BYTES
