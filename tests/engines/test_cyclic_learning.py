import json

import cv2
import pandas as pd
import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.engines import CyclicLearning
from tests.engines.fake_phases import BACK, FIELD, FRONT, INSIDE

FAKE = "$import tests.engines.fake_phases as fake"
PHASES = {
    "front": (
        {"ckpt_dir": "", "backbone_weights": None, "step": FRONT, "dataset_dir": ""},
        "fake.front(@ckpt_dir, @backbone_weights, @step)",
    ),
    "seeds": (
        {"front_dir": "", "output_dir": "", "test": [{"image": "a.png"}], "dataset_dir": ""},
        "fake.data_set(@output_dir, @front_dir, test=@test)",
    ),
    "back": (
        {"dataset_dir": "", "ckpt_dir": "", "backbone_weights": None, "start_from": None, "scores": {}},
        "fake.back(@ckpt_dir, @dataset_dir, @backbone_weights, @start_from, @scores)",
    ),
    "found": (
        {"masks_dir": "", "back_dir": "", "output_dir": ""},
        "fake.data_set(@output_dir, @masks_dir, @back_dir)",
    ),
}


class Place:
    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        (folder / "configs").mkdir()
        for name, (entries, run) in PHASES.items():
            content = {"imports": [FAKE], **entries, "run": [f"${run}"]}
            (folder / f"configs/{name}.json").write_text(json.dumps(content))
        evaluate = {"output_dir": "", "size": 0, "run": ["$fake.evaluate(@ckpt_dir, @output_dir, @size)"]}
        (folder / "configs/evaluate.json").write_text(json.dumps(evaluate))

    def learn(self, scores=None, **options):
        configs = {f"{name}_configs": [f"configs/{name}.json"] for name in (*PHASES, "evaluate")}
        settings = {"back": {"scores": scores or {}}}
        options = {"cycles": 2, "students": 3, "settings": settings, **options}
        return CyclicLearning(self.folder, self.out, **configs, **options)

    def backbone(self, name):
        return torch.load(self.out / name / "model.pt", weights_only=True)["backbone.w"].item()

    def networks(self):
        return sorted(path.parent.relative_to(self.out).as_posix() for path in self.out.glob("*/*/model.pt"))

    def runs(self):
        return {path.parent.relative_to(self.out).as_posix(): path.read_text() for path in self.out.rglob("log.txt")}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def cycle(number, *scores):
    return {f"cycle_{number}/student_{k}": score for k, score in enumerate(scores)}


def test_students_go_on_while_they_improve(place):
    best = place.learn(cycle(1, 0.3, 0.5, 0.6) | cycle(2, 0.7, 0.6, 0.9), patience=1).run()
    assert best == place.out / "cycle_2/student_0"
    assert place.networks() == [
        "cycle_1/front", "cycle_1/student_0", "cycle_1/student_1", "cycle_1/student_2",
        "cycle_2/front", "cycle_2/student_0", "cycle_2/student_1",
    ]  # fmt: skip
    table = pd.read_csv(place.out / "cycles.csv")
    assert table["val_dice"].tolist() == [0.3, 0.5, 0.6, 0.7, 0.6]
    assert table["student"].tolist() == [0, 1, 2, 0, 1]
    assert set(table["dice high"]) == {0.8}


# Dice of Table III: five networks of each of five cycles, the teacher first
TABLE_3 = [
    [0.6616, 0.7039, 0.7181, 0.6271, 0.6494],
    [0.6793, 0.7391, 0.7484, 0.7226, 0.7322],
    [0.7046, 0.7327, 0.6803, 0.7369, 0.6781],
    [0.6908, 0.7420, 0.7339, 0.7739, 0.7067],
    [0.6868, 0.7489, 0.7576, 0.7695, 0.7505],
]


@pytest.mark.parametrize(
    ("patience", "networks"), [(1, [4, 4, 3, 3, 5]), (2, [5, 5, 5, 5, 5]), (None, [5, 5, 5, 5, 5])]
)
def test_the_papers_networks_and_the_best_after_a_dip(place, patience, networks):
    """Five networks with the teacher, and with patience those that follow a dip, as in its cycles 3 and 4."""
    scores = {name: score for number, each in enumerate(TABLE_3, 1) for name, score in cycle(number, *each).items()}
    best = place.learn(scores, cycles=5, students=5, patience=patience).run()
    table = pd.read_csv(place.out / "cycles.csv")
    assert table.groupby("cycle").size().tolist() == networks
    assert table["val_dice"].tolist() == [s for each, n in zip(TABLE_3, networks, strict=True) for s in each[:n]]
    assert best == place.out / ("cycle_5/student_3" if patience == 1 else "cycle_4/student_3")


def test_patience_counts_students_in_a_row_without_a_new_best(place):
    scores = [0.5, 0.4, 0.6, 0.5, 0.59, 0.9]
    for patience, last in ((1, 1), (2, 4), (3, 5), (None, 5)):
        out = place.out = place.folder / f"patience_{patience}"
        best = place.learn(cycle(1, *scores), cycles=1, students=6, patience=patience).run()
        assert pd.read_csv(out / "cycles.csv")["student"].tolist() == list(range(last + 1))
        assert best == out / f"cycle_1/student_{scores.index(max(scores[: last + 1]))}"


def test_masks_are_extended_within_a_cycle_and_made_afresh_in_the_next(place):
    place.learn(cycle(1, 0.3, 0.5, 0.6)).run()
    made = {
        path.parent.relative_to(place.out).as_posix(): json.loads(path.read_text())["made_from"]
        for path in place.out.rglob("dataset.json")
    }
    one = place.out / "cycle_1"
    assert made["cycle_1/masks_1"] == [str(one / "seeds"), str(one / "student_0")]
    assert made["cycle_1/masks_2"] == [str(one / "masks_1"), str(one / "student_1")]
    assert made["cycle_2/seeds"] == [str(place.out / "cycle_2/front")]


def test_bilateral_sharing_carries_the_best_backbone_both_ways(place):
    place.learn(cycle(1, 0.3, 0.9, 0.2)).run()
    assert place.backbone("cycle_1/front") == FRONT
    assert place.backbone("cycle_1/student_0") == FRONT + BACK
    assert place.backbone("cycle_1/student_1") == FRONT + BACK  # of the front end's backbone, as the teacher
    assert place.backbone("cycle_2/front") == FRONT + BACK + FRONT
    assert place.backbone("cycle_2/student_0") == 2 * FRONT + 2 * BACK


def test_students_may_begin_with_their_teacher(place):
    place.learn(cycle(1, 0.3, 0.9, 0.2), students_begin="teacher").run()
    assert place.backbone("cycle_1/student_1") == FRONT + 2 * BACK
    assert place.backbone("cycle_1/student_2") == FRONT + 3 * BACK
    assert place.backbone("cycle_2/front") == FRONT + 2 * BACK + FRONT  # student 2 was worse


def test_the_best_network_of_all_is_handed_over(place):
    best = place.learn(cycle(1, 0.3, 0.9, 0.2) | cycle(2, 0.4, 0.5, 0.6)).run()
    assert best == place.out / "cycle_1/student_1"
    for name in ("model.pt", "history.json"):
        assert (place.out / name).read_bytes() == (best / name).read_bytes()


def test_a_picture_has_a_column_for_each_cycle(place):
    settings = {"back": {"scores": {}}, "evaluate": {"size": 40}}
    place.learn(settings=settings, pictures=2).run()
    picture = cv2.imread(str(place.out / "cycles.png"))
    side = 260  # px with its gap
    assert picture.shape == (2 * side + 22, 4 * side, 3)  # image, labels, two cycles
    cell = picture[22 : 22 + 40, :40]
    assert (cell == FIELD).all()
    for column in (1, 2, 3):
        cell = picture[22 : 22 + 40, column * side : column * side + 40]
        assert ((cell != FIELD).any(axis=2) == INSIDE).all()


def test_unilateral_sharing_goes_back_to_front_only(place):
    place.learn(sharing="unilateral", students=1).run()
    assert place.backbone("cycle_1/student_0") == BACK
    assert place.backbone("cycle_2/front") == BACK + FRONT
    assert place.backbone("cycle_2/student_0") == BACK


def test_no_sharing_repeats_the_first_cycle(place):
    place.learn(sharing="none", students=1).run()
    assert place.backbone("cycle_2/front") == FRONT
    assert place.backbone("cycle_2/student_0") == BACK


def test_what_is_done_is_not_done_again(place):
    place.learn().run()
    before = place.runs()
    assert set(before.values()) == {"run\n"}
    place.learn().run()
    assert place.runs() == before
    (place.out / "cycle_2/student_0/model.pt").unlink()
    place.learn().run()
    again = {name for name, log in place.runs().items() if log != "run\n"}
    assert "cycle_2/student_0" in again
    assert not any(name.startswith("cycle_1") or name == "cycle_2/front" for name in again)


def test_the_front_end_may_learn_otherwise_once_its_backbone_is_trained(place):
    place.learn(later_front_settings={"step": 5}, students=1).run()
    assert place.backbone("cycle_1/front") == FRONT
    assert place.backbone("cycle_2/front") == FRONT + BACK + 5


def test_no_test_list_no_test_scores(place):
    settings = {"back": {"scores": {}}, "seeds": {"test": []}}
    place.learn(settings=settings, cycles=1, students=1).run()
    assert not (place.out / "cycle_1/student_0/test").exists()
    assert pd.read_csv(place.out / "cycles.csv").columns.tolist() == ["cycle", "student", "val_dice", "folder"]


@pytest.mark.parametrize(("kind", "again"), [("front", "cycle_1/front"), ("seeds", "cycle_1/seeds")])
def test_changed_data_are_learnt_anew(place, kind, again):
    data = place.folder / "data"
    data.mkdir()
    settings = {"back": {"scores": {}}, kind: {"dataset_dir": str(data)}}
    (data / "dataset.json").write_text(json.dumps({"training": []}))
    place.learn(settings=settings, cycles=1, students=1).run()
    (data / "dataset.json").write_text(json.dumps({"training": [{"image": "more.png"}]}))
    place.learn(settings=settings, cycles=1, students=1).run()
    assert {name for name, log in place.runs().items() if log == "run\nrun\n"} >= {again}
    assert ("cycle_1/front" in {n for n, log in place.runs().items() if log != "run\n"}) == (kind == "front")


def test_one_backbone_for_all_to_begin_with(place):
    torch.save({"w": torch.tensor([7.0])}, place.folder / "imagenet.pt")
    place.learn(backbone_weights=str(place.folder / "imagenet.pt"), cycles=1, students=1).run()
    assert place.backbone("cycle_1/front") == 7 + FRONT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sharing": "both"}, "sharing: expected bilateral or unilateral or none, found 'both'"),
        ({"cycles": 0}, "cycles: expected a whole number from 1, found 0"),
        ({"students": 0}, "students: expected a whole number from 1, found 0"),
        ({"patience": 0}, "patience: expected a whole number from 1, or null, found 0"),
        ({"students_begin": "nowhere"}, "students_begin: expected front or teacher, found 'nowhere'"),
        ({"parallel": ["teacher"]}, "parallel: expected some of front, seeds, back, found, evaluate, found teacher"),
        ({"settings": {"teacher": {}}}, "settings: expected some of front, seeds, back, found, evaluate"),
    ],
)
def test_wrong_options(place, options, message):
    with pytest.raises(InputError, match=message):
        place.learn(**options)


def test_a_history_without_the_metric(place):
    with pytest.raises(InputError, match=r"history\.json: expected epochs with val_aji, found none"):
        place.learn(key_metric="val_aji", cycles=1).run()


def test_a_validation_that_has_no_score(place):
    with pytest.raises(InputError, match=r"history\.json: expected epochs with val_dice, found none"):
        place.learn(cycle(1, None), cycles=1).run()  # there was no nucleus in its images
