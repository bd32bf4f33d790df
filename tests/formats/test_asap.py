"""ASAP's XML: what is written comes back, what Camelyon's groups mean, what a bad file says."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.base.errors import InputError
from monai_ext.formats.asap import read_asap, read_asap_objects, read_asap_region, write_asap
from monai_ext.formats.outlines import label_map_to_polygons, polygons_to_mask

AREA_TOLERANCE = 1e-6  # px2: cutting a polygon rounds the corners where it is cut

numbers = st.floats(-1e6, 1e6).map(float) | st.integers(-1000, 10**6).map(float)
corners = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8, unique=True)
names = st.sampled_from(["_0", "_1", "_2", "Tumor", "None"]) | st.text("ab&<>\"' é", min_size=1, max_size=5)
masks = st.integers(0, 2**64 - 1).map(
    lambda bits: np.array([bits >> k & 1 for k in range(64)], dtype=bool).reshape(8, 8)
)


def annotation(xy, group="_0", kind="Polygon", order=None):
    order = range(len(xy)) if order is None else order
    lines = "".join(f'<Coordinate Order="{o}" X="{x}" Y="{y}" />' for o, (x, y) in zip(order, xy, strict=True))
    part = "" if group is None else f'PartOfGroup="{group}"'
    return f'<Annotation Name="a" Type="{kind}" {part}><Coordinates>{lines}</Coordinates></Annotation>'


def file(tmp_path, *annotations):
    path = tmp_path / "a.xml"
    path.write_text(
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{"".join(annotations)}</Annotations></ASAP_Annotations>'
    )
    return path


def square(x, y, side):
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


# -------------------------------------------------------------------------------------------------------- round trips


@given(st.dictionaries(names, st.lists(corners, min_size=1, max_size=3), max_size=3))
def test_outlines_come_back_exactly(tmp_path_factory, groups):
    path = tmp_path_factory.mktemp("asap") / "a.xml"
    write_asap(path, {group: [shapely.Polygon(xy) for xy in outlines] for group, outlines in groups.items()})
    back = read_asap(path)
    assert list(back) == list(groups)
    for group, outlines in groups.items():
        assert [shapely.get_coordinates(g)[:-1].tolist() for g in back[group]] == [
            list(map(list, xy)) for xy in outlines
        ]


@given(masks)
def test_masks_with_holes_and_islands_come_back(tmp_path_factory, mask):
    _, polygons = label_map_to_polygons(mask.astype(np.uint8))
    path = write_asap(tmp_path_factory.mktemp("asap") / "a.xml", {"_0": polygons})
    assert all(not len(polygon.interiors) for group in read_asap(path).values() for polygon in group)
    np.testing.assert_array_equal(polygons_to_mask(read_asap_region(path), mask.shape), mask)


def test_a_ring_is_written_as_parts_without_a_hole(tmp_path):
    ring = shapely.box(0, 0, 100, 60) - shapely.box(40, 20, 60, 50) - shapely.box(80, 20, 90, 30)
    path = write_asap(tmp_path / "a.xml", {"_0": [ring]})
    parts = read_asap(path)["_0"]
    assert not any(len(part.interiors) for part in parts)
    assert shapely.area(parts).sum() == ring.area == 6000 - 600 - 100
    assert shapely.union_all(parts).equals(ring)


@given(masks, masks)
def test_group_2_is_cut_out_of_groups_0_and_1(tmp_path_factory, tumour, normal):
    groups = {"_0": tumour & ~np.eye(8, dtype=bool), "_2": normal, "_1": tumour & np.eye(8, dtype=bool)}
    outlines = {name: label_map_to_polygons(mask.astype(int))[1] for name, mask in groups.items()}
    region = read_asap_region(write_asap(tmp_path_factory.mktemp("asap") / "a.xml", outlines))
    np.testing.assert_array_equal(polygons_to_mask(region, tumour.shape), tumour & ~normal)
    assert shapely.union_all(region).area == pytest.approx(shapely.area(region).sum(), abs=AREA_TOLERANCE), "disjoint"


# ------------------------------------------------------------------------------------------------- what the groups mean


@pytest.mark.parametrize("group", ["_0", "_1", "Tumor", "metastases", "None", None, ""])
def test_tumour_groups(tmp_path, group):
    (polygon,) = read_asap_region(file(tmp_path, annotation(square(10, 20, 4), group)))
    assert polygon.bounds == (10, 20, 14, 24)


@pytest.mark.parametrize("group", ["_2", "Exclusion", "normal"])
def test_groups_that_are_cut_out(tmp_path, group):
    path = file(tmp_path, annotation(square(2, 2, 2), group), annotation(square(0, 0, 6)), annotation(square(3, 3, 1)))
    (polygon,) = read_asap_region(path)
    assert polygon.area == 36 - 4, "even where another outline covers the hole"


def test_objects_are_what_has_an_area(tmp_path, capsys):
    """In the file's order, the groups being the classes; dots and points only where they are asked for."""
    path = file(
        tmp_path,
        annotation(square(0, 0, 4), "tumour"),
        annotation([(20, 20), (29, 29)], "tumour"),  # an outline begun and left
        annotation([(50, 60)], "mitosis", kind="Dot"),
        annotation(square(10, 0, 6), None, kind="Spline"),
        annotation([(5, 5), (6, 6)], "mitosis", kind="PointSet"),
        annotation(square(12, 2, 2), "_2"),
    )
    objects, regions = read_asap_objects(path)
    assert objects.classes.tolist() == ["tumour", None]
    assert shapely.area(objects.geometry).tolist() == [16, 36 - 4]
    assert len(regions) == 0
    assert "without an area, left out: 1" in capsys.readouterr().err
    objects, _ = read_asap_objects(path, areas=False)
    assert objects.classes.tolist() == ["tumour", "mitosis", None, "mitosis"]
    assert shapely.get_coordinates(objects.geometry[[1, 3]]).tolist() == [[50, 60], [5, 5], [6, 6]]


def test_own_groups(tmp_path):
    path = file(tmp_path, annotation(square(0, 0, 6), "epithelium"), annotation(square(2, 2, 2), "lumen"))
    assert read_asap_region(path, ["epithelium"], ["lumen"])[0].area == 32
    with pytest.raises(InputError, match=r"a\.xml: expected groups among _0, .*, found epithelium, lumen$"):
        read_asap_region(path)


def test_kinds(tmp_path):
    path = file(
        tmp_path,
        annotation(square(0, 0, 2), kind="Spline"),
        annotation(square(5, 0, 2), kind="Rectangle"),
        annotation([(1, 1)], kind="Dot"),
        annotation(square(0, 0, 9), kind="PointSet"),
        annotation([(0, 0), (9, 9)], kind="Polygon"),
        annotation([(0, 0), (9, 9), (0, 0)], kind="Polygon"),
        annotation([(3, 3)], kind="Polygon"),
        annotation([(3, 3)] * 3, kind="Polygon"),
    )
    assert [geometry.geom_type for geometry in read_asap(path)["_0"]] == ["Polygon"] * 2 + ["MultiPoint"] * 6
    assert shapely.area(read_asap_region(path)).sum() == 8


def test_order_commas_and_crossing_outlines(tmp_path):
    path = file(tmp_path, annotation([("2,5", 2), (0, 0), ("2,5", 0)], order=[2, 0, 1]))
    assert shapely.get_coordinates(read_asap(path)["_0"][0])[:3].tolist() == [[0, 0], [2.5, 0], [2.5, 2]]
    bow = read_asap_region(file(tmp_path, annotation([(0, 0), (4, 4), (4, 0), (0, 4)])))
    assert len(bow) == 2
    assert shapely.area(bow).sum() == 8


def test_no_annotations_at_all(tmp_path):
    assert read_asap(write_asap(tmp_path / "b.xml", {"_0": [], "_2": [shapely.Polygon()]})) == {}
    assert read_asap(file(tmp_path)) == {}
    assert len(read_asap_region(file(tmp_path))) == 0


# ------------------------------------------------------------------------------------------------------------ bad files

BOMB = '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FETCH = '<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("<ASAP_Annotations><Annotations>", id="cut off"),
        pytest.param("no XML", id="text"),
        pytest.param(b"\xff\xfe\x00\xd8", id="bytes"),
        pytest.param('<?xml version="1.0" encoding="klingon"?><ASAP_Annotations/>', id="encoding"),
        pytest.param(f"{BOMB}<ASAP_Annotations>&b;</ASAP_Annotations>", id="bomb"),
        pytest.param(f"{FETCH}<ASAP_Annotations>&a;</ASAP_Annotations>", id="fetch"),
        pytest.param("<!DOCTYPE b><ASAP_Annotations/>", id="document type"),
    ],
)
def test_not_xml(tmp_path, content):
    path = tmp_path / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"a\.xml: expected ASAP annotations \(XML without a document type\), found ."):
        read_asap(path)


def test_other_xml_and_no_file(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<Annotations><Annotation/></Annotations>")  # Aperio's
    with pytest.raises(InputError, match=r"expected XML of ASAP \(<ASAP_Annotations>\), found <Annotations>"):
        read_asap(path)
    with pytest.raises(InputError, match="expected a readable XML file, found No such file"):
        read_asap(tmp_path / "b.xml")


@pytest.mark.parametrize(
    ("xy", "message"),
    [
        ([("one", 2)], "coordinates with Order, X and Y, found could not convert"),
        ([("nan", 2)], "finite coordinates X and Y, found nan"),
        ([("inf", 2)], "finite coordinates X and Y, found inf"),
        ([(1e12, 2)], "finite coordinates X and Y, found 10000"),
        ([], "finite coordinates X and Y, found none"),
    ],
)
def test_bad_coordinates(tmp_path, xy, message):
    with pytest.raises(InputError, match=rf"a\.xml, annotation a: expected {message}"):
        read_asap(file(tmp_path, annotation(xy)))


def test_missing_coordinates(tmp_path):
    with pytest.raises(InputError, match="expected coordinates with Order, X and Y, found 'Y'"):
        read_asap(file(tmp_path, annotation(square(0, 0, 1)).replace("Y=", "Z=")))
