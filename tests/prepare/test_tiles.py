import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.tiles import load_tiles
from monai_ext.prepare.tiles import prepare_tiles

SIZE = 32


def write_image(path, shape=(40, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.RandomState(seed).randint(0, 255, (*shape, 3), np.uint8))
    return str(path)


def field(folder, name, shape=(120, 160), radius=7):
    """An image of noise and the map of its nuclei: a row of discs in the left half, ids with gaps, in 16 bits."""
    rows, cols = np.indices(shape)
    instances = np.zeros(shape, np.uint16)
    for number, row in enumerate(range(20, shape[0] - 10, 20)):
        instances[np.hypot(rows - row, cols - 30) <= radius] = 300 * number + 7
    write_image(folder / f"images/{name}.png", shape, seed=len(name))
    (folder / "labels").mkdir(exist_ok=True)
    tifffile.imwrite(folder / f"labels/{name}.tif", instances)
    return {"image": f"images/{name}.png", "label": f"labels/{name}.tif", "group": name, "mpp": 0.25}


@pytest.fixture
def fields(tmp_path):
    """Three groups, one in each part."""
    parts = ("training", "validation", "test")
    lists = {part: [field(tmp_path / "fields", f"{part}-slide")] for part in parts}
    (tmp_path / "fields/dataset.json").write_text(json.dumps(lists))
    return tmp_path / "fields"


def content(path):
    return {part: items for part, items in json.loads(Path(path).read_text()).items() if isinstance(items, list)}


def pixels(path):
    return cv2.imread(str(path))


def places(field, tile):
    """Where a tile was cut, by its pixels."""
    score = cv2.matchTemplate(field, tile, cv2.TM_SQDIFF)
    return np.argwhere(score <= score.min() + 1e-3)[0]


def test_tiles_hold_what_their_label_says(fields, tmp_path):
    found = content(prepare_tiles(fields, tmp_path / "tiles", size=SIZE, per_image=6, step=10, least=0.1))
    assert found.keys() == {"training", "validation", "test"}
    for part, items in found.items():
        image = pixels(fields / f"images/{part}-slide.png")
        instances = tifffile.imread(fields / f"labels/{part}-slide.tif")
        assert sorted(item["label"] for item in items) == [0] * 6 + [1] * 6
        corners = {0: [], 1: []}
        for item in items:
            tile = pixels(tmp_path / "tiles" / item["image"])
            row, col = places(image, tile)
            np.testing.assert_array_equal(tile, image[row : row + SIZE, col : col + SIZE])
            covered = (instances[row : row + SIZE, col : col + SIZE] > 0).mean()
            assert covered >= 0.1 if item["label"] else covered == 0
            corners[item["label"]].append((row, col))
        for own in corners.values():
            apart = np.abs(np.array(own)[:, None] - np.array(own)).max(-1)
            assert (apart[~np.eye(len(own), dtype=bool)] >= 10).all()


def test_nothing_but_the_label_is_left_of_an_outline(fields, tmp_path):
    path = prepare_tiles(fields, tmp_path / "tiles", size=SIZE)
    items = [item for items in content(path).values() for item in items]
    assert all(item.keys() == {"image", "label", "mpp", "group"} for item in items)
    assert all(item["label"] in (0, 1) for item in items)
    written = {p for p in path.parent.rglob("*") if p.is_file()}
    assert written == {path, *(path.parent / item["image"] for item in items)}
    assert all(pixels(path.parent / item["image"]).shape == (SIZE, SIZE, 3) for item in items)
    assert {item["image"].split("/")[0] for item in items} == {"positive", "negative"}


def test_tiles_are_read_again_from_the_list_and_from_the_folders(fields, tmp_path):
    path = prepare_tiles(fields, tmp_path / "tiles", size=SIZE)
    listed = load_tiles(path.parent, ("training", "validation", "test"))
    assert {part: len(items) for part, items in listed.items()} == {part: len(i) for part, i in content(path).items()}
    path.unlink()
    loose = load_tiles(path.parent, ("training", "validation", "test"))
    everything = {(item["image"], item["label"], item["group"]) for items in loose.values() for item in items}
    assert everything == {(i["image"], i["label"], i["group"]) for items in listed.values() for i in items}
    assert all(len({item["group"] for item in items}) == 1 for items in loose.values())  # a group is in one part


def test_an_images_tiles_depend_on_the_seed_and_not_on_other_images(fields, tmp_path):
    def tiles(name, **options):
        found = content(prepare_tiles(fields, tmp_path / name, size=SIZE, **options))
        return {item["image"] for item in found["training"]}

    wanted = tiles("one")
    assert tiles("again") == wanted
    assert tiles("other", seed=1) != wanted
    lists = json.loads((fields / "dataset.json").read_text())
    lists["training"].append(field(fields, "another"))
    (fields / "dataset.json").write_text(json.dumps(lists))
    assert wanted < tiles("more")


@pytest.fixture
def crowded(tmp_path):
    """Fields without a free place."""
    lists = {part: [field(tmp_path / "crowded", f"{part}-slide", (120, 60), 10)] for part in ("training", "test")}
    (tmp_path / "crowded/dataset.json").write_text(json.dumps(lists))
    return tmp_path / "crowded"


def test_without_a_free_place_one_line_says_so(crowded, tmp_path):
    expected = r"training: expected tiles with nuclei \(label 1\) and without \(0\), found \d+ of label 1 alone$"
    with pytest.raises(InputError, match=expected):
        prepare_tiles(crowded, tmp_path / "tiles", size=SIZE)
    assert not (tmp_path / "tiles").exists()


def test_negatives_of_a_folder_fill_up(crowded, tmp_path):
    for index in range(12):
        write_image(tmp_path / f"free/{index}.png", (2 * SIZE, SIZE + 5), seed=50 + index)
    found = content(prepare_tiles(crowded, tmp_path / "tiles", size=SIZE, negatives=tmp_path / "free"))
    used = {}
    for part in ("training", "test"):
        labels = [item["label"] for item in found[part]]
        assert labels.count(0) == labels.count(1) > 0
        used[part] = {item["group"] for item in found[part] if not item["label"]}
    assert not used["training"] & used["test"]  # an image's tiles are in one part
    whole = [pixels(tmp_path / f"free/{index}.png") for index in range(12)]
    for item in (item for items in found.values() for item in items if not item["label"]):
        tile = pixels(tmp_path / "tiles" / item["image"])
        assert any(np.array_equal(tile, image[row : row + SIZE, :SIZE]) for image in whole for row in (0, SIZE))


def test_negatives_of_a_data_set_stay_in_their_part(crowded, tmp_path):
    lists = {}
    for part in ("training", "test"):
        images = [f"{part}{index}.png" for index in range(20)]
        for image in images:
            write_image(tmp_path / "other" / image)
        lists[part] = [{"image": image, "label": i % 2, "group": image} for i, image in enumerate(images)]
    (tmp_path / "other/dataset.json").write_text(json.dumps(lists))
    found = content(prepare_tiles(crowded, tmp_path / "tiles", size=SIZE, negatives=[tmp_path / "other"]))
    for part in ("training", "test"):
        groups = [item["group"] for item in found[part] if not item["label"]]
        assert groups
        assert all(f"/{part}" in group for group in groups)
        assert all(int(group.split(part)[1].split(".")[0]) % 2 == 0 for group in groups)


def test_negatives_that_cannot_be_used(crowded, tmp_path):
    write_image(tmp_path / "free/small.png", (20, 50))
    with pytest.raises(InputError, match=r"small\.png: expected at least 32 px \(size\), found 20 x 50 px"):
        prepare_tiles(crowded, tmp_path / "tiles", size=SIZE, negatives=tmp_path / "free")
    with pytest.raises(InputError, match=r"nowhere: expected images without nuclei .* found no such folder"):
        prepare_tiles(crowded, tmp_path / "tiles", size=SIZE, negatives=tmp_path / "nowhere")


@pytest.mark.parametrize("options", [{"size": 0}, {"per_image": 1.5}, {"step": True}, {"least": 0}, {"least": 2}])
def test_options_out_of_range(fields, tmp_path, options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}: expected"):
        prepare_tiles(fields, tmp_path / "tiles", **options)


def test_fields_smaller_than_a_tile_give_none(fields, tmp_path):
    with pytest.raises(InputError, match=r"training: .*found none"):
        prepare_tiles(fields, tmp_path / "tiles", size=500)


@pytest.fixture
def folders(tmp_path):
    """Ten slides with three tiles of either label each."""
    for index in range(60):
        label = ("negative", "positive")[index % 2]
        write_image(tmp_path / f"tiles/{label}/slide{index // 6}/{index}.png", seed=index)
    return tmp_path / "tiles"


def test_folders_are_split_by_slide(folders):
    lists = load_tiles(folders, ("training", "validation", "test"))
    assert [len(lists[part]) for part in ("training", "validation", "test")] == [42, 6, 12]
    slides = [{item["group"] for item in items} for items in lists.values()]
    assert sum(map(len, slides)) == len(set.union(*slides)) == 10
    for items in lists.values():
        assert {item["label"] for item in items} == {0, 1}
        assert all(item["label"] == ("/positive/" in item["image"]) for item in items)


def test_what_is_wrong_with_folders(folders, tmp_path):
    with pytest.raises(InputError, match="folders positive and negative, found no negative and no positive"):
        load_tiles(tmp_path)
    with pytest.raises(InputError, match="expected a dataset folder"):
        load_tiles(tmp_path / "nowhere")
    (folders / "negative/slide1/7.png").parent.mkdir(exist_ok=True)
    (folders / "negative/slide1/bad.png").write_text("no image")
    (folders / "positive/slide1/bad.tif").write_text("no image")
    with pytest.raises(DataListError, match=r"2 problem(?s:.)*negative/slide1/bad\.png(?s:.)*positive/slide1/bad\.tif"):
        load_tiles(folders)


def test_one_class_alone(folders, tmp_path):
    for path in (folders / "negative").rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"tiles: training: expected tiles with nuclei .* found \d+ of label 1 alone$"):
        load_tiles(folders)
    write_image(tmp_path / "list/a.png")
    (tmp_path / "list/dataset.json").write_text(json.dumps({"training": [{"image": "a.png", "label": 0}]}))
    with pytest.raises(InputError, match=r"list: training: expected .* found 1 of label 0 alone$"):
        load_tiles(tmp_path / "list", ["training"])


def marked(folder, labels, **more):
    """A list of the same tiles in both parts, one group each, told by ``has_nuclei``."""
    lists = {}
    for part in ("training", "validation"):
        lists[part] = []
        for number, label in enumerate(labels):
            name = f"{part}-{number}"
            write_image(folder / f"images/{name}.png", seed=number)
            entry = {"image": f"images/{name}.png", "label": f"labels/{name}.tif", "group": name}
            lists[part].append(entry | {"has_nuclei": label} | more)
    (folder / "dataset.json").write_text(json.dumps(lists))
    return folder


def test_has_nuclei_is_the_label_where_a_map_is_beside_it(tmp_path):
    lists = load_tiles(marked(tmp_path / "phantom", [1, 0, 1]))
    assert {part: [item["label"] for item in items] for part, items in lists.items()} == {
        "training": [1, 0, 1],
        "validation": [1, 0, 1],
    }
    assert all(Path(item["image"]).is_file() for items in lists.values() for item in items)
    # the map is not looked for, and needs not be there
    assert not list(tmp_path.rglob("labels"))


@pytest.mark.parametrize("wrong", [2, "1", True, 0.5])
def test_has_nuclei_is_0_or_1(wrong, tmp_path):
    with pytest.raises(DataListError, match=r"label of .*training-0\.png: expected a whole number 0 to 1"):
        load_tiles(marked(tmp_path / "phantom", [wrong, 0, 1]))


def test_without_has_nuclei_a_map_is_no_label(tmp_path):
    with pytest.raises(DataListError, match=r"label of .*training-1\.png: expected a whole number 0 to 1"):
        load_tiles(marked(tmp_path / "phantom", [1, None, 0]))


def test_lists_of_several_folders_are_joined(folders, fields, tmp_path):
    phantom = marked(tmp_path / "phantom", [1, 0])
    tiles = prepare_tiles(fields, tmp_path / "cut", size=SIZE, per_image=2).parent
    parts = ("training", "validation")
    single = [load_tiles(folder, parts) for folder in (folders, phantom, tiles)]
    assert load_tiles([folders, str(phantom), tiles], parts) == {
        part: [item for lists in single for item in lists[part]] for part in parts
    }
    with pytest.raises(InputError, match=r"nowhere: expected a dataset folder"):
        load_tiles([folders, tmp_path / "nowhere"], parts)


def marked_by_experts(folder, sizes, count=5):
    """Tiles of several slides, each of another size, as experts mark them."""
    for label in ("positive", "negative"):
        for index in range(count):
            rng = np.random.default_rng([index, label == "positive"])
            path = folder / label / f"slide{index}" / f"{label}.png"
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), rng.integers(1, 255, (*sizes[index % len(sizes)], 3), np.uint8))
    return folder


def test_marked_tiles_are_cut_into_squares_that_cover_them(tmp_path):
    sizes = ((100, 150), (64, 64), (64, 65), (40, 90), (30, 30))
    src = marked_by_experts(tmp_path / "marked", sizes)
    found = content(prepare_tiles(src, tmp_path / "tiles", size=64, mpp=0.5))
    items = [item for part in ("training", "validation", "test") for item in found[part]]
    for label, name in enumerate(("negative", "positive")):
        for index, (height, width) in enumerate(sizes):
            whole = pixels(src / name / f"slide{index}" / f"{name}.png")
            seen = np.zeros_like(whole)
            own = [item for item in items if item["label"] == label and item["group"] == f"slide{index}"]
            assert len(own) == {0: 6, 1: 1, 2: 2, 3: 2, 4: 1}[index]
            for item in own:
                assert item["mpp"] == 0.5
                assert item["image"].startswith(f"{name}/")
                row, col = map(int, item["image"].removesuffix(".png").split("_")[-2:])
                tile = pixels(tmp_path / "tiles" / item["image"])
                assert tile.shape[:2] == (min(64, height), min(64, width))
                seen[row : row + 64, col : col + 64] = tile
            np.testing.assert_array_equal(seen, whole)
    groups = [{item["group"] for item in found[part]} for part in ("training", "validation", "test")]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 5
    assert load_tiles(tmp_path / "tiles", ("training", "test"))


def test_of_large_marked_tiles_some_squares_are_drawn(tmp_path):
    src = marked_by_experts(tmp_path / "marked", ((200, 200),))
    found = content(prepare_tiles(src, tmp_path / "tiles", size=40, per_image=3))
    assert sum(len(found[part]) for part in ("training", "validation", "test")) == 10 * 3


@pytest.mark.parametrize("option", ["step", "most", "slide_mpp", "negatives"])
def test_marked_tiles_need_no_rule(tmp_path, option):
    src = marked_by_experts(tmp_path / "marked", ((64, 64),))
    with pytest.raises(InputError, match=f"{option}: expected no such option with marked tiles"):
        prepare_tiles(src, tmp_path / "tiles", **{option: 1})
