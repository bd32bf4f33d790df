import cv2
import numpy as np
import pytest
import shapely
from skimage.measure import regionprops

from monai_ext.base.errors import InputError
from monai_ext.formats.measurements import measure_instances, simplify_outlines, solidity
from monai_ext.formats.outlines import label_map_to_polygons

TOL = 1e-9
ECCENTRICITY_TOL = 1e-6  # a root of a difference
SOLIDITY_TOL = 0.06  # scikit-image's hull is of pixels


def blobs(seed=0, count=40, side=150):
    """Ellipses over one another: pieces, holes, cut at the image's edge."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side + 20), np.int32)
    for k in range(count):
        x, y = rng.integers(0, side, 2).tolist()
        axes = tuple(rng.integers(1, 16, 2).tolist())
        cv2.ellipse(labels, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 3 * k + 2, -1)
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_as_regionprops(seed):
    labels = blobs(seed)
    labels[3, 5] = 1  # a single pixel
    labels[10, 40:47] = 1000  # a line
    values = np.random.default_rng(0).random(labels.shape)
    shapes = measure_instances(labels, values)
    reference = regionprops(labels, values)
    assert shapes.ids.tolist() == [region.label for region in reference]
    for found, name in (
        (shapes.area, "area"),
        (shapes.centroids, "centroid"),
        (shapes.perimeter, "perimeter"),
        (shapes.mean, "intensity_mean"),
    ):
        np.testing.assert_allclose(found, [region[name] for region in reference], atol=TOL)
    np.testing.assert_allclose(shapes.eccentricity, [r.eccentricity for r in reference], atol=ECCENTRICITY_TOL)


def test_nothing():
    shapes = measure_instances(np.zeros((5, 7), np.int64))
    assert len(shapes.ids) == len(shapes.area) == len(shapes.perimeter) == len(shapes.eccentricity) == 0
    assert shapes.centroids.shape == (0, 2)


def test_one_instance_everywhere():
    shapes = measure_instances(np.full((6, 4), 7))
    assert (shapes.ids, shapes.area) == ([7], [24])
    np.testing.assert_allclose(shapes.centroids, [[2.5, 1.5]])


@pytest.mark.parametrize("labels", [np.zeros((2, 3, 4), int), np.full((2, 2), -1), np.zeros((2, 2))])
def test_what_is_no_label_map(labels):
    with pytest.raises(InputError, match="integers"):
        measure_instances(labels)


def test_solidity():
    labels = blobs(1)
    ids, outlines = label_map_to_polygons(labels)
    reference = {r.label: (r.solidity, r.area) for r in regionprops(labels)}
    large = np.array([reference[i][1] > 100 for i in ids])
    expected = np.array([reference[i][0] for i in ids])
    assert np.abs(solidity(outlines) - expected)[large].max() < SOLIDITY_TOL
    np.testing.assert_allclose(solidity(np.array([shapely.box(0, 0, 3, 2)])), 1)
    assert solidity(np.array([shapely.Polygon([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])])) == pytest.approx(
        6 / 7
    )


@pytest.mark.parametrize("tolerance", [0.3, 0.75, 2.0])
def test_simplified_outlines_stay_near(tolerance):
    outlines = label_map_to_polygons(blobs(2), scale=2)[1]
    simple = simplify_outlines(outlines, tolerance)
    assert shapely.is_valid(simple).all()
    assert (shapely.hausdorff_distance(shapely.boundary(simple), shapely.boundary(outlines)) <= tolerance + TOL).all()
    assert not shapely.is_empty(simple).any()
    if tolerance > 1.5:  # a step aslant is sqrt(2) high
        assert shapely.get_num_coordinates(simple).sum() < 0.6 * shapely.get_num_coordinates(outlines).sum()


def test_simplifying_nothing():
    assert len(simplify_outlines(np.zeros(0, object), 1.0)) == 0
    box = np.array([shapely.box(0, 0, 1, 1)])
    assert simplify_outlines(box, 0) is box
    assert simplify_outlines(box, 10)[0].equals(box[0])  # would vanish
