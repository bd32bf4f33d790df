"""The files of a score and its evidence: GeoJSON for QuPath, pictures, a row of a table."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, convert_to_tensor
from skimage.measure import label as connected

from monai_ext.base.overlay import overlay
from monai_ext.data.result_files import OVERLAY, ResultFiles
from monai_ext.formats.geojson import Color, Features, label_map_to_polygons
from monai_ext.formats.resolution import Scale
from monai_ext.metrics.evidence import evidence_mask

__all__ = ["EvidencePiecesd", "SaveEvidenced", "evidence_features"]

_SMALLEST_SIDE = 384  # px of a picture; patches are magnified by whole numbers


def evidence_pieces(evidence: Any, score: float, threshold: float, smooth: float, positive: float) -> np.ndarray:
    """Connected pieces of the evidence, ``(H, W)`` int numbered from 1; none where the score is not above positive."""
    mask = evidence_mask(convert_to_tensor(evidence).float(), threshold, smooth)[0].cpu().numpy()
    return connected(mask & (score > positive), connectivity=2)


def evidence_features(
    pieces: np.ndarray,
    heat: np.ndarray,
    mpp: float = 0,
    scale: Scale = 1,
    classification: str = "Tumor",
    colour: Color = (200, 0, 0),
) -> Features:
    """The outline of each piece with its area and its mean and highest evidence.

    Args:
        pieces: ``(H, W)`` integers, 0 is background.
        heat: ``(H, W)`` evidence.
        mpp: um per px; 0 for no areas in um2.
        scale: px of level 0 per px; ``row, col`` where they differ.
        classification: QuPath class.
        colour: its RGB.

    Examples:
        >>> from monai_ext.transforms.save_evidence import evidence_features
        >>> heat = np.array([[0.0, 0.5, 0.75], [0.0, 0.0, 0.0]])
        >>> tumour = evidence_features(pieces=(heat > 0.3).astype(int), heat=heat, mpp=2.0)
        >>> {name: values.tolist() for name, values in tumour.measurements.items()}
        {'area_px': [2.0], 'mean_evidence': [0.625], 'max_evidence': [0.75], 'area_um2': [8.0]}
    """
    ids, outlines = label_map_to_polygons(pieces.astype(np.int32), scale=scale)
    flat, area = pieces.ravel(), np.bincount(pieces.ravel(), minlength=pieces.max() + 1)
    highest = np.zeros(len(area))
    np.maximum.at(highest, flat, heat.ravel())
    mean = np.bincount(flat, heat.ravel(), minlength=len(area)) / np.maximum(area, 1)
    measured = {"area_px": area[ids], "mean_evidence": mean[ids], "max_evidence": highest[ids]}
    if mpp:
        measured["area_um2"] = area[ids] * mpp**2
    return Features(outlines, measurements=measured, classes=classification, colors={classification: colour})


class EvidencePiecesd(MapTransform):
    """Adds the connected pieces of the evidence where the score is positive.

    Args:
        keys: key of the evidence ``(1, H, W)``.
        pieces_key: where ``(1, H, W)`` integers go, numbered from 1.
        score_key: key of the score.
        threshold: see :class:`SaveEvidenced`.
        smooth: see :class:`SaveEvidenced`.
        positive: see :class:`SaveEvidenced`.
        allow_missing_keys: pass over data without evidence.

    Examples:
        >>> from monai_ext.transforms import EvidencePiecesd
        >>> evidence = torch.zeros(1, 40, 40)
        >>> evidence[0, 4:16, 4:16] = evidence[0, 24:36, 24:36] = 0.8
        >>> int(EvidencePiecesd()({"evidence": evidence, "score": torch.tensor([0.9])})["pieces"].max())
        2
        >>> int(EvidencePiecesd()({"evidence": evidence, "score": torch.tensor([0.1])})["pieces"].max())
        0
    """

    def __init__(
        self,
        keys: str = "evidence",
        *,
        pieces_key: str = "pieces",
        score_key: str = "score",
        threshold: float = 0.5,
        smooth: float = 2.0,
        positive: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.pieces_key, self.score_key = pieces_key, score_key
        self.options = {"threshold": threshold, "smooth": smooth, "positive": positive}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the pieces."""
        d = dict(data)
        for key in self.key_iterator(d):
            score = float(convert_to_numpy(d[self.score_key]).item())
            d[self.pieces_key] = evidence_pieces(d[key], score, **self.options)[None]
        return d


class SaveEvidenced(MapTransform):
    """Write an image's score and the evidence for it, as :class:`~monai_ext.inferers.EvidenceInferer` gives them.

    For an image ``a/b.png`` below ``data_root_dir`` these appear in ``output_dir``, each whole or not at all:

    - ``a/b.geojson``: the outline of each connected piece of evidence, with its area and its mean and highest evidence,
      in QuPath's coordinates (pixels of the file's full resolution). Empty where the score is not above ``positive``.
    - ``a/b_overlay.png``: the image beside itself with the evidence as heat and its outlines.
    - ``summary.csv``: one row for each image: score, whether it is positive, area of the evidence and its share of what
      was scanned.

    Args:
        keys: key of the evidence ``(1, H, W)`` in [0, 1].
        output_dir: folder to write to; it is made.
        data_root_dir: folder that the images lie below.
        score_key: key of the score, one number in [0, 1].
        image_key: key of the image, a MetaTensor ``(C, H, W)`` before any normalisation. Its metadata give
            ``filename_or_obj`` and, as ``LoadFieldd`` writes them, ``mpp`` and ``scale``.
        threshold: evidence above this share of the image's highest counts, as ``tune evidence`` finds it.
        smooth: of the evidence's outlines, px; see :func:`~monai_ext.metrics.evidence.evidence_mask`.
        positive: scores above it are positive.
        mpp: um per px of the image where its metadata do not say; without either there are no areas in um2.
        classification: QuPath class of the evidence.
        colour: RGB of that class, 0 to 255.
        max_side: pictures are reduced until no side is longer, px.
        formats: of the objects, besides GeoJSON, for other programs; see :class:`~monai_ext.exchange.Exchange`.
        allow_missing_keys: whether data without evidence are passed on.

    Raises:
        InputError: when the image does not say which file it came from.

    Examples:
        >>> from monai.data import MetaTensor
        >>> from monai_ext.transforms import SaveEvidenced
        >>> meta = {"filename_or_obj": str(folder / "images" / "a.png")}
        >>> item = {"source": MetaTensor(torch.zeros(3, 40, 40, dtype=torch.uint8), meta=meta)}
        >>> item |= {"evidence": torch.eye(40)[None], "score": torch.tensor([0.9])}
        >>> _ = SaveEvidenced(output_dir=folder / "out", data_root_dir=folder / "images")(item)
        >>> sorted(path.name for path in (folder / "out").glob("a*"))
        ['a.geojson', 'a_overlay.png']
    """

    def __init__(
        self,
        keys: str = "evidence",
        *,
        output_dir: str | os.PathLike[str],
        data_root_dir: str | os.PathLike[str],
        score_key: str = "score",
        image_key: str = "source",
        threshold: float = 0.5,
        smooth: float = 2.0,
        positive: float = 0.5,
        mpp: float | None = None,
        classification: str = "Tumor",
        colour: tuple[int, int, int] = (200, 0, 0),
        max_side: int = 4096,
        formats: str | Sequence[str] = ("geojson",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.files = ResultFiles(output_dir, data_root_dir, max_side, formats)
        self.score_key, self.image_key = score_key, image_key
        self.threshold, self.smooth, self.positive, self.mpp = threshold, smooth, positive, mpp
        self.classification, self.colour = classification, tuple(colour)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the data are returned as they came."""
        d = dict(data)
        for key in self.key_iterator(d):
            image, evidence = d[self.image_key], d[key]
            source = self.files.source(image, self.image_key)
            score = float(convert_to_numpy(d[self.score_key]).item())
            mpp, scale = self.files.resolution(image, self.mpp)
            pieces = evidence_pieces(evidence, score, self.threshold, self.smooth, self.positive)
            heat = convert_to_numpy(evidence)[0]
            features = evidence_features(pieces, heat, mpp, scale, self.classification, self.colour)
            self.files.write_objects(source, image, [features], {self.classification: self.colour})
            self.files.write_picture(self.files.path(source, OVERLAY), self._picture(image, heat, pieces))
            area = int((pieces > 0).sum())
            row = {"score": round(score, 6), "positive": score > self.positive, "evidence_px": area}
            scanned = pieces.size * float(image.meta.get("scanned", 1.0))
            row |= {"evidence_um2": round(area * mpp**2, 3) if mpp else None}
            row |= {"evidence_share": area / scanned if scanned else 0.0}
            self.files.write_row({"image": source.as_posix(), **row}, image)
        return d

    def _picture(self, image: Any, heat: np.ndarray, pieces: np.ndarray) -> np.ndarray:
        times = max(1, round(_SMALLEST_SIDE / max(heat.shape)))
        large = [plane.repeat(times, axis=0).repeat(times, axis=1) for plane in (heat, pieces)]
        plain = overlay(image, channel_dim=0).repeat(times, axis=0).repeat(times, axis=1)
        marked = overlay(plain, heat=large[0], labels=large[1], channel_dim=-1)
        return np.concatenate([plain, np.full((plain.shape[0], 4, 3), 255, np.uint8), marked], axis=1)
