"""Every bundle, over every circumstance of the torture set, as fields and as slides: the numbers are the picture's.

Each file is compared with the plainest one that says the same (:func:`tests.formats.torture.write_reference`), and its
areas with what its size and resolution make them. The networks are those that ship: they see the same pixels over and
over, so what they gave is remembered.
"""

import hashlib
import io
import json
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from monai.bundle import ConfigParser

from monai_ext.formats import open_levels, read_geojson
from monai_ext.formats.suffixes import without_suffix
from tests.bundles.conftest import BUNDLES
from tests.configs import config_files
from tests.formats.torture import BY_NAME, CIRCUMSTANCES, Circumstance, write_reference

pytestmark = [pytest.mark.slow, pytest.mark.dear("mitosis")]

AREA_TOLERANCE = 1e-3
TISSUE_TOLERANCE = 0.1  # of the same tissue at another resolution
# after compression with loss, or from a level reduced by another filter: of all objects; of scores and single classes
COUNT_TOLERANCE, SCORE_TOLERANCE = 0.05, 0.2
BESIDE_GAPS = 0.15  # of counts, there
TOTALS = {"cells", "count", "detections", "cells_per_mm2"}
PLACE_TOLERANCE = 1e-6  # px
OF_TIME = {"seconds", "seconds_per_mm2"}
NAMES = {"image", "slide", "vessel"}

WAYS = {"fields": ["inference"], "slides": ["inference", "slides"]}
RUNS = [
    pytest.param((bundle, way), id=f"{bundle.name.removeprefix('pathology_')} {way}")
    for bundle in BUNDLES
    for way, names in WAYS.items()
    if (bundle / f"configs/{names[-1]}.json").is_file()
]


REFERENCES: dict[str, str] = {}  # by the circumstance's name


def reference_of(circumstance: Circumstance, is_slide: bool | None = None) -> str:
    """The name of the plain file that says the same; without a resolution a slide is compared with a slide."""
    if is_slide is not None:
        said = (circumstance.pixels().tobytes(), circumstance.mpp, is_slide or circumstance.mpp is not None)
        REFERENCES[circumstance.name] = hashlib.sha256(repr(said).encode()).hexdigest()[:12]
    return REFERENCES[circumstance.name]


@pytest.fixture(scope="session")
def torture(tmp_path_factory) -> Path:
    """A folder of all circumstances, and below it of what they are compared with."""
    folder = tmp_path_factory.mktemp("torture")
    (folder / "references").mkdir()
    for circumstance in CIRCUMSTANCES:
        if not circumstance.missing:
            circumstance.make(folder)
        if circumstance.refused or circumstance.missing:
            continue
        is_slide = open_levels(folder / f"{circumstance.stem}{circumstance.suffix}")[1]
        reference = folder / f"references/{reference_of(circumstance, is_slide)}.tif"
        if not reference.exists():
            write_reference(circumstance, reference, tiled=is_slide or circumstance.mpp is not None)
    return folder


def remembering(call):
    """Calls with equal tensors are computed once."""
    memory = {}

    def remembered(self, *args, **kwargs):
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        digest = hashlib.sha256()
        for tensor in tensors:
            array = np.ascontiguousarray(torch.as_tensor(tensor).cpu().numpy())
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(array)
        key = digest.digest()
        if key not in memory:
            memory[key] = call(self, *args, **kwargs)
        return deepcopy(memory[key])

    return remembered


@dataclass
class Run:
    """What a bundle made of the folder."""

    way: str
    folder: Path
    code: int
    said: str
    rows: pd.DataFrame
    state: dict
    report: str
    geojson: dict = field(default_factory=dict)

    def row(self, image: str) -> pd.Series:
        return self.rows.loc[image]

    def status(self, image: str) -> dict:
        (entry,) = (entry for path, entry in self.state.items() if path.endswith(f"/{image}"))
        return entry

    def features(self, image: str):
        path = self.folder / f"{without_suffix(image)}.geojson"
        return read_geojson(path) if path.is_file() else None


@pytest.fixture(scope="session", params=RUNS)
def run(request, torture, tmp_path_factory):
    bundle, way = request.param
    output = tmp_path_factory.mktemp("results")
    parser = ConfigParser()
    parser.read_config(config_files(bundle, *WAYS[way]))
    parser.update({
        "bundle_root": str(bundle), "dataset_dir": str(torture), "output_dir": str(output), "device": "cpu",
    })  # fmt: skip
    said, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        for expression in parser.get("initialize"):
            if "determinism" in expression:
                parser.get_parsed_content("initialize")
                break
        owner = parser.get_parsed_content("slides" if way == "slides" else "evaluator")
        computer = owner.predictor if way == "slides" else owner.inferer
        patch.setattr(type(computer), "__call__", remembering(type(computer).__call__))
        try:
            parser.get_parsed_content("run")
        except SystemExit as end:
            code = end.code
    yield Run(
        way, output, code, said.getvalue(),
        pd.read_csv(output / "summary.csv").set_index("image"),
        json.loads((output / "state.json").read_text()),
        (output / "report.html").read_text(),
    )  # fmt: skip
    shutil.rmtree(output)


def file_of(circumstance: Circumstance) -> str:
    if circumstance.missing:
        pytest.skip(circumstance.missing)
    return f"{circumstance.stem}{circumstance.suffix}"


READ = [pytest.param(c, id=c.name) for c in CIRCUMSTANCES if not c.refused]
REFUSED = [pytest.param(c, id=c.name) for c in CIRCUMSTANCES if c.refused]


@pytest.mark.parametrize("circumstance", READ)
def test_numbers_are_those_of_the_plain_file(run, circumstance):
    image = file_of(circumstance)
    reference = f"references/{reference_of(circumstance)}.tif"
    entry, plain = run.status(image), run.status(reference)
    assert entry["status"] == plain["status"], entry.get("reason")
    if plain["status"] == "failed":  # a vessel without a cell
        assert_same_reason(entry["reason"], plain["reason"])
        return
    row, expected = run.row(image), run.row(reference)
    exact = circumstance.tolerance == (0, 0) and not re.search("levels|BigTIFF", circumstance.name)
    # what lies beside a gap is on tissue or not as the mask's edge runs: a gap has none of its own, white glass a seam
    beside_gaps = run.way == "slides" and circumstance.valid is not None
    # passes are remembered here, and tissue is looked at in those that are made
    for column in sorted(set(run.rows.columns) - OF_TIME - NAMES - {"warnings", "foreign_share"}):
        if circumstance.valid is not None and re.search("[um]m2|share|^mean$", column):
            if run.way == "slides" and pd.notna(expected[column]):  # of a field: test_areas_are_those_of_the_picture
                if "per_mm2" in column and column not in TOTALS:
                    continue  # of single classes, as below
                tolerance = BESIDE_GAPS if "per_mm2" in column else TISSUE_TOLERANCE
                assert row[column] == pytest.approx(expected[column], rel=tolerance), column
            continue
        if not exact and column not in TOTALS and re.search("per_mm2|share|sTIL|TIL|ratio", column):
            continue  # of single classes, of which a cell more or less is much; their numbers are compared
        if beside_gaps and column not in TOTALS:
            continue
        assert_same(
            column, row[column], expected[column], exact and not beside_gaps, BESIDE_GAPS if beside_gaps else None
        )
    ours, theirs = run.features(image), run.features(reference)
    assert (ours is None) == (theirs is None)
    if ours is not None and exact and not beside_gaps:
        assert len(ours) == len(theirs)
        assert shapely.equals_exact(ours.geometry, theirs.geometry, PLACE_TOLERANCE).all()


def assert_same_reason(one: str, other: str) -> None:
    assert one.partition(": ")[2] == other.partition(": ")[2]


def assert_same(column: str, value: object, expected: object, exact: bool, total: float | None = None) -> None:
    numbers = isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))
    if not numbers or pd.isna(expected) or exact:
        assert value == expected or (pd.isna(value) and pd.isna(expected)), column
    else:
        tolerance = (total or COUNT_TOLERANCE) if column in TOTALS else SCORE_TOLERANCE
        least = 2 if float(expected).is_integer() else 0  # objects
        assert abs(value - expected) <= max(least, tolerance * abs(expected)), column


@pytest.mark.parametrize("circumstance", READ)
def test_areas_are_those_of_the_picture(run, circumstance):
    """By its size and resolution, not by another file; and none at all where it states no resolution."""
    image = file_of(circumstance)
    if run.status(image)["status"] == "failed":
        pytest.skip("the plain file fails as well")
    row = run.row(image)
    if circumstance.mpp is None:
        physical = [name for name in row.index if re.search(r"[um]m2", name)]
        assert row[physical].isna().all(), row[physical].dropna().to_dict()
        assert "--mpp" in run.said
        return
    valid = np.ones(circumstance.pixels().shape[:2], bool) if circumstance.valid is None else circumstance.valid()
    pixel = circumstance.mpp[0] * circumstance.mpp[1] * 1e-6
    if "area_mm2" in row:
        assert row["area_mm2"] == pytest.approx(valid.sum() * pixel, rel=AREA_TOLERANCE)
    if "tissue_mm2" in row and circumstance.pixels is BY_NAME["one level in tiles"].pixels:
        plain = run.row(file_of(BY_NAME["one level in tiles"]))["tissue_mm2"] / 0.25**2 * 1e6
        assert row["tissue_mm2"] / pixel == pytest.approx(plain, rel=TISSUE_TOLERANCE)


def test_something_is_in_the_picture(run):
    """Else equal numbers would prove nothing."""
    row = run.row(file_of(BY_NAME["one level in tiles"]))
    counts = [row[name] for name in ("cells", "count", "detections") if name in row] or [row["score"]]
    assert counts
    assert min(counts) > 0
    assert run.row(file_of(BY_NAME["last tiles never written"]))[row.index].ne(row).any()


def test_a_blue_cast_leaves_the_tissue_where_it_is(run):
    if "tissue_mm2" not in run.rows:
        pytest.skip("fields have no tissue mask")
    cast, plain = (run.row(file_of(BY_NAME[name])) for name in ("glass with a blue cast", "one level in tiles"))
    assert cast["tissue_mm2"] == pytest.approx(plain["tissue_mm2"], rel=TISSUE_TOLERANCE)


@pytest.mark.parametrize("circumstance", REFUSED)
def test_refused_files_are_named_in_one_line(run, circumstance):
    image = file_of(circumstance)
    entry = run.status(image)
    assert entry["status"] == "failed"
    assert "\n" not in entry["reason"]
    assert re.search(circumstance.refused, entry["reason"].partition(image)[2])
    assert image not in run.rows.index
    assert len([line for line in run.said.splitlines() if image in line and "expected" in line]) == 1


@pytest.mark.parametrize("circumstance", [pytest.param(c, id=c.name) for c in CIRCUMSTANCES if c.warns])
def test_what_is_doubtful_stands_in_log_summary_and_report(run, circumstance):
    image = file_of(circumstance)
    assert [line for line in run.said.splitlines() if image in line and re.search(circumstance.warns, line)]
    assert re.search(circumstance.warns, " ".join(map(str, run.row(image))))
    assert re.search(circumstance.warns, run.report)


def test_nothing_else_is_a_slide(run):
    """Neither the JPEGs that a slide names, nor whatever else lies beside it; and failures end with code 1."""
    made = {f"{c.stem}{c.suffix}" for c in CIRCUMSTANCES if not c.missing}
    others = {Path(path).name for path in run.state if "/references/" not in path}
    assert others == made
    assert run.code == 1
