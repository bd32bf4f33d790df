"""Annotators' clients at a real MONAI Label server: what they ask for, and what they get."""

import json
import socket
import threading
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import tifffile
import torch

from monai_ext.formats.image import read_mask
from monai_ext.formats.outlines import label_map_to_polygons, polygons_to_mask
from monai_ext.formats.point_files import read_points
from tests.bundles.conftest import BUNDLES
from tests.label.conftest import CORNERS, FIELD, IMAGE, phantom

MODELS = [path.name for path in BUNDLES]
NUCLEI = ["pathology_nuclei_instance_segmentation", "pathology_cell_semantic_segmentation"]
MITOSIS = "pathology_mitosis_segmentation"
METASTASIS = "pathology_metastasis_evidence_localization"
VESSELS = "pathology_mvi_vessel_classification"
LEAST_IOU = 0.6  # of the outlined area with the phantom's nuclei
MITOSIS_RADIUS_PX = 30
TEMPLATE_PX = 40  # px of the slide: a cell at the outline may be centred beyond it

pytestmark = pytest.mark.slow


def polygons(answer):
    """The outlines in an answer, whatever its format."""
    assert answer.status == 200, answer.body
    if answer.kind.endswith("xml"):
        rings = [
            [(float(c.get("X")), float(c.get("Y"))) for c in annotation.iter("Coordinate")]
            for annotation in ET.fromstring(answer.body).iter("Annotation")
        ]
    elif "annotations" in answer.json:
        rings = [
            ring
            for part in answer.json["annotations"]
            for element in part["annotation"]["elements"]
            for ring in element["contours"]
        ]
    else:
        rings = [[p[:2] for p in element["points"]] for element in answer.json["elements"]]
    return shapely.polygons([shapely.linearrings(ring) for ring in rings]) if rings else np.zeros(0, object)


def iou(found, truth):
    return (found & truth).sum() / (found | truth).sum()


def test_info_names_every_bundle(server):
    info = server.send("GET", "/info/").json
    assert sorted(info["models"]) == sorted(info["trainers"]) == MODELS
    for model in info["models"].values():
        assert model["pathology"]
        assert set(model["config"]["label_colors"]) == set(model["labels"])
    assert "uncertainty" in info["strategies"]
    assert sorted(info["scoring"]) == MODELS


@pytest.mark.skipif(
    not any((path / "models/model.pt").is_file() for path in BUNDLES if path.name == VESSELS),
    reason=f"no weights in bundles/{VESSELS}/models",
)
def test_cancerous_patches_lie_on_cancerous_cells(server, base):
    """More often than chance would have it: than on any cell that was found."""
    folder, options = base / "vessels", ("--slides", 6, "--vessels", 2, "--invaded", 0.5, "--radius", "(60,75)")
    found = phantom("vessels", folder, *options)
    on_cancerous, on_any = [], []
    for item in (each for part in ("training", "validation", "test") for each in found[part] if each["label"]):
        _, lumens = label_map_to_polygons(read_mask(folder / item["mask"]))
        lumen = max(shapely.get_parts(lumens), key=shapely.area)
        params = {"outline": shapely.get_coordinates(lumen.exterior).tolist()}
        wsi = json.dumps({"level": 0, "location": [0, 0], "size": [0, 0], "tile_size": [1024, 1024], "params": params})
        answer = server.send(
            "POST", f"/infer/wsi_v2/{VESSELS}?output=json", {"wsi": wsi}, {"file": folder / item["image"]}
        )
        objects = {each["label"]: each for each in answer.json["annotations"][0]["annotation"]["elements"]}
        if "Cancerous patch" not in objects:
            continue
        area = shapely.union_all(shapely.polygons(objects["Cancerous patch"]["contours"]))
        cells = [xy for name in ("Tumor", "Healthy cell") if name in objects for xy in objects[name]["points"]]
        cancerous = read_points(folder / item["centroids"])[:, ::-1] + 0.5
        on_cancerous += shapely.contains_xy(area, cancerous).tolist()
        on_any += shapely.contains_xy(area, np.array(cells)).tolist()
    assert on_cancerous, "no invaded vessel was found"
    assert np.mean(on_cancerous) > np.mean(on_any)


@pytest.mark.parametrize("model", MODELS)
def test_infer_edit_train_infer(server, model, tmp_path):
    path = f"/infer/{model}?image={IMAGE}&output="
    image = server.send("POST", f"{path}image")
    assert (image.status, image.kind) == (200, "image/png")
    (tmp_path / "label.png").write_bytes(image.body)
    label = cv2.imread(str(tmp_path / "label.png"), cv2.IMREAD_UNCHANGED)
    assert label.shape == (FIELD, FIELD)
    assert label.dtype == np.uint16
    if model in NUCLEI:
        assert iou(label > 0, read_mask(server.studies / f"labels/final/{IMAGE}.tif") > 0) > LEAST_IOU
    answer = server.send("POST", f"{path}json").json
    assert answer["label_names"] == server.send("GET", "/info/").json["models"][model]["labels"]

    label[label == label.max()] = 0  # a correction
    label[10:20, 10:20] = label.max() + 1
    cv2.imwrite(str(tmp_path / "edited.png"), label)
    assert server.save_label(IMAGE, tmp_path / "edited.png").status == 200
    saved = server.send("GET", f"/datastore/label?label={IMAGE}&tag=final")
    assert saved.body == (tmp_path / "edited.png").read_bytes()

    weights = server.app / "model" / model / "models/model.pt"
    before = weights.read_bytes()
    server.train(model, max_epochs=1, val_split=0.2)
    assert weights.read_bytes() != before
    history = json.loads(weights.with_name("history.json").read_text())
    assert len(history) == 1
    assert len(history[0]) > 3  # it was validated
    assert server.send("POST", f"{path}image").status == 200


@pytest.mark.parametrize("output", ["asap", "dsa", "json"])
@pytest.mark.parametrize("model", NUCLEI)
def test_outlines_lie_on_the_nuclei_of_the_slide(server, base, model, output):
    truth = np.load(base / "truth.npy")
    x, y = CORNERS["nuclei"]
    location, size = (x + 20, y + 40), (200, 180)
    found = polygons(server.region(model, "slide", location, size, output))
    assert len(found)
    centres = shapely.get_coordinates(shapely.centroid(found))
    assert ((centres >= location) & (centres < np.add(location, size))).all()
    inside = (slice(location[1], location[1] + size[1]), slice(location[0], location[0] + size[0]))
    drawn = polygons_to_mask(found, truth.shape)
    best = iou(drawn[inside], truth[inside] > 0)
    assert best > LEAST_IOU
    for shift in ((0, 3), (0, -3), (3, 0), (-3, 0)):  # px of level 0: no offset
        assert iou(np.roll(drawn, shift, (0, 1))[inside], truth[inside] > 0) < best


def test_colours_and_resolution_are_the_client_s(server):
    """What ``params`` may say of a request."""
    model, size = NUCLEI[0], (FIELD, FIELD)
    named = server.region(model, IMAGE, (0, 0), size, params={"label_colors": {"nucleus": [1, 2, 253]}})
    assert b'Color="#0102fd"' in named.body.replace(b"FD", b"fd")
    plain, stated, coarser = (
        polygons(server.region(model, IMAGE, (0, 0), size, "json", params=params))
        for params in ({}, {"mpp": 0.25}, {"mpp": 0.5})
    )
    assert shapely.equals_exact(plain, stated).all()  # without a resolution it is taken as it is
    assert shapely.bounds(coarser).max() <= FIELD  # still px of the image
    assert len(coarser) != len(plain) or not shapely.equals_exact(coarser, plain).all()


def test_training_may_begin_anew(server):
    """Normalising layers count the batches that they have seen."""
    weights = server.app / "model" / METASTASIS / "models/model.pt"

    def batches():
        state = torch.load(weights, weights_only=True)
        return max(int(value) for name, value in state.items() if name.endswith("num_batches_tracked"))

    before = batches()
    server.train(METASTASIS, max_epochs=1, val_split=0.2)
    assert batches() > before
    server.train(METASTASIS, max_epochs=1, val_split=0.2, pretrained=False)
    assert batches() < before


def test_weights_of_another_input_are_refused(server):
    weights = server.app / "model" / METASTASIS / "models/model.pt"
    kept = weights.with_name("model.json").read_text()
    path = f"/infer/{METASTASIS}?image={IMAGE}&output=json"
    try:
        weights.with_name("model.json").write_text(json.dumps({**json.loads(kept), "channels": "BGR"}))
        weights.touch()
        answer = server.send("POST", path)
        assert answer.status == 422
        assert b"model.pt: expected weights trained with channels RGB, found channels BGR" in answer.body
    finally:
        weights.with_name("model.json").write_text(kept)
        weights.touch()
    assert server.send("POST", path).status == 200


def test_a_whole_slide_is_streamed(server, base):
    truth = np.load(base / "truth.npy")
    model = "pathology_cell_semantic_segmentation"
    answer = server.send(
        "POST", f"/infer/wsi_v2/{model}?output=json&image=slide", {"wsi": '{"location":[0,0],"size":[0,0]}'}, {}
    )
    assert answer.json["size"] == list(truth.shape[::-1])
    x, y = CORNERS["nuclei"]
    inside = (slice(y, y + FIELD), slice(x, x + FIELD))
    assert iou(polygons_to_mask(polygons(answer), truth.shape)[inside], truth[inside] > 0) > LEAST_IOU


def test_mitoses_are_points_and_outlines(server, base):
    (x, y), truth = CORNERS["mitosis"], read_points(base / "mitoses.csv")
    answer = server.region(MITOSIS, "slide", (x, y), (FIELD, FIELD), "json").json
    (element,) = answer["annotations"][0]["annotation"]["elements"]
    assert element["label"] == "Mitosis"
    assert len(element["points"]) == len(element["contours"])
    expected = truth[:, ::-1] + (x, y) + 0.5
    distance = np.linalg.norm(np.array(element["points"])[:, None] - expected[None], axis=-1)
    assert (distance.min(axis=0) < MITOSIS_RADIUS_PX).all()


def test_an_image_that_the_server_lacks_is_sent_along(server):
    """As the QuPath extension does: a PNG, and coordinates from its own corner."""
    file = server.studies / "slide_001_00.png"
    wsi = {"level": 0, "location": [0, 0], "size": [0, 0], "tile_size": [1024, 1024], "min_poly_area": 30}
    answer = server.send(
        "POST", f"/infer/wsi_v2/{NUCLEI[0]}?output=asap", {"wsi": json.dumps({**wsi, "params": {}})}, {"file": file}
    )
    truth = read_mask(server.studies / "labels/final/slide_001_00.tif") > 0
    assert iou(polygons_to_mask(polygons(answer), truth.shape), truth) > LEAST_IOU


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"/infer/wsi/{MODELS[0]}?image=nowhere&output=json", 404, "nowhere"),
        ("/infer/wsi/nomodel?image=slide&output=json", 404, "nomodel"),
        (f"/infer/{MODELS[0]}?image=nowhere&output=json", 404, "nowhere"),
        ("/activelearning/nostrategy", 404, "nostrategy"),
    ],
)
def test_what_is_not_there_is_answered(server, path, status, said):
    answer = server.send("POST", path, {})
    assert answer.status == status
    assert said in answer.json["detail"]
    assert server.send("GET", "/info/").status == 200


@pytest.mark.parametrize("location", [(SIDE := 99_999, 0), (-5, 0)])
def test_a_region_outside_is_answered(server, location):
    answer = server.region(NUCLEI[0], "slide", location, (100, 100), "json")
    assert answer.status == 422
    assert "expected a region inside its" in answer.json["detail"]
    assert server.region(NUCLEI[0], "slide", CORNERS["nuclei"], (100, 100), "json").status == 200


def test_vessels_are_looked_at_one_by_one(server):
    answer = server.region(VESSELS, "slide", output="json")
    assert answer.status == 422
    assert "this bundle does not take whole slides" in answer.json["detail"]
    x, y = CORNERS["mitosis"]
    outline = [[x, y], [x + FIELD, y], [x, y + FIELD]]
    answer = server.region(VESSELS, "slide", (x, y), (FIELD, FIELD), "json", params={"outline": outline})
    (element, *others) = answer.json["annotations"][0]["annotation"]["elements"]
    assert element["label"] in ("Invaded vessel", "Healthy vessel")
    assert sorted(element["contours"][0]) == sorted(outline)
    points = [point for other in others for point in other["points"]]
    assert points
    assert shapely.dwithin(shapely.points(points), shapely.Polygon(outline), TEMPLATE_PX).all()


def test_two_clients_at_once(server):
    def ask(model):
        return server.region(model, "slide", CORNERS["nuclei"], (FIELD, FIELD), "json")

    alone = [polygons(ask(model)) for model in NUCLEI]
    with ThreadPoolExecutor(2) as pool:
        together = [polygons(answer) for answer in pool.map(ask, NUCLEI)]
    for one, other in zip(alone, together, strict=True):
        assert shapely.equals(one, other).all()


def test_a_client_that_hangs_up(server):
    body = json.dumps({"location": list(CORNERS["nuclei"]), "size": [FIELD, FIELD]}).encode()
    head = f"POST /infer/wsi/{NUCLEI[0]}?image=slide&output=json HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + body[:10])  # in the middle of its request
    done = threading.Event()
    answers = []

    def ask():
        answers.append(server.region(NUCLEI[0], "slide", CORNERS["nuclei"], (FIELD, FIELD), "json"))
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    assert done.wait(120)
    assert answers[0].status == 200
    assert server.process.poll() is None


def test_the_least_certain_image_comes_next(server):
    asked = {"model": NUCLEI[0], "max_samples": 3}
    first = server.send("POST", "/activelearning/uncertainty", asked).json
    assert 0 <= first["uncertainty"] <= 1
    assert Path(first["path"]).is_file()
    again = server.send("POST", "/activelearning/uncertainty", asked).json
    assert (again["id"], again["uncertainty"]) == (first["id"], first["uncertainty"])


@pytest.mark.parametrize(
    ("model", "name"), [(NUCLEI[0], "dice"), (MITOSIS, "f1"), (METASTASIS, "accuracy"), (VESSELS, "accuracy")]
)
def test_scoring(server, model, name):
    answer = server.send("POST", f"/scoring/{model}?run_sync=true", {}).json
    assert 0 <= answer[name] <= 1
    assert all(name in each for each in answer["images"].values())
    if name == "dice":
        labels = (server.studies / "labels/final").iterdir()
        empty = {path.stem for path in labels if path.suffix in (".png", ".tif") and not read_mask(path).any()}
        assert empty
        for image in empty:  # 1 where nothing was found, as there is nothing, else 0
            assert answer["images"][image]["dice"] == answer["images"][image]["aji"]


def test_annotations_of_qupath_are_learnt_from(server, tmp_path):
    """The extension's XML for a patch: coordinates from the patch's corner."""
    corners = [(9, 9), (40, 9), (40, 40), (9, 40)]
    square = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
    name = '<Annotation Name="nucleus" Type="Polygon" PartOfGroup="nucleus" Color="#ff0000">'
    text = f"<ASAP_Annotations><Annotations>{name}<Coordinates>{square}</Coordinates></Annotation></Annotations>"
    (tmp_path / "a.xml").write_text(f"{text}<AnnotationGroups/></ASAP_Annotations>")
    assert server.save_label("slide_001_00", tmp_path / "a.xml").status == 200
    server.train(NUCLEI[1], max_epochs=1, val_split=0)
    written = server.app / "model" / NUCLEI[1] / "runs/labels/slide_001_00.tif"
    assert (tifffile.imread(written) == 1).sum() == 31 * 31


def test_cyclic_learning_from_image_labels(server):
    weights = server.app / "model" / NUCLEI[0] / "models/model.pt"
    before = weights.read_bytes()
    cycle = {
        "cycles": 1,
        "students": 1,
        "tile_size": 128,
        "front_settings": {"batch_size": 4, "epochs": 12, "learning_rate": 0.003, "average#momentum": 0.3},
        "seeds_settings": {"min_area": 20},
        "back_settings": {"patch_size": 128, "epochs": 1, "val_interval": 1},
    }
    server.train(NUCLEI[0], cycle=cycle)
    assert weights.read_bytes() != before
    assert (server.app / "model" / NUCLEI[0] / "runs/cycle/cycles.csv").is_file()
    assert server.send("POST", f"/infer/{NUCLEI[0]}?image={IMAGE}&output=image").status == 200


def test_engines_are_tried_once_and_what_computes_is_said(server):
    """``--conf runtime auto``: where no engine is installed torch computes, as in all tests here."""

    def said():
        assert server.region(NUCLEI[1], IMAGE, (0, 0), (FIELD, FIELD)).status == 200
        return [line for line in server.log.read_text().splitlines() if line.startswith("runtime: ")]

    first = said()
    assert first
    assert said() == first
