"""Is this my tissue? What a network sees of an image, held against what it saw of its training images."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from monai_ext.base.distributed import is_first
from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.networks.convention import InputConvention
from monai_ext.networks.tissue_features import TissueFeatures

__all__ = ["TissueCheck", "TissueDistribution", "TissueReport", "TissueWatch", "report_tissue", "state_digest"]

_ARRAYS = ("mean", "whitening")
_ENOUGH = 2.0  # tiles of tissue
_UNLIKE = "is unlike the training data"
_ADVICE = "do not trust these results without checking"


def state_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights alone: whoever wrote it out, it is the same."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class TissueDistribution:
    """How the features of training tiles are spread: their mean, and the linear map that makes them white noise.

    A tile's distance is the Mahalanobis distance, over D features. The covariance is shrunk towards a multiple of the
    identity as far as Ledoit and Wolf (2004) find best, as there may be fewer tiles than features.

    Attributes:
        mean: ``(D,)``, float32.
        whitening: ``(D, D)``, float32, on the same device: what brings features less the mean to unit variance.
        radius: distance beyond which a tile is outside.

    Examples:
        >>> import torch
        >>> from monai_ext.networks import TissueDistribution
        >>> tiles = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        >>> seen = TissueDistribution.fit(tiles[:1000], tiles[1000:], outside=0.05)
        >>> round(float((seen.distance(tiles[1000:]) > seen.radius).float().mean()), 3)
        0.05
        >>> float((seen.distance(tiles + 3) > seen.radius).float().mean()) > 0.95
        True
    """

    mean: Tensor
    whitening: Tensor
    radius: float

    @classmethod
    def fit(cls, training: Tensor, validation: Tensor, outside: float) -> TissueDistribution:
        """The distribution of training tiles, its radius such that a share of the validation tiles is outside.

        Args:
            training: features, ``(N, D)``.
            validation: features, ``(M, D)``.
            outside: the share, between 0 and 1.
        """
        features = training.double().numpy()
        mean, spread = features.mean(0), features.std(0) + 1e-6
        covariance = _shrunk_covariance((features - mean) / spread)
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)) / spread
        seen = cls(torch.from_numpy(mean).float(), torch.from_numpy(whitening).float(), 0.0)
        radius = np.quantile(seen.distance(validation).double().numpy(), 1 - outside, method="nearest")
        return replace(seen, radius=float(radius))

    def to(self, device: torch.device) -> TissueDistribution:
        """The same on another device."""
        return replace(self, mean=self.mean.to(device), whitening=self.whitening.to(device))

    def distance(self, features: Tensor) -> Tensor:
        """The distance of each tile, ``(N,)``, from its features ``(N, D)``."""
        return ((features - self.mean) @ self.whitening.T).square().sum(1).sqrt()


def _shrunk_covariance(features: np.ndarray) -> np.ndarray:
    """The covariance of centred features ``(N, D)``, shrunk by Ledoit and Wolf's formula."""
    count, dimensions = features.shape
    covariance = features.T @ features / count
    scale = np.trace(covariance) / dimensions
    far = ((covariance - scale * np.eye(dimensions)) ** 2).sum()
    noise = ((features**2).T @ features**2).sum() / count**2 - (covariance**2).sum() / count
    shrinkage = min(max(noise / far, 0.0), 1.0) if far else 1.0
    return (1 - shrinkage) * covariance + shrinkage * scale * np.eye(dimensions)


class TissueCheck:
    """Says which share of an image's tissue is unlike what the weights were trained on.

    The file beside the weights, ``tissue.npz``, is what ``python -m monai_ext tune tissue`` made of the training and
    validation lists. It belongs to these weights, layers and tiles alone. Where there is none, one of other weights, or
    a network that cannot be listened to, nothing is compared, and one line on stderr says so.

    Args:
        path: the file.
        network: with its weights.
        layers: whose maps are the features, see :class:`~monai_ext.networks.TissueFeatures`.
        tile: px of the network's input.
        convention: of that input; by default RGB divided by 255.
        quiet: say nothing where nothing can be compared.

    Attributes:
        seen: the distribution; ``None`` where nothing can be compared.
        limit: share of an image's tissue above which it is foreign.
        about: what else the file tells.
        reason: why nothing can be compared; else empty.
        digest: SHA-256 of the file; empty where nothing is compared.

    Raises:
        InputError: a file that holds something else.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        network: nn.Module,
        layers: Sequence[str],
        tile: int,
        convention: InputConvention | None = None,
        quiet: bool = False,
    ) -> None:
        self.path, self.network = Path(path), network
        self.layers, self.tile, self.convention = list(layers), tile, convention or InputConvention()
        self.seen: TissueDistribution | None = None
        self.limit, self.about, self.digest, self.reason = 1.0, {}, "", ""
        try:
            self.listen(network, lambda *_: None).remove()
        except InputError:
            self.reason = f"{type(network).__name__} gives none of its layers"
        if not self.reason:
            self.reason = self._read()
        if self.reason and not quiet and is_first():
            print(f"tissue is not compared with the training data: {self.reason}", file=sys.stderr)

    def _read(self) -> str:
        """Take the file's content, or say why not."""
        if not self.path.is_file():
            return f"no {self.path}, which `python -m monai_ext tune tissue` makes"
        try:
            with np.load(self.path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                arrays = [torch.from_numpy(file[name].astype(np.float32)) for name in _ARRAYS]
            same = about["layers"] == self.layers and about["tile"] == self.tile
            seen, limit = TissueDistribution(*arrays, float(about["radius"])), float(about["limit"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(self.path, "what `python -m monai_ext tune tissue` writes", repr(error)) from error
        if not same or about["weights"] != state_digest(self.network):
            return f"{self.path} belongs to {'other weights' if same else 'other layers or tiles'}"
        self.seen, self.limit, self.about = seen, limit, about
        self.digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return ""

    def save(self, path: str | os.PathLike, seen: TissueDistribution, limit: float, about: dict[str, Any]) -> None:
        """Write a distribution of this network's features, for these weights alone.

        Args:
            path: the file.
            seen: the distribution.
            limit: share of an image's tissue above which it is foreign.
            about: what else there is to tell, for JSON.
        """
        bound = {"weights": state_digest(self.network), "layers": self.layers, "tile": self.tile}
        told = json.dumps({**bound, "radius": seen.radius, "limit": limit, **about})
        arrays = {name: getattr(seen, name).cpu().numpy() for name in _ARRAYS}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, about=np.array(told), **arrays)

    def listen(self, network: nn.Module, take: Callable[[Tensor, Tensor], None]) -> TissueFeatures:
        """Hand on the features of each pass of ``network``, which has the layers of this check's own."""
        return TissueFeatures(network, self.layers, self.tile, self.convention, take)

    @property
    def watched(self) -> list[str]:
        """The layers that another engine is to give for a watch; none where nothing can be compared."""
        return [] if self.seen is None else self.layers

    def watch(self, network: nn.Module) -> TissueWatch | None:
        """Count the tissue that ``network`` sees from now on; ``None`` where nothing can be compared."""
        return None if self.seen is None else TissueWatch(self, self.seen, network)

    def facts(self, counts: Tensor | Sequence[float]) -> dict[str, Any]:
        """What a summary's row is to say of an image.

        Args:
            counts: what a watch counted.

        Returns:
            ``foreign_share``: of its tissue, what is outside; NaN without tissue. ``foreign``: the warning, where more
            than the limit is outside; of an image of hardly two tiles there is none, as single tiles can be rare.
        """
        tissue, outside = (float(each) for each in counts)
        share = round(outside / tissue, 4) if tissue > 0 else math.nan
        foreign = tissue >= _ENOUGH and share > self.limit
        told = f"{share:.0%} of the tissue {_UNLIKE}: {_ADVICE}" if foreign else ""
        return {"foreign_share": share, "foreign": told}


class TissueReport(NamedTuple):
    """What a run's report says of its tissue.

    Attributes:
        metrics: the mean of its images' shares, by name.
        notes: the same as a line, or why there is none.
        warning: that line, where it is one to heed; else empty.
    """

    metrics: dict[str, float]
    notes: dict[str, str]
    warning: str


def report_tissue(check: TissueCheck | None, rows: Iterable[Mapping[str, Any]], kind: str = "images") -> TissueReport:
    """Sum up a run.

    Args:
        check: what its images were held against; ``None`` for a run without, of which nothing is said.
        rows: of its summary, with ``foreign_share`` and ``warnings`` where they have some.
        kind: what they are.
    """
    if check is None:
        return TissueReport({}, {}, "")
    if check.seen is None:
        return TissueReport({}, {"Tissue": f"not compared with the training data: {check.reason}"}, "")
    rows = list(rows)
    shares = [row["foreign_share"] for row in rows if row.get("foreign_share") is not None]
    shares = [share for share in shares if not math.isnan(share)]
    if not shares:
        return TissueReport({}, {"Tissue": f"no {kind} with enough tissue to compare with the training data"}, "")
    mean, foreign = sum(shares) / len(shares), sum(_UNLIKE in str(row.get("warnings")) for row in rows)
    told = f"{mean:.0%} of it {_UNLIKE} (of the validation list's, {check.about['outside']:.0%})"
    if foreign:
        told += f", more than {check.limit:.0%} in {foreign} of {len(rows)} {kind}"
    if mean > check.limit or foreign == len(rows):
        told += f": {_ADVICE}"
    elif foreign:
        told += ": do not trust the results there without checking"
    warned = foreign or mean > check.limit
    return TissueReport(
        {"tissue unlike the training data": round(mean, 4)}, {"Tissue": told}, f"Tissue: {told}." if warned else ""
    )


class TissueWatch:
    """Counts tissue, and what of it is outside, while a network runs.

    Args:
        check: what it is held against.
        seen: the distribution.
        network: it is listened to until :meth:`remove`.
    """

    def __init__(self, check: TissueCheck, seen: TissueDistribution, network: nn.Module) -> None:
        self._seen = seen
        self._counts: Tensor | None = None
        self._features = check.listen(network, self._count)
        self.remove = self._features.remove

    def _count(self, features: Tensor, tissue: Tensor) -> None:
        if features.device != self._seen.mean.device:
            self._seen = self._seen.to(features.device)
        outside = self._seen.distance(features) > self._seen.radius
        counts = torch.stack([tissue.sum(), (tissue * outside).sum()])
        self._counts = counts if self._counts is None else self._counts + counts

    def take(self) -> Tensor:
        """Tissue and what of it is outside since the last call, ``(2,)``, in tiles, on the network's device."""
        counts, self._counts = self._counts, None
        return torch.zeros(2) if counts is None else counts
