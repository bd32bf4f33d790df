"""Transforms, each array transform with its dictionary twin."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.transforms.blobs import BlobDetections, BlobDetectionsd
    from monai_ext.transforms.cells import FindCellsd, SaveCellsd
    from monai_ext.transforms.concentric import (
        ConcentricLabel,
        ConcentricLabeld,
        RandConcentricLabel,
        RandConcentricLabeld,
    )
    from monai_ext.transforms.diagnose_vessel import DiagnoseVesseld, VesselDiagnosis
    from monai_ext.transforms.fields import LoadFieldd
    from monai_ext.transforms.geojson import LoadGeoJSON, LoadGeoJSONd
    from monai_ext.transforms.grid_crops import GridCrops, GridCropsd
    from monai_ext.transforms.instance_mask import InstancesToMask, InstancesToMaskd
    from monai_ext.transforms.instance_targets import InstancesToTargetd, KeepSured, MergeInstancesd, PickInstancesd
    from monai_ext.transforms.instances import NucleusInstances, NucleusInstancesd
    from monai_ext.transforms.kcf import KCFPseudoMask, KCFPseudoMaskd
    from monai_ext.transforms.label_image import LabelImaged
    from monai_ext.transforms.load_vessel import LoadVesseld
    from monai_ext.transforms.lumen import KeepLumen, KeepLumend
    from monai_ext.transforms.mark_done import MarkDoned
    from monai_ext.transforms.mosaic import (
        CellGridMosaic,
        CellGridMosaicd,
        CutCellPatches,
        CutCellPatchesd,
        PatchClassesd,
        spread_patches,
    )
    from monai_ext.transforms.network_input import NetworkInputd
    from monai_ext.transforms.paste import RandPasteGlassd, RandPasteNucleid
    from monai_ext.transforms.patches import RandFieldPatchesd
    from monai_ext.transforms.points import LoadPoints, LoadPointsd
    from monai_ext.transforms.radiograph import LoadRadiographd
    from monai_ext.transforms.save_detections import SaveDetectionsd
    from monai_ext.transforms.save_evidence import EvidencePiecesd, SaveEvidenced
    from monai_ext.transforms.save_masks import SaveMasksd
    from monai_ext.transforms.save_nuclei import SaveNucleid
    from monai_ext.transforms.save_vessels import SaveVesseld
    from monai_ext.transforms.scan_quality import RandScanQuality, RandScanQualityd
    from monai_ext.transforms.seeds import SeedMasksFromRelevance, SeedMasksFromRelevanced
    from monai_ext.transforms.stain import MacenkoNormalize, MacenkoNormalized, RandStainJitter, RandStainJitterd
    from monai_ext.transforms.valid_area import KeepValidd
    from monai_ext.transforms.whole_instances import WholeInstances, WholeInstancesd

__all__ = [
    "BlobDetections",
    "BlobDetectionsd",
    "CellGridMosaic",
    "CellGridMosaicd",
    "ConcentricLabel",
    "ConcentricLabeld",
    "CutCellPatches",
    "CutCellPatchesd",
    "DiagnoseVesseld",
    "EvidencePiecesd",
    "FindCellsd",
    "GridCrops",
    "GridCropsd",
    "InstancesToMask",
    "InstancesToMaskd",
    "InstancesToTargetd",
    "KCFPseudoMask",
    "KCFPseudoMaskd",
    "KeepLumen",
    "KeepLumend",
    "KeepSured",
    "KeepValidd",
    "LabelImaged",
    "LoadFieldd",
    "LoadGeoJSON",
    "LoadGeoJSONd",
    "LoadPoints",
    "LoadPointsd",
    "LoadRadiographd",
    "LoadVesseld",
    "MacenkoNormalize",
    "MacenkoNormalized",
    "MarkDoned",
    "MergeInstancesd",
    "NetworkInputd",
    "NucleusInstances",
    "NucleusInstancesd",
    "PatchClassesd",
    "PickInstancesd",
    "RandConcentricLabel",
    "RandConcentricLabeld",
    "RandFieldPatchesd",
    "RandPasteGlassd",
    "RandPasteNucleid",
    "RandScanQuality",
    "RandScanQualityd",
    "RandStainJitter",
    "RandStainJitterd",
    "SaveCellsd",
    "SaveDetectionsd",
    "SaveEvidenced",
    "SaveMasksd",
    "SaveNucleid",
    "SaveVesseld",
    "SeedMasksFromRelevance",
    "SeedMasksFromRelevanced",
    "VesselDiagnosis",
    "WholeInstances",
    "WholeInstancesd",
    "spread_patches",
]

__getattr__ = lazy_names(__name__, __file__)
