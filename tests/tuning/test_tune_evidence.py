import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from monai_ext.base.errors import DataListError, InputError
from monai_ext.metrics.evidence import pointing_scores
from monai_ext.networks.nets import CELNet
from monai_ext.tuning import DEFAULT_EVIDENCE, read_evidence, tune_evidence
from monai_ext.tuning.common import central_choice
from monai_ext.tuning.evidence import _fused, _shares
from tests.planted import write_planted

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_metastasis_evidence_localization"
EXACT = 1e-6


# -- the file ----------------------------------------------------------------------------------------------------------


def test_file_is_read_back(tmp_path):
    content = {**DEFAULT_EVIDENCE, "alpha": 0.75, "thresholds": {"celm": 0.2}}
    (tmp_path / "evidence.json").write_text(json.dumps(content))
    assert read_evidence(tmp_path / "evidence.json") == content


def test_no_file_means_the_defaults_with_a_message(tmp_path, capsys):
    settings = read_evidence(tmp_path / "evidence.json")
    assert settings == DEFAULT_EVIDENCE
    assert settings is not DEFAULT_EVIDENCE
    assert "evidence.json: no such file; evidence settings are {'alpha': 0.5" in capsys.readouterr().err


def test_unusable_file(tmp_path):
    (tmp_path / "e.json").write_text('{"alpha": 0.5}')
    with pytest.raises(InputError, match=r"e\.json: expected an object with alpha, beta, sigma, saliency, threshold"):
        read_evidence(tmp_path / "e.json")


@pytest.mark.parametrize(
    ("entry", "value"), [("alpha", 1.5), ("alpha", "0.5"), ("sigma", -1), ("saliency", "loud"), ("threshold", 40)]
)
def test_file_edited_by_hand_is_checked(entry, value, tmp_path):
    (tmp_path / "e.json").write_text(json.dumps({**DEFAULT_EVIDENCE, entry: value}))
    with pytest.raises(InputError, match=rf"e\.json: {entry}: expected .* found {value!r}"):
        read_evidence(tmp_path / "e.json")


# -- the choice --------------------------------------------------------------------------------------------------------


def test_shares_of_all_fusions_equal_those_of_their_maps():
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: torch.rand(5, 1, 12, 12, generator=generator)
        for name in ("cam2", "cam3", "saliency_abs", "saliency_minmax")
    }
    parts["cam3"][4] = parts["cam2"][4] = 0  # a canvas without evidence
    parts["truth"] = torch.zeros(5, 1, 12, 12, dtype=torch.bool)
    parts["truth"][..., 4:8, :4] = True
    fusions = pd.DataFrame(
        [(s, sigma, a, b) for s in ("abs", "minmax") for sigma in (0, 2) for a in (0, 0.3, 1) for b in (0, 0.6, 1)],
        columns=["saliency", "sigma", "alpha", "beta"],
    )
    got = list(_shares(parts, fusions))
    assert len(got) == len(fusions)
    for shares, fusion in zip(got, fusions.to_dict("records"), strict=True):
        expected = pointing_scores(_fused({**parts, "backprop": parts["cam2"]}, fusion)["celm"], parts["truth"])[:, 0]
        np.testing.assert_allclose(shares, expected, atol=EXACT)
        assert shares[4] == 0
    del parts["cam2"]  # one activation map alone
    fusions = fusions[fusions["alpha"] == 1]
    for shares, fusion in zip(_shares(parts, fusions), fusions.to_dict("records"), strict=True):
        expected = pointing_scores(_fused({**parts, "backprop": parts["cam3"]}, fusion)["celm"], parts["truth"])[:, 0]
        np.testing.assert_allclose(shares, expected, atol=EXACT)


def test_middle_of_what_is_as_good_as_the_best():
    table = pd.DataFrame(
        {"x": [0.0, 1, 2, 3, 4], "y": 1.0, "kind": list("aaaab"), "score": [0.5, 0.8, 0.79, 0.81, 0.815]}
    )
    assert central_choice(table, "score", 0.0, ["x", "y"])["x"] == 4
    assert central_choice(table, "score", 0.03, ["x", "y"])["x"] in (2, 3)
    assert central_choice(table, "score", 0.03, ["x", "y"], kind="kind")["x"] == 4  # the best one's kind
    assert central_choice(table[:4], "score", 0.03, ["x", "y"], kind="kind")["x"] == 2


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path):
    """An overlay of the bundle with a network whose evidence is known."""
    overlay = tmp_path / "planted.json"
    overlay.write_text(json.dumps({"loaded_network": {"_target_": "tests.planted.RedNetwork"}}))
    return str(overlay)


def tune(data, output, **options):
    settings = {"sigmas": (1, 2), "thresholds": (0.1, 0.9, 0.2), "device": "cpu", "batch_size": 2, "smooth": 1.0}
    return Path(tune_evidence(str(data), str(BUNDLE), output=str(output), **{**settings, **options}))


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "canvases"])
def test_validation_list_alone_decides(masks, planted, tmp_path, capsys):
    data = write_planted(tmp_path / "data", masks)
    path = tune(data, tmp_path / "found" / "evidence.json", configs=[planted], repeats=2)
    content = read_evidence(path)
    assert content["judged_by"] == ("masks" if masks else "pointing game")
    assert content["images"] == (3 if masks else 6)
    assert content["validation"]["f1"] == content["validation"]["hit"] == 1
    assert content["validation"]["share"] > (0.7 if masks else 0.95)
    assert set(content["thresholds"]) == {"backprop", "cam2", "cam3", "cam", "csm", "celm"}
    assert content["threshold"] == content["thresholds"]["celm"]
    assert 0 <= content["alpha"] <= 1
    assert 0 <= content["beta"] <= 1
    assert content["sigma"] in (1, 1.5, 2)
    sweep = pd.read_csv(path.with_name("evidence_sweep.csv"))
    assert len(sweep) == 2 * 2 * 5 * 6
    best = sweep.loc[sweep["score"].idxmax()]
    chosen = sweep[(sweep[["alpha", "beta", "sigma"]] == [content[n] for n in ("alpha", "beta", "sigma")]).all(axis=1)]
    chosen = chosen[chosen["saliency"] == content["saliency"]].iloc[0]
    assert chosen["score"] >= best["score"] - best["error"]
    cuts = pd.read_csv(path.with_name("evidence_thresholds.csv"))
    assert len(cuts) == 6 * 5
    assert cv2.imread(str(path.with_name("evidence_sweep.png"))) is not None
    assert len(list(path.parent.iterdir())) == 4  # nothing half written is left
    assert f"judged by {content['judged_by']}" in capsys.readouterr().out


def test_two_runs_agree(planted, tmp_path):
    data = write_planted(tmp_path / "data", masks=False, positives=4)
    first, again = (
        tune(data, tmp_path / name / "evidence.json", configs=[planted], limit=2).read_text() for name in ("a", "b")
    )
    assert first == again
    assert json.loads(first)["images"] == 2


def test_one_activation_map(planted, tmp_path):
    layers = tmp_path / "layers.json"
    layers.write_text(json.dumps({"evidence_layers": {"fine": None, "coarse": "stage3"}}))
    data = write_planted(tmp_path / "data")
    content = read_evidence(tune(data, tmp_path / "evidence.json", configs=[planted, str(layers)]))
    assert content["alpha"] == 1
    assert set(content["thresholds"]) == {"backprop", "cam3", "csm", "celm"}
    assert content["validation"]["f1"] == 1


@pytest.mark.parametrize("overlay", [(), ("configs/overlays/network/cbam.json",)], ids=["CELNet", "CBAM"])
def test_networks_of_the_bundle(overlay, tmp_path):
    data = write_planted(tmp_path / "data", masks=False, positives=2)
    torch.save(CELNet("cbam" if overlay else "mam").state_dict(), tmp_path / "model.pt")
    path = Path(
        tune_evidence(str(data), str(BUNDLE), ckpt_dir=str(tmp_path), device="cpu", configs=overlay, sigmas=(2,))
    )
    assert path == tmp_path / "evidence.json"
    assert read_evidence(path)["images"] == 2


def test_what_is_missing_is_named(planted, tmp_path):
    data = write_planted(tmp_path / "data")
    with pytest.raises(InputError, match=r"nowhere/configs/train\.json: expected a configuration"):
        tune_evidence(str(data), str(tmp_path / "nowhere"))
    with pytest.raises(InputError) as caught:
        tune_evidence(str(data), str(BUNDLE), ckpt_dir=str(tmp_path), device="cpu")
    assert str(caught.value) == f"{tmp_path / 'model.pt'}: expected trained weights, found no such file"
    with pytest.raises(InputError, match=r"tune evidence: expected options of tune_evidence .* found alfas"):
        tune(data, tmp_path / "e.json", alfas=(1,))
    with pytest.raises(InputError, match=r"tune evidence: expected no --split, .* found 'test'"):
        tune(data, tmp_path / "e.json", configs=[planted], split="test")
    (data / "validation0.png").unlink()
    with pytest.raises(DataListError, match=r"validation0\.png: expected a file, found none"):
        tune(data, tmp_path / "e.json", configs=[planted])


def test_too_few_negatives(planted, tmp_path):
    data = write_planted(tmp_path / "data", masks=False, negatives=3)
    with pytest.raises(InputError, match="at least 8 negatives for the pointing game, found no mask and 3 negatives"):
        tune(data, tmp_path / "e.json", configs=[planted])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": (0.5, 2)}, "alpha: expected a number from 0 to 1, found 2"),
        ({"betas": ()}, "beta: expected values to try, found none"),
        ({"sigmas": "wide"}, "sigma: expected px >= 0, found 'wide'"),
        ({"saliencies": "loud"}, "saliency: expected 'minmax' or 'abs', found 'loud'"),
        ({"thresholds": (0.5, 1.5, 0.5)}, "threshold: expected a number from 0 to 1, found"),
        ({"thresholds": 0.5}, "thresholds: expected first, last and a step above 0"),
        ({"smooth": -1}, "smooth: expected px >= 0, found -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_values_to_try_are_checked(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        tune("nowhere", tmp_path / "e.json", **options)


def test_single_values_need_no_brackets(planted, tmp_path):
    data = write_planted(tmp_path / "data")
    options = {"alphas": 0.25, "betas": 1, "sigmas": 2.0, "saliencies": "abs", "thresholds": (0, 1, 1)}
    content = read_evidence(tune(data, tmp_path / "e.json", configs=[planted], **options))
    assert {name: content[name] for name in ("alpha", "beta", "sigma", "saliency")} == {
        "alpha": 0.25, "beta": 1, "sigma": 2, "saliency": "abs",
    }  # fmt: skip
