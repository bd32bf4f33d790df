"""Images with annotations of their nuclei: what may be wrong with them, before a network is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from monai_ext.base.errors import InputError
from monai_ext.formats.annotation_checks import misfits, spelling_problems
from monai_ext.formats.annotation_files import read_features
from monai_ext.formats.image import read_field, read_mask

__all__ = ["check_annotated_item"]


def check_annotated_item(item: Mapping[str, Any], class_names: Sequence[str], mpp: float | None = None) -> list[str]:
    """What is wrong with one image, its class map and its annotations, a line each.

    Args:
        item: ``image`` (a path) and, each if there is one, ``classes`` (a class map's path), ``annotations``
            (``{name: GeoJSON or DICOM file}`` in pixels of the image's file) and ``mpp``, as
            :func:`~monai_ext.data.load_datalist` gives them.
        class_names: the data set's classes; a class of an annotation that only spells one of them otherwise is wrong.
        mpp: um/px of all files at full resolution.
    """
    problems, field = [], None
    try:
        field = read_field(item["image"], mpp or item.get("mpp"))
    except InputError as error:
        problems.append(str(error))
    for path in item.get("annotations", {}).values():
        try:
            features = read_features(path, item["image"])
        except InputError as error:
            problems.append(str(error))
            continue
        problems += spelling_problems(Counter(features.classes), path, {name: [name] for name in class_names})
        if field is not None:
            file_mpp = field.mpp and field.mpp / field.scale
            problems += misfits(features, path, field.file_shape, file_mpp, item["image"])
    if "classes" in item:
        try:
            shape = read_mask(item["classes"]).shape
            if field is not None and shape != field.file_shape:
                expected = f"the size of {item['image']}, {field.file_shape}"
                problems.append(str(InputError(item["classes"], expected, str(shape))))
        except InputError as error:
            problems.append(str(error))
    return problems
