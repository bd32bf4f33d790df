"""Whole slides: a plan, a stream of tiles, a map on disk, and what is found in it."""

from monai_ext.slides.cells import SlideCells
from monai_ext.slides.detections import iterative_nms
from monai_ext.slides.evaluation import evaluate_slides
from monai_ext.slides.fragments import Box, tissue_fragments
from monai_ext.slides.inferer import SlideInferer, SlideResult
from monai_ext.slides.outputs import OutputSettings
from monai_ext.slides.plan import SlidePlan, plan_slide
from monai_ext.slides.predictor import TilePredictor
from monai_ext.slides.reader import SlideReader, check_slide
from monai_ext.slides.stream import stream_tiles
from monai_ext.slides.tissue import Tissue, tissue_mask

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
