"""The bundles that are served, with what the app needs of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monai_ext.transforms.diagnose_vessel import VESSEL_COLOURS

__all__ = ["BUNDLES", "Bundle"]

_RED = (200, 0, 0)
_GREEN = (0, 200, 60)


@dataclass(frozen=True)
class Bundle:
    """What the app needs of a bundle: what it learns from, and the names and colours of what it finds."""

    kind: str = "instances"
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: {"nucleus": _GREEN})


BUNDLES = {
    "pathology_mitosis_segmentation": Bundle("points", {"Mitosis": _GREEN}),
    "pathology_metastasis_evidence_localization": Bundle("presence", {"Tumor": _RED}),
    "pathology_cell_semantic_segmentation": Bundle(
        colours={
            "tumor_any": _RED,
            "nonTIL_stromal": _GREEN,
            "sTIL": (30, 90, 255),
            "other_nucleus": (255, 215, 0),
            "nucleus": _GREEN,
        }
    ),
    "pathology_mvi_vessel_classification": Bundle("presence", VESSEL_COLOURS),
    "pathology_nuclei_instance_segmentation": Bundle(),
}
