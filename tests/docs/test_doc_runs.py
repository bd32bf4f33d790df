"""The commands of the documentation run, in the order of their pages, on small data."""

import pytest

from tests.docs.runner import Desk
from tests.docs.shell import pages
from tests.docs.table import fate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_run(page, documented, desk):
    here = [command for command in documented[page] if fate(command) is None]
    if not here:
        pytest.skip("no command of this page is run here")
    assert [f"{command}\n{said}" for command in here if (said := desk.run(command))] == []
