"""What a slide inferer decides on its own: the thumbnail's resolution, what the state and the report say."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.slides import OutputSettings, SlideInferer, SlideResult
from monai_ext.slides import inferer as module
from monai_ext.slides.outputs import _peaks
from monai_ext.slides.stains import fit_stains
from monai_ext.slides.thumbnail import slide_thumbnail
from tests.slides.conftest import ConvPredictor


@pytest.mark.parametrize(
    ("side", "base", "expected"),
    [
        (40_000, 0.25, 8.0),  # 10 mm: 1,250 px at 8 um/px
        (4_000, 0.5, 2000 / 1024),  # 2 mm: at least 1,024 px
        (400_000, 0.25, 100_000 / 4096),  # 100 mm: at most 4,096 px
        (100, 0.5, 0.5),  # never finer than the slide
    ],
)
def test_thumbnail_is_as_fine_as_telling_tissue_needs(side, base, expected, tmp_path):
    reader = SimpleNamespace(
        level0_shape=(side // 2, side), base_mpp=base, overview=lambda mpp: (("of", mpp), "valid"),
        thumbnail_scale=lambda mpp: mpp / base,
    )  # fmt: skip
    thumbnail, valid, scale = slide_thumbnail(reader)
    assert (thumbnail, valid) == (("of", pytest.approx(expected)), "valid")
    assert scale == pytest.approx(expected / base)


def entry(score, **more):
    summary = {"image": f"{score:.2f}.tif", "tissue_mm2": 2.0, "positive_mm2": 0.5, "regions": 1, "detections": 3}
    return {
        "status": "done", "name": f"{score:.2f}", "seconds": 4.0, "seconds_per_mm2": 2.0, "tiles": 7,
        "summary": {**summary, "score": score, "mean": 1 / 3}, **more,
    }  # fmt: skip


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Write the report of a state; what it was given."""

    def write(state):
        given = {}
        monkeypatch.setattr(module, "write_report", lambda path, **content: given.update(content, path=path))
        for each in state.values():
            if each["status"] == "done":
                blue = np.full((2, 3, 3), (255, 0, 0), np.uint8)  # OpenCV's order
                cv2.imwrite(str(tmp_path / f"{each['name']}_overlay.png"), blue)
        cohort = SimpleNamespace(state=state, reload=lambda: None)
        SlideInferer(ConvPredictor(), tmp_path, title="T")._write_report(cohort)
        return given

    return write


def test_report_shows_the_twelve_highest_scores(report):
    scores = [0.05 * k for k in range(1, 15)]
    content = report({f"{score}": entry(score) for score in scores})
    (name, cases), *others = content["cases"].items()
    assert (name, others) == ("Highest score", [])
    assert [caption for _, caption in cases] == [
        f"{score:.2f}.tif: score {score:.3f}, 3 detections" for score in scores[::-1][:12]
    ]
    assert all((picture == (0, 0, 255)).all() for picture, _ in cases)


def test_report_sums_what_is_done_and_names_what_failed(report, tmp_path):
    failed = {"status": "failed", "reason": "no resolution"}
    content = report({"a": entry(0.9), "b": failed, "c": entry(0.2), "d": {"status": "pending"}})
    assert content["metrics"] == {
        "slides": 2, "failed": 1, "tissue_mm2": 4.0, "positive_mm2": 1.0, "regions": 2, "detections": 6,
    }  # fmt: skip
    assert content["tables"]["Failed"] == [{"image": "b", "reason": "no resolution"}]
    table = content["tables"]["Slides"]
    assert table["mean"].tolist() == [0.3333, 0.3333]
    assert table[["seconds", "seconds_per_mm2", "tiles"]].to_numpy().tolist() == [[4.0, 2.0, 7.0]] * 2
    assert content["path"] == tmp_path / "report.html"


def test_report_of_nothing(report):
    content = report({"d": {"status": "pending"}})
    assert (content["metrics"], content["tables"]) == ({"slides": 0, "failed": 0}, {})


def test_no_room_for_the_report(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_report", full)
    with pytest.raises(InputError, match=r"report\.html: expected room for the report, found .*No space left"):
        SlideInferer(ConvPredictor(), tmp_path)._write_report(SimpleNamespace(state={}, reload=lambda: None))


def test_state_rounds_times(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"slide")
    result = SlideResult(tmp_path / "a.tif", "a", {"tissue_mm2": 3.0, "score": 0.5}, 7, 12.3456)
    cohort = SimpleNamespace(root=tmp_path)
    made = SlideInferer(ConvPredictor(), tmp_path)._entry(cohort, {"image": str(tmp_path / "a.tif")}, result)
    assert (made["seconds"], made["seconds_per_mm2"], made["tiles"], made["name"]) == (12.3, 4.115, 7, "a")
    assert made["summary"] == {"image": "a.tif", "tissue_mm2": 3.0, "score": 0.5}


def test_names_are_parted_where_two_slides_would_be_one(tmp_path):
    images = [str(tmp_path / name) for name in ("a.svs", "a.tif", "b.svs", "c/a.svs")]
    assert list(module._names(images, tmp_path).values()) == ["a.svs", "a.tif", "b", "c/a"]


@pytest.mark.parametrize(("squares", "read"), [(1, 1), (64, 64), (65, 64), (640, 64)])
def test_at_most_64_squares_evenly_chosen_tell_the_stains(squares, read):
    regions = []

    class Stains:
        def fit(self, images):
            self.images = list(images)
            return self

    reader = SimpleNamespace(read=lambda *region: regions.append(region) or np.zeros((3, 4, 4), np.uint8))
    fit_stains(Stains(), reader, [(k, 0, 4, 4) for k in range(squares)])
    rows = [row for row, *_ in regions]
    assert len(set(rows)) == len(rows) == read
    assert (rows[0], rows[-1]) == (0, squares - 1)
    assert np.ptp(np.diff(rows)) <= 1 if len(rows) > 1 else True


@pytest.mark.parametrize(("apart", "peaks"), [(75, 1), (76, 2)])
def test_peaks_within_75_um_are_one_unless_told_otherwise(apart, peaks):
    heat = np.zeros((3, 200), np.float32)
    heat[1, 10], heat[1, 10 + apart] = 0.9, 0.8
    plan = SimpleNamespace(cell_um=1.0, cell_scale=1.0, level0_shape=(3, 200))
    assert len(_peaks(heat, plan, 1, OutputSettings()).points) == peaks


@pytest.mark.parametrize(("settings", "peaks"), [({}, 1), ({"threshold": 0.4}, 2), ({"detection_threshold": 0.4}, 2),
                                                 ({"threshold": 0.4, "detection_threshold": 0.5}, 1)])  # fmt: skip
def test_peaks_are_above_their_threshold(settings, peaks):
    heat = np.zeros((3, 200), np.float32)
    heat[1, 10], heat[1, 190] = 0.51, 0.5
    plan = SimpleNamespace(cell_um=1.0, cell_scale=1.0, level0_shape=(3, 200))
    assert len(_peaks(heat, plan, 1, OutputSettings(**settings)).points) == peaks
