"""The README's first steps in Python run as written, from the repository and from a zip."""

import subprocess
import sys
import zipfile

import pytest

from monai_ext.distribution import export_bundles
from tests.docs.shell import ROOT, blocks

BUNDLE = "pathology_cell_semantic_segmentation"


@pytest.fixture(scope="module")
def first_steps():
    """The only Python block of the README."""
    text = (ROOT / "README.md").read_text()
    [(start, end)] = [(start, end) for start, end, language in blocks(text) if language == "python"]
    return "\n".join(text.splitlines()[start:end]) + "\n"


def test_the_first_steps_run_from_the_root(first_steps, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(first_steps, "README.md", "exec"), names)
    cells, instances, field = names["cells"], names["instances"], names["field"]
    assert instances.shape == (1, 512, 512)
    assert len(cells) == int(instances.max()) > len(field.uids) / 2
    assert 0.2 < names["score"].aggregate().item() < 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"{len(cells)} cells, AJI {names['score'].aggregate().item():.2f}"
    assert "nonTIL_stromal" in printed


@pytest.mark.slow
def test_the_first_steps_run_from_a_zip(first_steps, tmp_path):
    export_bundles(BUNDLE, tmp_path, bundles=ROOT / "bundles")
    [path] = tmp_path.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    assert f'"bundles/{BUNDLE}"' in first_steps
    told = f"import sys\nbundle = '{BUNDLE}'\nsys.path.insert(0, bundle)\n"
    where = "import monai_ext\nprint(monai_ext.__file__)\n"
    code = told + first_steps.replace(f'"bundles/{BUNDLE}"', f'"{BUNDLE}"') + where
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith((str(tmp_path), BUNDLE))
    assert " cells, AJI 0." in done.stdout
