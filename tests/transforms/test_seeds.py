import warnings

import cv2
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import binary_dilation, binary_erosion, convex_hull_image, disk

from monai_ext.base.errors import InputError
from monai_ext.transforms import SeedMasksFromRelevance, SeedMasksFromRelevanced
from monai_ext.transforms.seeds import _fill_hulls

SAME_SCORE = 1e-6


def noise(seed, shape=(90, 120), sigma=2.0):
    """Smooth relevance of both signs: many components of all shapes, some at the edge, some inside others."""
    rng = np.random.default_rng(seed)
    return ndimage.gaussian_filter(rng.normal(size=shape), sigma).astype(np.float32)


def discs(*circles, shape=(60, 80)):
    """Relevance 1 in discs ``(row, column, radius)``."""
    rows, cols = np.indices(shape)
    return np.any([np.hypot(rows - y, cols - x) <= r for y, x, r in circles], axis=0).astype(np.float32)


def slow_hulls(mask):
    parts = label(mask, connectivity=2)
    union = np.zeros_like(mask)
    for part in range(1, parts.max() + 1):
        union |= convex_hull_image(parts == part)
    return union


def slow_seeds(relevance, theta, min_area, radius):
    """Component after component with scikit-image."""
    response = np.maximum(relevance, 0) / max(relevance.max(), 1e-30)
    union = slow_hulls(response > theta)
    closed = binary_erosion(binary_dilation(union, disk(radius)), disk(radius))
    parts = label(closed, connectivity=2)
    found = [(response[parts == part].mean(), parts == part) for part in range(1, parts.max() + 1)]
    found = sorted((each for each in found if each[1].sum() >= min_area), key=lambda each: -each[0])
    seeds = np.zeros(relevance.shape, np.int32)
    for number, (_, mask) in enumerate(found, start=1):
        seeds[mask] = number
    return seeds, [score for score, _ in found]


def partition(labels):
    """The instances as sets of pixels, whatever their numbers."""
    return {tuple(np.flatnonzero(labels == k)) for k in range(1, labels.max() + 1)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("theta", "min_area", "radius", "sigma"), [(0.35, 30, 2, 2), (0.2, 0, 0, 1), (0.0, 100, 2, 3), (0.5, 5, 4, 0.7)]
)
def test_as_scikit_image_component_by_component(seed, theta, min_area, radius, sigma):
    relevance = noise(seed, sigma=sigma)
    seeds, scores = SeedMasksFromRelevance(theta, min_area, None, radius=radius)(relevance)
    slow, slow_scores = slow_seeds(relevance, theta, min_area, radius)
    assert len(scores)
    np.testing.assert_array_equal(seeds[0], slow)
    np.testing.assert_allclose(scores, slow_scores, rtol=SAME_SCORE)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("shape", [(40, 50), (1, 30), (30, 1), (2, 3), (1, 1)])
def test_hulls_are_those_of_scikit_image(density, shape):
    rng = np.random.default_rng(3)
    for _ in range(10):
        mask = rng.random(shape) < density
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(_fill_hulls(mask), slow_hulls(mask))


def test_a_negative_or_empty_map_has_no_seeds():
    for relevance in (np.zeros((1, 40, 50)), -np.ones((40, 50)), np.full((40, 50), -0.0)):
        seeds, scores = SeedMasksFromRelevance()(relevance)
        assert seeds.shape == (1, 40, 50)
        assert seeds.dtype == np.int32
        assert not seeds.any()
        assert scores.shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_refused(value):
    relevance = noise(0)
    relevance[3, 4] = value
    with pytest.raises(InputError, match="relevance map: expected finite values, found NaN or infinity in 1 of 10800"):
        SeedMasksFromRelevance()(relevance)


def test_a_map_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"relevance map: expected shape \(1, H, W\) or \(H, W\), found \(3, 8, 9\)"):
        SeedMasksFromRelevance()(np.zeros((3, 8, 9)))


@pytest.mark.parametrize(
    "options",
    [
        {"theta": 1},
        {"theta": -0.1},
        {"min_area": -1},
        {"max_seeds": 2.5},
        {"keep": "best"},
        {"radius": True},
        {"sigma": -1},
        {"quantile": 0},
        {"background": -0.1},
        {"background": 1.0},
    ],
)
def test_arguments_out_of_range(options):
    with pytest.raises(InputError, match=f"SeedMasksFromRelevance {next(iter(options))}: expected"):
        SeedMasksFromRelevance(**options)


def test_the_scale_of_relevance_does_not_matter():
    relevance = noise(1)
    wanted = SeedMasksFromRelevance(min_area=20)(relevance)[0]
    for factor in (2.0**-40, 2.0**40):
        np.testing.assert_array_equal(SeedMasksFromRelevance(min_area=20)(relevance * np.float32(factor))[0], wanted)


@pytest.mark.parametrize("turn", [lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.T], ids=["up", "left", "corner"])
def test_a_turned_map_has_turned_seeds(turn):
    relevance, find = noise(2), SeedMasksFromRelevance(min_area=20, max_seeds=None)
    turned = find(np.ascontiguousarray(turn(relevance)))[0][0]
    assert partition(turned) == partition(turn(find(relevance)[0][0]))


def test_fragments_of_a_nucleus_are_one_seed():
    ring = discs((30, 40, 12)) - discs((30, 40, 9))
    dotted = ring * (np.indices(ring.shape)[1] % 3 > 0)  # gaps of a pixel
    seeds, _ = SeedMasksFromRelevance()(dotted)
    assert seeds.max() == 1
    assert seeds[0][dotted > 0].all()


def test_smoothing_joins_specks_and_tames_outliers():
    specks = np.zeros((60, 80), np.float32)
    specks[20:42:7, 30:52:7] = 1
    specks[5, 70] = 4  # one pixel sets the maximum
    assert SeedMasksFromRelevance(min_area=0)(specks)[0].max() == 1
    seeds, _ = SeedMasksFromRelevance(min_area=150, sigma=4)(specks)
    assert seeds.max() == 1
    assert seeds[0, 20:42, 30:52].all()


def test_a_quantile_in_place_of_the_maximum():
    relevance = strips([0.5, 1.0, 0.7])
    relevance[1, 1] = 100
    assert SeedMasksFromRelevance()(relevance)[0].max() == 0
    seeds, scores = SeedMasksFromRelevance(quantile=0.99)(relevance)
    assert seeds.max() == 3
    np.testing.assert_allclose(scores, [1, 0.7, 0.5], rtol=SAME_SCORE)
    np.testing.assert_array_equal(SeedMasksFromRelevance(quantile=0.5)(np.zeros((9, 9)))[0], np.zeros((1, 9, 9)))


def test_a_component_is_filled():
    ring = discs((30, 40, 12)) - discs((30, 40, 9))
    seeds, _ = SeedMasksFromRelevance()(ring)
    assert seeds[0, 30, 40] == 1


def test_hulls_that_overlap_are_one_seed_and_others_are_not():
    hook = np.zeros((60, 80), np.float32)
    hook[10:40, 10:14] = hook[36:40, 10:40] = 1
    dot = discs((33, 16, 2))  # in the hook's hull, 6 px away
    assert SeedMasksFromRelevance(min_area=0)(hook + dot)[0].max() == 1
    assert SeedMasksFromRelevance(min_area=0)(discs((20, 20, 8), (20, 50, 8)))[0].max() == 2


def test_small_seeds_are_left_out():
    relevance = discs((15, 15, 8), (40, 60, 3))
    small = int((SeedMasksFromRelevance(min_area=0)(relevance)[0][0, 30:] > 0).sum())
    assert SeedMasksFromRelevance(min_area=small)(relevance)[0].max() == 2
    assert SeedMasksFromRelevance(min_area=small + 1)(relevance)[0].max() == 1


def strips(values):
    """Separate squares of these relevances."""
    relevance = np.zeros((30, 20 * len(values)), np.float32)
    for index, value in enumerate(values):
        relevance[8:22, 20 * index + 3 : 20 * index + 17] = value
    return relevance


def test_seeds_are_numbered_by_their_scores():
    values = [0.5, 1.0, 0.7, 0.9]
    seeds, scores = SeedMasksFromRelevance()(strips(values))
    np.testing.assert_allclose(scores, sorted(values, reverse=True), rtol=SAME_SCORE)
    assert [seeds[0, 15, 20 * index + 10] for index in range(4)] == [4, 1, 3, 2]


def test_the_best_are_kept_on_demand():
    values = np.linspace(0.5, 1, 30)[np.random.RandomState(0).permutation(30)]
    seeds, scores = SeedMasksFromRelevance(max_seeds=5, keep="top")(strips(values))
    np.testing.assert_allclose(scores, np.sort(values)[:-6:-1], rtol=SAME_SCORE)
    assert seeds.max() == 5
    assert SeedMasksFromRelevance(max_seeds=0)(strips(values))[0].max() == 0
    assert SeedMasksFromRelevance(max_seeds=None)(strips(values))[0].max() == 30


def test_the_random_choice_depends_on_seed_and_map_alone():
    first, second = strips(np.linspace(0.5, 1, 40)), strips(np.linspace(1, 0.6, 41))
    find = SeedMasksFromRelevance(seed=3)
    wanted = find(first)[0]
    find(second)
    np.testing.assert_array_equal(find(first)[0], wanted)
    np.testing.assert_array_equal(SeedMasksFromRelevance(seed=3)(first)[0], wanted)
    assert wanted.max() == 20
    others = [SeedMasksFromRelevance(seed=seed)(first)[0] > 0 for seed in range(20)]
    assert len({other.tobytes() for other in others}) == 20
    # every square has its chance
    kept = np.mean(others, axis=0)[0, 15, 10::20]
    assert kept.min() > 0
    assert kept.max() < 1


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_the_kind_of_the_map_is_kept(kind):
    relevance = kind(noise(4)[None])
    wanted, scores = SeedMasksFromRelevance(min_area=20)(noise(4))
    found, own = SeedMasksFromRelevance(min_area=20)(relevance)
    assert type(found) is type(relevance)
    assert type(own) is type(relevance)
    assert str(found.dtype).endswith("int32")
    assert str(own.dtype).endswith("float32")
    np.testing.assert_array_equal(np.asarray(found), wanted)
    np.testing.assert_array_equal(np.asarray(own), scores)


def test_half_precision_and_other_memory_orders_are_read():
    relevance = torch.from_numpy(noise(5))
    wanted = SeedMasksFromRelevance(min_area=20)(relevance.bfloat16().float())[0]
    assert torch.equal(SeedMasksFromRelevance(min_area=20)(relevance.bfloat16())[0], wanted)
    turned = np.asfortranarray(noise(5))
    np.testing.assert_array_equal(
        SeedMasksFromRelevance(min_area=20)(turned)[0], SeedMasksFromRelevance(min_area=20)(noise(5))[0]
    )


def test_dictionary_twin():
    data = {"relevance": noise(6), "other": noise(7), "image": 1}
    twin = SeedMasksFromRelevanced(["relevance", "other"], ["seeds", "more"], ["scores", None], min_area=20)
    found = twin(data)
    assert found.keys() == {"relevance", "other", "image", "seeds", "more", "scores"}
    for key, seeds in (("relevance", "seeds"), ("other", "more")):
        np.testing.assert_array_equal(found[seeds], SeedMasksFromRelevance(min_area=20)(data[key])[0])
    assert data.keys() == {"relevance", "other", "image"}


def settled(relevance, **options):
    find = SeedMasksFromRelevance(**options)
    seeds, _ = find(relevance)
    return seeds, find.settled(relevance, seeds)


def test_settled_are_seeds_and_what_hardly_responds():
    relevance = strips([1.0, 0.5, 0.2, 0.04])
    seeds, known = settled(relevance, max_seeds=1, keep="top", background=0.05)
    assert known.shape == (1, *relevance.shape)
    assert known.dtype == bool
    assert seeds.max() == 1
    inside = [bool(known[0, 15, 20 * index + 10]) for index in range(4)]
    assert inside == [True, False, False, True]  # the seed, a nucleus that was not kept, less than one, next to nothing
    np.testing.assert_array_equal(known[0], (relevance < 0.05) | (seeds[0] > 0))
    assert settled(relevance, background=0.3)[1][0, 15, 50]
    assert not settled(relevance, background=0, max_seeds=0)[1].any()  # nothing is below 0


def test_what_is_added_to_a_seed_is_known():
    ring = discs((30, 40, 12)) - discs((30, 40, 9)) / 2  # inside, half of it
    ring[30, 40] = 0.2
    seeds, known = settled(ring, background=0.05)
    assert seeds[0, 30, 40] == 1
    assert known.all()


def test_a_map_without_anything_positive_is_background():
    seeds, known = settled(-np.ones((1, 20, 30), np.float32))
    assert not seeds.any()
    assert known.all()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_settled_is_of_the_kind_of_the_map(kind):
    seeds, known = settled(kind(noise(4)[None]), min_area=20)
    assert type(known) is type(seeds)
    np.testing.assert_array_equal(np.asarray(known), settled(noise(4), min_area=20)[1])


def test_dictionary_twin_tells_what_is_known():
    data = {"relevance": noise(6), "other": noise(7)}
    twin = SeedMasksFromRelevanced(
        ["relevance", "other"], ["seeds", "more"], None, known_key=["known", None], min_area=20, background=0.1
    )
    found = twin(data)
    assert found.keys() == {"relevance", "other", "seeds", "more", "known"}
    np.testing.assert_array_equal(found["known"], settled(data["relevance"], min_area=20, background=0.1)[1])


# -- refined by stain --------------------------------------------------------------------------------------------------

TWO = [(20, 20, 7.0), (20, 32, 7.0)]  # discs that touch
ALONE, BESIDE = (45, 20, 6.0), (45, 60, 6.0)


def tissue(*circles, shape=(60, 80), dark=90, light=210):
    grey = np.where(discs(*circles, shape=shape) > 0, dark, light).astype(np.uint8)
    return np.repeat(grey[None], 3, 0)


def refined(image, relevance, **options):
    return SeedMasksFromRelevance(min_area=30, refine="stain", **options)(relevance, image)[0][0]


def test_outlines_come_from_the_image():
    image = tissue(ALONE)
    seeds = refined(image, discs((43, 23, 9)))  # coarse, and not quite there
    true = discs(ALONE) > 0
    assert (true & (seeds > 0)).sum() / (true | (seeds > 0)).sum() > 0.8


def test_light_spots_within_a_nucleus_are_filled():
    image = tissue(ALONE)
    image[:, 43:47, 18:22] = 210
    assert refined(image, discs(ALONE))[45, 20] == 1


def test_what_touches_is_parted_though_its_relevance_is_one():
    image, relevance = tissue(*TWO), discs((20, 26, 14))
    assert SeedMasksFromRelevance(min_area=30)(relevance)[0].max() == 1
    seeds = refined(image, relevance)
    assert seeds.max() == 2
    assert seeds[20, 20] != seeds[20, 32]


def test_dark_objects_without_relevance_are_no_seeds_and_no_background():
    image, relevance = tissue(ALONE, BESIDE), discs(ALONE)
    find = SeedMasksFromRelevance(min_area=30, refine="stain")
    seeds, _ = find(relevance, image)
    assert seeds[0, 45, 20] == 1
    assert not seeds[0, :, 50:].any()
    settled = find.settled(relevance, seeds, image)[0]
    assert not settled[discs(BESIDE) > 0].any()  # a nucleus, perhaps
    assert settled[5, 5]
    assert settled[seeds[0] > 0].all()
    assert SeedMasksFromRelevance(min_area=30).settled(relevance, seeds)[0][45, 60]  # without the image


def test_small_objects_are_dropped_and_only_so_many_are_kept():
    image, relevance = tissue(ALONE, BESIDE, (10, 60, 2.5)), discs(ALONE, BESIDE, (10, 60, 3))
    assert refined(image, relevance).max() == 2
    assert refined(image, relevance, max_seeds=1, keep="top").max() == 1


def test_the_cut_is_each_images_own():
    for dark, light in ((60, 120), (150, 230)):
        seeds = refined(tissue(ALONE, dark=dark, light=light), discs(ALONE))
        assert seeds.max() == 1
        assert seeds[45, 20] == 1


@pytest.mark.parametrize(
    ("image", "relevance"),
    [
        (tissue(ALONE), np.zeros((60, 80), np.float32)),  # nothing is relevant
        (tissue(ALONE), np.ones((60, 80), np.float32)),  # all is
        (tissue(ALONE, dark=230, light=90), discs(ALONE)),  # what is relevant is light
        (tissue(ALONE, dark=210), discs(ALONE)),  # one colour
    ],
)
def test_images_that_teach_no_cut_have_no_seeds(image, relevance):
    find = SeedMasksFromRelevance(refine="stain")
    seeds, scores = find(relevance, image)
    assert not seeds.any()
    assert len(scores) == 0
    # all is background where nothing is relevant; else there are nuclei, nobody knows where
    assert find.settled(relevance, seeds, image).sum() == (0 if relevance.any() else relevance.size)


def test_light_pixels_are_background_however_relevant():
    image, relevance = tissue(ALONE), discs((43, 23, 14))
    find = SeedMasksFromRelevance(min_area=30, refine="stain")
    seeds, _ = find(relevance, image)
    settled = find.settled(relevance, seeds, image)[0]
    ring = (discs((43, 23, 14)) > 0) & ~(discs((45, 20, 12)) > 0)
    assert ring.any()
    assert settled[ring].all()
    assert not (seeds[0] > 0)[ring].any()


def test_chromatin_does_not_break_large_nuclei():
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:160, :160]
    disc = (rows - 80) ** 2 + (cols - 80) ** 2 < 40**2
    grains = cv2.GaussianBlur(rng.normal(size=disc.shape), (0, 0), 2)
    image = np.where(disc, np.where(grains > 0, 70, 190), 230).astype(np.uint8)[None].repeat(3, 0)
    relevance = disc.astype(np.float32)
    overlap = []
    for sigmas in ((1.0,), (1.0, 1.5, 2.0, 3.0)):
        seeds = refined(image, relevance, min_solidity=0.9, light_sigmas=sigmas, radius=1)
        overlap.append(
            max(
                [((seeds == i) & disc).sum() / ((seeds == i) | disc).sum() for i in range(1, 1 + seeds.max())],
                default=0,
            )
        )
    assert overlap[0] < 0.5 < 0.8 < overlap[1]


def test_fine_light_stays_where_coarse_gains_nothing():
    image, relevance = tissue(*TWO, ALONE), discs(*TWO, ALONE)
    fine = refined(image, relevance)
    np.testing.assert_array_equal(refined(image, relevance, light_sigmas=(1.0, 3.0)), fine)
    for wrong in ((), (0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(InputError, match="light_sigmas: expected px above 0, increasing"):
            SeedMasksFromRelevance(light_sigmas=wrong)


def test_what_is_dented_is_likely_several():
    image, relevance = tissue(ALONE), discs(ALONE)
    image[:, 10:50, 50:56] = image[:, 44:50, 50:76] = 90  # an L
    relevance[10:50, 50:56] = relevance[44:50, 50:76] = 1
    assert refined(image, relevance)[30, 53] > 0
    seeds = refined(image, relevance, min_solidity=0.9)
    assert seeds[30, 53] == seeds[47, 70] == 0
    assert seeds[45, 20] == seeds.max() == 1
    with pytest.raises(InputError, match="min_solidity: expected a share from 0 to 1"):
        SeedMasksFromRelevance(min_solidity=1.1)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_refined_by_images_of_any_kind(kind, scale):
    image, relevance = tissue(*TWO, ALONE), discs(*TWO, ALONE)
    expected = refined(image, relevance)
    seeds = refined(kind(image * np.float32(scale)), kind(relevance))
    assert type(seeds) is type(kind(relevance))
    np.testing.assert_array_equal(np.asarray(seeds), expected)


def test_the_dictionary_twin_reads_the_source():
    item = {"relevance": discs(*TWO), "source": tissue(*TWO)}
    seeds = SeedMasksFromRelevanced(refine="stain", min_area=30, known_key="known")(item)
    find = SeedMasksFromRelevance(refine="stain", min_area=30)
    expected = find(item["relevance"], item["source"])
    np.testing.assert_array_equal(seeds["seeds"], expected[0])
    np.testing.assert_array_equal(seeds["seed_scores"], expected[1])
    np.testing.assert_array_equal(seeds["known"], find.settled(item["relevance"], expected[0], item["source"]))
    renamed = {"relevance": item["relevance"], "image": item["source"]}
    found = SeedMasksFromRelevanced(refine="stain", min_area=30, image_key="image")(renamed)["seeds"]
    np.testing.assert_array_equal(found, expected[0])


@pytest.mark.parametrize("image", [None, np.zeros((3, 60, 81), np.uint8), np.zeros((1, 60, 80), np.uint8)])
def test_refining_needs_the_image(image):
    with pytest.raises(InputError, match=r"image: expected RGB of the map's size, \(3, 60, 80\), to refine by, found"):
        SeedMasksFromRelevance(refine="stain")(discs(ALONE), image)
    with pytest.raises(InputError, match="'stain' or null"):
        SeedMasksFromRelevance(refine="strain")


def test_the_steps_lead_to_the_seeds():
    relevance = torch.zeros(1, 64, 64)
    relevance[0, 10:30, 10:30], relevance[0, 10:20, 20:30] = 2.0, 0  # an L, whose hull is larger
    relevance[0, 50:54, 50:54], relevance[0, 40:44, 4:8] = 1.0, -1.0
    find = SeedMasksFromRelevance(min_area=100)
    steps = find.steps(relevance)
    assert list(steps) == ["relevance", "above theta", "hulls", "closed", "seeds"]
    assert steps["relevance"].min() == 0
    assert steps["relevance"].max() == 1
    np.testing.assert_array_equal(steps["above theta"], relevance[0].numpy() > 0.7)
    assert (steps["hulls"] & ~steps["above theta"])[14, 22]
    assert (steps["closed"] >= steps["hulls"]).all()
    assert (steps["closed"] >= (steps["seeds"] > 0)).all()
    np.testing.assert_array_equal(steps["seeds"], find(relevance)[0][0].numpy())
    assert steps["closed"][52, 52]
    assert not steps["seeds"][52, 52]  # too small


def test_the_steps_of_a_refinement():
    relevance = torch.zeros(1, 64, 64)
    relevance[0, 10:30, 10:30] = 2.0
    image = np.full((3, 64, 64), 230, np.uint8)
    image[:, 12:24, 12:24] = image[:, 40:52, 40:52] = 90  # the second one is nowhere relevant
    find = SeedMasksFromRelevance(min_area=100, refine="stain")
    steps = find.steps(relevance, image)
    assert list(steps) == ["relevance", "above theta", "dark", "parted", "seeds"]
    assert steps["dark"][46, 46]
    assert len(np.unique(steps["parted"])) == 3
    assert np.unique(steps["seeds"]).tolist() == [0, 1]
    np.testing.assert_array_equal(steps["seeds"], find(relevance, image)[0][0].numpy())
    np.testing.assert_array_equal(steps["seeds"] > 0, steps["parted"] == steps["parted"][18, 18])
