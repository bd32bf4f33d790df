"""Whole slides: a plan, a stream of tiles, a map on disk, and what is found in it."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.formats.fragments import Box, tissue_fragments
    from monai_ext.formats.reader import SlideReader, check_slide
    from monai_ext.formats.tissue import Tissue, tissue_mask
    from monai_ext.reports.slide_evaluation import evaluate_slides
    from monai_ext.slides.cells import SlideCells
    from monai_ext.slides.detections import iterative_nms
    from monai_ext.slides.inferer import SlideInferer, SlideResult
    from monai_ext.slides.outputs import OutputSettings
    from monai_ext.slides.plan import SlidePlan, plan_slide
    from monai_ext.slides.predictor import TilePredictor
    from monai_ext.slides.stream import stream_tiles

__all__ = [
    "Box",
    "OutputSettings",
    "SlideCells",
    "SlideInferer",
    "SlidePlan",
    "SlideReader",
    "SlideResult",
    "TilePredictor",
    "Tissue",
    "check_slide",
    "evaluate_slides",
    "iterative_nms",
    "plan_slide",
    "stream_tiles",
    "tissue_fragments",
    "tissue_mask",
]

__getattr__ = lazy_names(__name__, __file__)
