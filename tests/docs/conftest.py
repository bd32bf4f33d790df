"""What the tests of the documentation share."""

from pathlib import Path

import pytest

from tests.docs.shell import ROOT, Command, commands, pages
from tests.docs.table import DOWNLOADED, VARIABLES

HIDDEN = (".git", ".venv")


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """The repository, as its pages see it: beside its own folders those that a page has its reader download."""
    folder = tmp_path_factory.mktemp("repository")
    for path in ROOT.iterdir():
        if not path.name.startswith(HIDDEN):
            (folder / path.name).symlink_to(path)
    for name, bundle in DOWNLOADED.items():
        (folder / name).symlink_to(ROOT / bundle)
    return folder


@pytest.fixture(scope="session")
def documented(tree) -> dict[str, list[Command]]:
    """The commands of each page."""
    return {page: commands((ROOT / page).read_text(), page, tree, VARIABLES) for page in pages()}
