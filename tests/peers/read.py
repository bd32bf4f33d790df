"""Other programs read what write.py wrote; a line for each: ``python tests/peers/read.py FOLDER``.

Runs in an environment that has those programs and not this project. What is not installed is left out, and said so.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import shapely

HERE = Path(__file__).parent
# what dicom3tools 1.00 (2022) says of files that are as they should be: of CommonZCoordinateValue, which is not there,
# and of what is conditional
KNOWN = ("CommonZCoordinateValue", "<PatientOrientation>", "<Laterality>")


class NotHere(Exception):
    """The program is not installed."""


def expected(folder: Path) -> list[dict]:
    features = json.loads((folder / "a.geojson").read_text())["features"]
    return [
        {
            "shape": shapely.geometry.shape(each["geometry"]),
            "class": each["properties"].get("classification", {}).get("name", "object"),
            **each["properties"].get("measurements", {}),
        }
        for each in features
    ]


def same(shapes, classes, folder: Path) -> None:
    true = expected(folder)
    assert len(shapes) == len(true), (len(shapes), len(true))
    for shape, name, each in zip(shapes, classes, true, strict=True):
        assert name == each["class"], (name, each["class"])
        assert abs(shape.area - each["shape"].area) < 1e-6
        assert shape.centroid.distance(each["shape"].centroid) < 1e-6
        assert len(getattr(shape, "interiors", ())) == len(getattr(each["shape"], "interiors", ()))


def tiatoolbox(folder: Path) -> str:
    """Its store, opened and asked by place and by property."""
    from tiatoolbox.annotation.storage import SQLiteStore

    if not hasattr(sqlite3.Connection, "enable_load_extension"):  # some builds of Python; it is only asked for
        with sqlite3.connect(":memory:") as connection:
            compiled = [option for (option,) in connection.execute("pragma compile_options")]
        SQLiteStore.compile_options = staticmethod(lambda: compiled)
    store = SQLiteStore(folder / "a_store.db")
    found = [store[key] for key in store.keys()]  # noqa: SIM118 - as they were written, not by area
    same([each.geometry for each in found], [each.properties["type"] for each in found], folder)
    near = store.query((45, 30, 75, 50), geometry_predicate="intersects")
    assert len(near) == sum(each["shape"].intersects(shapely.box(45, 30, 75, 50)) for each in expected(folder))
    tumours = store.query(where="props['type'] == 'Tumor'")
    assert [len(each.geometry.interiors) for each in tumours.values()] == [2]
    return f"{len(found)} objects, by place and by class"


def scanpy(folder: Path) -> str:
    """The table, and a picture's colours."""
    import scanpy

    table = scanpy.read_h5ad(folder / "a_objects.h5ad")
    same(shapely.from_wkt(table.obs["outline"].to_numpy(object)), table.obs["class"], folder)
    areas = [each["area_um2"] for each in expected(folder)]
    np.testing.assert_allclose(table[:, "area_um2"].X.ravel(), areas)
    kept = table[table.obs["class"] == "sTIL", ["area_um2"]].copy()
    scanpy.pp.log1p(kept)
    assert len(table.uns["class_colors"]) == len(table.obs["class"].cat.categories)
    return f"{table.n_obs} x {table.n_vars}"


def squidpy(folder: Path) -> str:
    """The graph of neighbours, and which classes are neighbours."""
    import anndata
    import squidpy

    table = anndata.read_h5ad(folder / "a_objects.h5ad")
    squidpy.gr.spatial_neighbors(table, coord_type="generic", delaunay=True)
    squidpy.gr.nhood_enrichment(table, cluster_key="class", seed=0, n_perms=20, show_progress_bar=False)
    return f"{table.obsp['spatial_connectivities'].nnz} neighbours"


def spatialdata(folder: Path) -> str:
    """Shapes from the table's outlines, as the how-to has it."""
    import anndata
    import geopandas
    from spatialdata.models import ShapesModel

    table = anndata.read_h5ad(folder / "a_objects.h5ad")
    areas = table[[not outline.startswith("POINT") for outline in table.obs["outline"]]]
    outlines = geopandas.GeoSeries.from_wkt(areas.obs["outline"])
    shapes = ShapesModel.parse(geopandas.GeoDataFrame(geometry=outlines))
    return f"{len(shapes)} shapes"


def slicerio(folder: Path) -> str:
    """3D Slicer's own reader of segmentations outside of it."""
    import slicerio

    content = slicerio.read_segmentation(str(folder / "a_labels.seg.nrrd"))
    names = [segment["name"] for segment in content["segments"]]
    counts = Counter(each["class"] for each in expected(folder))
    assert names == [*sorted(set(counts) - {"object"}), "object"], names
    tumour = next(segment for segment in content["segments"] if segment["name"] == "Tumor")
    region = next(each["shape"] for each in expected(folder) if each["class"] == "Tumor")
    assert (content["voxels"] == tumour["labelValue"]).sum() == region.area
    np.testing.assert_allclose(tumour["color"], (200 / 255, 0, 0), atol=1e-5)
    ijk_to_lps = content["ijkToLPS"]
    np.testing.assert_allclose(np.diag(ijk_to_lps), (0.00025, 0.00025, 0.00025, 1))
    return ", ".join(names)


def convert3d(folder: Path) -> str:
    """ITK-SNAP's own reading of images, by the program of its authors; and its file of labels."""
    import SimpleITK
    from picsl_c3d import Convert3D

    classes = [each["class"] for each in expected(folder)]
    region = next(each["shape"] for each in expected(folder) if each["class"] == "Tumor")
    for name in ("a_labels.nii.gz", "a_labels.mha", "a_labels.seg.nrrd"):
        program = Convert3D(out=io.StringIO())
        program.execute(f"{folder / name} -info")
        image = program.peek(-1)
        assert image.GetSize() == (600, 400, 1), (name, image.GetSize())
        np.testing.assert_allclose(image.GetSpacing()[:2], 0.00025, rtol=1e-6)  # mm
        np.testing.assert_array_equal(image.GetOrigin(), 0)
        np.testing.assert_array_equal(image.GetDirection(), np.eye(3).ravel())
        numbers = SimpleITK.GetArrayFromImage(image)[0]
        rows = (folder / ("a_labels.txt" if "mha" not in name else "a_labels.mha.txt")).read_text().splitlines()
        labels = {row.split('"')[1]: int(row.split()[0]) for row in rows if not row.startswith("#")}
        assert set(classes) - {"object"} <= set(labels), labels
        assert (numbers == labels["Tumor"]).sum() == region.area, name
        x, y = (int(side) for side in region.representative_point().coords[0])
        assert numbers[y, x] == labels["Tumor"], name
    return f"{len(labels)} labels, 3 files alike"


def ome_zarr(folder: Path) -> str:
    """The reader behind napari's plugin."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    nodes = [node for node in Reader(parse_url(folder / "a_maps.ome.zarr", mode="r"))() if node.data]
    shapes = [node.data[0].shape for node in nodes]
    assert shapes == [(1, 50, 75), (400, 600), (400, 600)], shapes
    labels = next(
        node for node in nodes if any("class" in each for each in node.metadata.get("properties", {}).values())
    )
    properties = labels.metadata["properties"]
    tumour = next(value for value, each in properties.items() if each["class"] == "Tumor")
    region = next(each["shape"] for each in expected(folder) if each["class"] == "Tumor")
    assert (np.asarray(labels.data[0]) == tumour).sum() == region.area
    return ", ".join(map(str, shapes))


def napari(folder: Path) -> str:
    """napari's plugin: the layers that the viewer gets, with their names, in um.

    Where they begin is not looked at: 0.10.0 drops it (findings/napari_ome_zarr_drops_translation.sh).
    """
    from napari_ome_zarr import napari_get_reader

    path = str(folder / "a_maps.ome.zarr")
    found = {}
    for levels, about, kind in napari_get_reader(path)(path):
        names = about["name"] if kind == "image" else [about["name"]]
        sides = np.array(levels[0].shape[-2:]) * about["scale"][-2:]
        np.testing.assert_allclose(sides, (100, 150), err_msg=str(names))  # 400 x 600 px of .25 um
        assert about["units"] == ("micrometer", "micrometer")
        found |= dict.fromkeys(names, kind)
    assert list(found.values()) == ["image", "labels", "labels"], found
    assert "Tumor" in next(iter(found)), found
    return ", ".join(found)


def ometiff(folder: Path) -> str:
    """The heat map by the Digital Slide Archive's reader of OME-TIFF: size, resolution, where it is hot."""
    import large_image_source_ometiff

    source = large_image_source_ometiff.open(str(folder / "a_heatmap.ome.tif"))
    about = source.getMetadata()
    assert (about["sizeY"], about["sizeX"]) == (50, 75), about
    np.testing.assert_allclose((about["mm_x"], about["mm_y"]), 0.002)
    region, _ = source.getRegion(format="numpy")
    hot = region[..., 0] > region[..., 0].min()
    assert hot[10:15, 20:25].all()
    assert hot.sum() == 25, hot.sum()
    return f"{about['sizeY']} x {about['sizeX']}, {about['mm_x'] * 1000:g} um"


def large_image(folder: Path) -> str:
    """The schema of the Digital Slide Archive's annotations: its module needs a server, the schema's class does not."""
    import copy

    import jsonschema

    spec = importlib.util.find_spec("girder_large_image_annotation")
    if spec is None:
        raise NotHere("girder-large-image-annotation")
    tree = ast.parse((Path(spec.origin).parent / "models/annotation.py").read_text())
    wanted = [node for node in tree.body if getattr(node, "name", "") in ("extendSchema", "AnnotationSchema")]
    scope = {"copy": copy}
    exec(compile(ast.Module(wanted, []), "annotation.py", "exec"), scope)
    schema = scope["AnnotationSchema"].annotationSchema
    content = json.loads((folder / "a_dsa.json").read_text())
    jsonschema.Draft6Validator(schema).validate(content)
    return f"{len(content['elements'])} elements"


def dciodvfy(folder: Path) -> str:
    """The validator of dicom3tools."""
    if shutil.which("dciodvfy") is None:
        raise NotHere("dciodvfy (apt: dicom3tools)")
    errors = []
    for name in ("a_annotations.dcm", "a_segmentation.dcm"):
        said = subprocess.run(["dciodvfy", str(folder / name)], check=False, capture_output=True, text=True).stderr
        errors += [f"{name}: {line}" for line in said.splitlines() if line.startswith("Error")]
    unknown = [line for line in errors if not any(known in line for known in KNOWN)]
    assert not unknown, "\n".join(unknown)
    return "annotations, segmentation"


def node(folder: Path) -> str:
    """ome-zarr.js, which web viewers use."""
    if shutil.which("node") is None or not (HERE / "node_modules/ome-zarr.js").is_dir():
        raise NotHere("Node with ome-zarr.js (npm install in tests/peers)")
    return _by_node("read.mjs", folder / "a_maps.ome.zarr")


def geotiff(folder: Path) -> str:
    """geotiff.js, by which viewers in browsers read OME-TIFF."""
    if shutil.which("node") is None or not (HERE / "node_modules/geotiff").is_dir():
        raise NotHere("Node with geotiff.js (npm install in tests/peers)")
    return _by_node("read_tiff.mjs", folder / "a_heatmap.ome.tif")


def _by_node(script: str, path: Path) -> str:
    done = subprocess.run(["node", str(HERE / script), str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().replace("\n", "; ")


CHECKS = (
    *(tiatoolbox, scanpy, squidpy, spatialdata, slicerio, convert3d, ome_zarr, napari, ometiff, large_image, dciodvfy),
    *(node, geotiff),
)


def main(folder: Path) -> int:
    failed = 0
    logging.disable(logging.WARNING)
    for check in CHECKS:
        try:
            print(f"ok       {check.__name__:12} {check(folder)}", flush=True)
        except (NotHere, ModuleNotFoundError) as error:
            print(f"not here {check.__name__:12} {error}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED   {check.__name__:12} {type(error).__name__}: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
