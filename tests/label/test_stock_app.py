"""MONAI Label's own monaibundle app, unchanged, with the bundles as they are."""

import json
import shutil

import cv2
import numpy as np
import pytest

from monai_ext.formats.image import read_mask
from tests.label.conftest import FIELD, IMAGE, PYTHON, ROOT, start

MODELS = [
    "pathology_mitosis_segmentation",
    "pathology_cell_semantic_segmentation",
    "pathology_nuclei_instance_segmentation",
]
LEAST_IOU = 0.6

pytestmark = [pytest.mark.slow, pytest.mark.dear("mitosis")]


@pytest.fixture(scope="module")
def stock(base):
    prefix = PYTHON.parent.parent  # not resolved: an environment's python is a link
    apps = [*prefix.glob("monailabel/sample-apps/monaibundle"), *prefix.rglob("sample-apps/monaibundle")]
    if not apps:
        pytest.skip(f"no sample-apps/monaibundle below {prefix}")
    app, studies = base / "stock", base / "stock_studies"
    shutil.copytree(apps[0], app)
    shutil.copytree(base / "studies", studies)
    for model in MODELS:
        shutil.copytree(ROOT / "bundles" / model, app / "model" / model, ignore=shutil.ignore_patterns("eval", "runs"))
    client = start(app, studies, base / "stock.log", ",".join(MODELS))
    yield client
    client.process.terminate()
    client.process.wait(30)


@pytest.mark.parametrize("model", MODELS)
def test_infer_train_infer(stock, model, tmp_path):
    for trained in (False, True):
        answer = stock.send("POST", f"/infer/{model}?image={IMAGE}&output=image")
        assert (answer.status, answer.kind) == (200, "image/png")
        (tmp_path / "label.png").write_bytes(answer.body)
        label = cv2.imread(str(tmp_path / "label.png"), cv2.IMREAD_UNCHANGED)
        assert label.shape == (FIELD, FIELD)
        assert label.dtype == np.uint16
        if "mitosis" not in model:  # one epoch of fine-tuning leaves a good network good
            truth = read_mask(stock.studies / f"labels/final/{IMAGE}.tif") > 0
            assert ((label > 0) & truth).sum() / ((label > 0) | truth).sum() > LEAST_IOU
        if not trained:
            stock.train(model, max_epochs=1, val_split=0.2)
            history = json.loads((stock.app / "model" / model / "models/history.json").read_text())
            assert len(history) == 1
