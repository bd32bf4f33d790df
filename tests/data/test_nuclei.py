"""Patches of nuclei: files, checks, draws, the teacher's labels."""

import contextlib
import json
import pickle
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import DataLoader

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data import (
    NucleusPatches,
    TeacherLabels,
    check_nuclei_item,
    crop_patches,
    expert_nuclei,
    load_datalist,
    read_class_names,
    write_nuclei,
)
from monai_ext.data.nuclei import read_nuclei, read_patches
from monai_ext.inferers import PatchClassifier
from monai_ext.networks import InputConvention
from monai_ext.phantom import write_nucleus_patches
from tests.nuclei import COLOURS, NAMES, planted

HALF = 2e-3  # float16 of scores below 1
NOISE_TOLERANCE = 0.06  # three standard errors of a share of some 500 nuclei


@pytest.fixture
def folder(tmp_path):
    return planted(tmp_path / "data")


@pytest.fixture
def lists(folder):
    return load_datalist(folder, check=partial(check_nuclei_item, class_names=NAMES, annotations="wsa", size=16))


# -- reading -----------------------------------------------------------------------------------------------------------


def test_samples_are_the_rows_of_the_files(lists):
    nuclei = NucleusPatches(lists["training"], "ea", NAMES)
    wanted = []
    for item in lists["training"]:
        patches, table = np.load(item["image"]), pd.read_csv(item["label"], keep_default_na=False)
        for row, name in enumerate(table["ea"]):
            if name in NAMES:
                wanted.append((patches[row], NAMES.index(name), item["group"], item["image"], row))
    assert len(nuclei) == len(wanted)
    for index, (patch, label, group, file, row) in enumerate(wanted):
        sample = nuclei[index]
        assert (sample["image"] == patch.transpose(2, 0, 1)).all()
        assert (sample["label"], sample["group"], sample["file"], sample["row"]) == (label, group, file, row)
        assert sample["index"] == index
    assert nuclei.labels.tolist() == [label for _, label, *_ in wanted]
    assert nuclei.groups.tolist() == [group for _, _, group, *_ in wanted]
    chosen = [7, 0, 20, 7]
    assert (nuclei.patches(chosen) == np.stack([wanted[index][0] for index in chosen])).all()


def test_background_and_empty_are_left_out(lists):
    nuclei = NucleusPatches(lists["training"], "ea", NAMES)
    assert sum(nuclei.counts().values()) == len(nuclei) == 2 * (24 - 1 - 5 + 0)
    every = NucleusPatches(lists["training"], None, NAMES)
    assert len(every) == 48
    assert set(every.labels) == {-1}


def test_transform_and_workers(lists):
    nuclei = NucleusPatches(lists["training"], "wsa", NAMES, transform=lambda s: s | {"image": s["image"] / 255})
    alone = torch.cat([batch["image"] for batch in DataLoader(nuclei, batch_size=8)])
    workers = torch.cat([batch["image"] for batch in DataLoader(nuclei, batch_size=8, num_workers=2)])
    assert torch.equal(alone, workers)
    assert alone.max() <= 1
    nuclei.transform = None
    nuclei[0]
    assert len(pickle.dumps(nuclei)) < 10_000 < sum(np.load(i["image"]).nbytes for i in lists["training"])


def test_patches_stay_on_disk(lists):
    assert isinstance(read_patches(lists["test"][0]["image"]), np.memmap)


def test_scales(folder):
    path = folder / "nuclei/training0.csv"
    table = pd.read_csv(path, keep_default_na=False)
    table.loc[:9, "scale"] = 4
    table.to_csv(path, index=False)
    items = load_datalist(folder, ["training"], check=None)["training"]
    assert len(NucleusPatches(items[:1], "wsa", NAMES, scales=[4])) == 10
    assert len(NucleusPatches(items[:1], "wsa", NAMES, scales=[1, 4])) == 23
    with pytest.raises(InputError, match=r"found none in 1 tables at the scales \[2\]"):
        NucleusPatches(items[:1], "wsa", NAMES, scales=[2])


def test_weights_of_classes_make_them_count_alike(lists):
    nuclei = NucleusPatches(lists["training"], "ea", NAMES)
    numbers = torch.tensor(list(nuclei.counts().values()), dtype=torch.float32)
    assert len(set(numbers.tolist())) > 1
    assert torch.equal(nuclei.class_weights(0), torch.ones(len(NAMES)))
    alike = nuclei.class_weights(1) * numbers
    assert alike.numpy() == pytest.approx(numbers.sum().item() / len(NAMES))
    half = nuclei.class_weights(0.5)
    assert (half * numbers).sum().item() == pytest.approx(numbers.sum().item())
    assert (half[0] / half[1]).item() == pytest.approx((numbers[1] / numbers[0]).sqrt().item())
    more = NucleusPatches(lists["training"], "ea", [*NAMES, "nowhere"])
    assert more.class_weights(1).tolist() == [*nuclei.class_weights(1).tolist(), 0]
    with pytest.raises(InputError, match="balance"):
        nuclei.class_weights(2)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "No columns to parse"),
        ("row,col,scale\n", "the header row,col,scale,one or more annotations"),
        ("row;col;scale;wsa\n", "the header"),
        ("row,col,scale,w_a\n", "made of letters"),
        ("row,col,scale,wsa,wsa\n", "wsa.1"),
        ("row,col,scale,wsa\n1,two,1,immune\n", "'two'"),
        ("row,col,scale,wsa\n1,2,1,immune\n1,inf,1,immune\n", "numbers as row,col, found 1,inf,1 in line 3"),
        ("row,col,scale,wsa\n1,2,3,immune\n", "scale 1, 2 or 4, found 1,2,3 in line 2"),
        ("row,col,scale,wsa\n1,2\n", "scale 1, 2 or 4, found 1,2,nan in line 2"),
        ("row,col,scale,wsa\n1,2,1,immune,5\n", "a table of nuclei"),
        ("row,col,scale,wsa\n1,2,1,immune\n1,2,1,immune,5\n", "Expected 4 fields in line 3, saw 5"),
        ("row,col,scale,wsa\n1,2,1,\xe9\n", "utf-8"),
        (
            "row,col,scale,wsa\n1,2,1,imune\n1,2,1,7\n",
            "other, immune, muscle, background or nothing as wsa, found '7', 'imune'",
        ),
    ],
)
def test_bad_tables_are_one_line(text, expected, tmp_path):
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    item = {"image": str(tmp_path / "a.npy"), "label": str(tmp_path / "a.csv")}
    np.save(item["image"], np.zeros((max(0, text.count("\n") - 1), 16, 16, 3), np.uint8))
    problems = check_nuclei_item(item, NAMES)
    assert len(problems) == 1
    assert problems[0].startswith(f"{item['label']}: expected ")
    assert expected in problems[0]
    assert "\n" not in problems[0]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_usual_dialects_are_read(end, mark, tmp_path):
    (tmp_path / "a.csv").write_bytes((mark + end.join(["row,col,scale,wsa", "1.5,2,1,NA", "3,4,2,"])).encode())
    table = read_nuclei(tmp_path / "a.csv")
    assert table["row"].tolist() == [1.5, 3]
    assert table["wsa"].tolist() == ["NA", ""]  # a class may have any name


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_input_error(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            assert set(read_nuclei(path)) > {"row", "col", "scale"}


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 16, 16, 3)),
        np.zeros((2, 16, 8, 3), np.uint8),
        np.zeros((2, 3, 16, 16), np.uint8),
        np.zeros(3, np.uint8),
    ],
    ids=["float", "oblong", "channel first", "flat"],
)
def test_bad_patches(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"RGB patches, uint8 \(N, S, S, 3\)"):
        read_patches(tmp_path / "a.npy")


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="patches of nuclei"):
        read_patches(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="one array"):
        read_patches(tmp_path / "b.npz")


def test_all_problems_come_together(folder):
    np.save(folder / "patches/training0.npy", np.zeros((5, 32, 32, 3), np.uint8))
    (folder / "patches/training1.npy").write_bytes(b"cut")
    (folder / "nuclei/validation0.csv").write_text("row,col,scale,ssa\n")
    check = partial(check_nuclei_item, class_names=NAMES, annotations=["wsa", "ea"], size=16)
    with pytest.raises(DataListError) as caught:
        load_datalist(folder, check=check)
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    for part in (
        "patches of 16 px",
        "each of the 5 patches",
        "training1.npy",
        "a column wsa, ea, found ssa",
        "of the 24 p",
    ):
        assert part in text


@pytest.mark.parametrize(
    "names", [None, "abc", ["one"], ["a", "a"], ["a", "background"], ["a", 3], ["a", " b"], ["a", ""]]
)
def test_bad_class_names(names, tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"class_names": names}))
    with pytest.raises(InputError, match="class_names"):
        read_class_names(tmp_path)


def test_writing_refuses_what_reading_would(tmp_path):
    patches, table = np.zeros((2, 16, 16, 3), np.uint8), {"row": [1, 2], "col": [1, 2], "scale": 1, "wsa": ["a", ""]}
    assert write_nuclei(tmp_path, "x/y", patches, table) == {"image": "patches/x/y.npy", "label": "nuclei/x/y.csv"}
    for wrong in ({"patches": patches[:1]}, {"patches": patches / 2}, {"table": table | {"scale": 3}}):
        with pytest.raises(InputError):
            write_nuclei(tmp_path, "bad", **({"patches": patches, "table": table} | wrong))
    assert not list(tmp_path.glob("nuclei/*.csv"))


# -- draws -------------------------------------------------------------------------------------------------------------


def keys(nuclei):
    return {(nuclei[i]["file"], nuclei[i]["row"]) for i in range(len(nuclei))}


def test_balanced_draw(lists):
    five = NucleusPatches(lists["training"], "wsa", NAMES, per_class=5, seed=1)
    assert five.counts() == dict.fromkeys(NAMES, 5)
    assert keys(five) == keys(NucleusPatches(lists["training"], "wsa", NAMES, per_class=5, seed=1))
    assert keys(five) != keys(NucleusPatches(lists["training"], "wsa", NAMES, per_class=5, seed=2))
    assert keys(five) < keys(NucleusPatches(lists["training"], "wsa", NAMES, per_class=6, seed=1))
    with pytest.raises(InputError, match="at least 99 nuclei of each class, found 16 other, 16 immune, 14 muscle"):
        NucleusPatches(lists["training"], "wsa", NAMES, per_class=99)


@pytest.mark.parametrize("split", ["lists", "remainder"])
def test_expert_nuclei(lists, split):
    parts = expert_nuclei(lists, "ea", NAMES, 6, split=split, held=0.34, seed=3)
    assert parts["training"].counts() == dict.fromkeys(NAMES, 4)
    assert parts["validation"].counts() == dict.fromkeys(NAMES, 2)
    whole = NucleusPatches([i for part in lists.values() for i in part], "ea", NAMES)
    sets = [keys(part) for part in parts.values()]
    assert all(not a & b for a, b in ((sets[0], sets[1]), (sets[0], sets[2]), (sets[1], sets[2])))
    if split == "remainder":
        assert set.union(*sets) == keys(whole)
    else:
        assert sets[2] == keys(NucleusPatches(lists["test"], "ea", NAMES))
        groups = [set(part.groups) for part in parts.values()]
        assert not groups[0] & groups[1]
        assert not groups[1] & groups[2]


@pytest.mark.parametrize("split", ["lists", "remainder"])
def test_experts_of_some_scales(folder, split):
    for path in folder.glob("nuclei/*.csv"):
        table = pd.read_csv(path, keep_default_na=False)
        table.loc[1::2, "scale"] = 4
        table.to_csv(path, index=False)
    lists = load_datalist(folder, check=None)
    parts = expert_nuclei(lists, "ea", NAMES, 2, split=split, scales=[1])
    everything = [item for part in lists.values() for item in part]
    if split == "lists":
        number, items = len(parts["test"]), lists["test"]
    else:
        number, items = sum(map(len, parts.values())), everything
    assert number == len(NucleusPatches(items, "ea", NAMES, scales=[1])) < len(NucleusPatches(items, "ea", NAMES))


@pytest.mark.parametrize(
    "options",
    [{"per_class": 1}, {"per_class": 2.5}, {"split": "x"}, {"held": 0}, {"per_class": 40, "split": "remainder"}],
    ids=str,
)
def test_bad_expert_arguments(lists, options):
    with pytest.raises(InputError, match="expected"):
        expert_nuclei(lists, "ea", NAMES, **({"per_class": 4} | options))


# -- crops -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(-3, 25), st.integers(-3, 30))
def test_crops_equal_those_of_a_padded_image(size, row, col):
    image = np.random.RandomState(0).randint(0, 255, (20, 25, 3), np.uint8)
    padded = np.pad(image, ((20, 20), (20, 20), (0, 0)))
    top, left = row + 20 - size // 2, col + 20 - size // 2
    assert (crop_patches(image, [[row, col]], size)[0] == padded[top : top + size, left : left + size]).all()


def test_no_crops():
    assert crop_patches(np.zeros((5, 5, 3), np.uint8), np.empty((0, 2)), 4).shape == (0, 4, 4, 3)


# -- the teacher's labels ----------------------------------------------------------------------------------------------


class NearestColour(torch.nn.Module):
    """A teacher that is always right, and counts the patches it has seen."""

    def __init__(self):
        super().__init__()
        self.register_buffer("colours", torch.tensor(COLOURS[:3], dtype=torch.float32))
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return -torch.cdist(x.mean((2, 3)), self.colours) / 100


def teach(lists, folder, network, **options):
    classifier = PatchClassifier(network, InputConvention(std=(1, 1, 1)), batch_size=7, device="cpu", **options)
    return TeacherLabels(lists["training"], folder, folder / "taught", classifier)


def test_teacher_gives_the_labels(lists, folder):
    teacher = teach(lists, folder, NearestColour())
    nuclei = NucleusPatches(lists["training"], "wsa", NAMES, teacher=teacher)
    plain = NearestColour()
    for index in range(len(nuclei)):
        sample = nuclei[index]
        assert sample["label"].argmax() == nuclei.labels[index]
        expected = plain(torch.tensor(sample["image"])[None].float())[0]
        assert np.abs(sample["label"] - expected.numpy()).max() < HALF
    every = NucleusPatches(lists["training"], None, NAMES, teacher=teacher, per_class=None)
    assert len(every) == 48
    assert nuclei.subset([3])[0]["label"].tolist() == nuclei[3]["label"].tolist()
    taught = np.bincount([int(every[index]["label"].argmax()) for index in range(len(every))], minlength=len(NAMES))
    weights = torch.tensor(48 / (np.count_nonzero(taught) * np.maximum(taught, 1)) * (taught > 0))
    assert torch.allclose(every.class_weights(1), weights.float()), "without annotation, the teacher's classes count"


def test_teacher_runs_once_and_goes_on(lists, folder):
    network = NearestColour()
    teach(lists, folder, network)
    assert network.seen == 48
    teach(lists, folder, network)
    assert network.seen == 48
    (folder / "taught/patches/training1.npy").unlink()  # as if it had been stopped there
    teach(lists, folder, network)
    assert network.seen == 72
    np.save(lists["training"][0]["image"], np.load(lists["training"][0]["image"])[::-1])
    teach(lists, folder, network)
    assert network.seen == 96
    network.colours += 1  # another teacher
    teach(lists, folder, network)
    assert network.seen == 144


def test_teacher_of_other_classes(lists, folder):
    teacher = teach(lists, folder, NearestColour())
    with pytest.raises(InputError, match="expected 24 x 4 scores of the teacher"):
        NucleusPatches(lists["training"], "wsa", [*NAMES, "fourth"], teacher=teacher)


# -- the phantom -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_phantom(tmp_path):
    path = write_nucleus_patches(tmp_path / "d", slides=3, fields=1, size=256, patch=16, scales=(1, 2), seed=4)
    names = read_class_names(path.parent)
    check = partial(check_nuclei_item, class_names=names, annotations=["wsa", "ssa", "ea"], size=16)
    lists = load_datalist(path.parent, check=check)
    table = pd.concat([read_nuclei(i["label"]).astype(str) for part in lists.values() for i in part])
    assert set(table["scale"]) == {"1.0", "2.0"}
    known = table[table["ea"] != "background"]
    wrong = {name: known[name] != known["ea"] for name in ("wsa", "ssa")}
    assert wrong["wsa"].mean() == pytest.approx(0.25, abs=NOISE_TOLERANCE)
    assert wrong["ssa"].mean() == pytest.approx(0.12, abs=NOISE_TOLERANCE)
    assert not (wrong["ssa"] & ~wrong["wsa"]).any()
    again = write_nucleus_patches(tmp_path / "e", slides=3, fields=1, size=256, patch=16, scales=(1, 2), seed=4)
    assert again.read_bytes() == path.read_bytes()
    for file in sorted(path.parent.rglob("*.[nc][ps][yv]")):
        assert file.read_bytes() == (again.parent / file.relative_to(path.parent)).read_bytes()
    with pytest.raises(InputError, match="ssa_noise"):
        write_nucleus_patches(tmp_path / "f", ssa_noise=0.5, wsa_noise=0.2)
