"""What a frozen network makes of images, kept on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.networks.utils import read_state_dict, weights_digest

__all__ = ["FeatureCache"]


class FeatureCache:
    """Maps of images, a file for each image, found by what the image and the network hold.

    The pixels as the network takes them name the file; the network's layers and weights, the maps that are wanted and
    the precision of automatic casting name its folder. Whatever changes one of these is computed anew, and nothing has
    to be cleared. Maps are kept in the type in which they were computed. A file appears whole or not at all, so that
    several processes may share a folder; a damaged one is computed again.

    Args:
        folder: made as needed.

    Raises:
        InputError: a folder that cannot be made or written to.

    Examples:
        >>> import torch
        >>> from monai_ext.networks.blocks import FeatureCache
        >>> cache, network = FeatureCache(folder / "features"), torch.nn.Conv2d(3, 8, 1)
        >>> maps = cache(network, lambda x: {"map": network(x)}, torch.rand(2, 3, 4, 4), ["map"])
        >>> tuple(maps["map"].shape), len(list(folder.rglob("*.safetensors")))
        ((2, 8, 4, 4), 2)
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise InputError(folder, "a folder for features that can be written to", error.strerror) from error
        self._signature: tuple[tuple[int, int], ...] | None = None
        self._digest = ""

    @torch.no_grad()
    def __call__(
        self,
        network: nn.Module,
        compute: Callable[[Tensor], Mapping[str, Tensor]],
        images: Tensor,
        names: Sequence[str],
    ) -> dict[str, Tensor]:
        """The maps of a batch; only images that are not kept yet are computed.

        Args:
            network: what ``compute`` uses.
            compute: images ``(B, C, H, W)`` -> maps ``(B, ...)`` by name.
            images: ``(B, C, H, W)``.
            names: of the maps that are wanted.

        Returns:
            maps by name, on the device of the images.
        """
        images = images.as_subclass(Tensor)  # the affines of a MetaTensor change nothing
        folder = self.folder / self._key(network, images, names)
        files = [folder / f"{_image_digest(image)}.safetensors" for image in images.cpu()]
        kept = [_read(file) for file in files]
        missing = [index for index, maps in enumerate(kept) if maps is None]
        if missing:
            computed = compute(images[missing])
            for row, index in enumerate(missing):
                maps = {n: computed[n][row].cpu().clone(memory_format=torch.contiguous_format) for n in names}
                _write(files[index], maps)
                kept[index] = maps
        return {name: torch.stack([maps[name] for maps in kept]).to(images.device) for name in names}

    def _key(self, network: nn.Module, images: Tensor, names: Sequence[str]) -> str:
        # each change in place counts up the version of a tensor: hashing a large network for each batch would take
        # longer than what is saved
        state = network.state_dict(keep_vars=True).values()
        signature = tuple((tensor.data_ptr(), tensor._version) for tensor in state)
        if signature != self._signature:
            self._signature, self._digest = signature, weights_digest(network)
        kind = images.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return hashlib.sha256(f"{self._digest} {list(names)} {precision}".encode()).hexdigest()[:32]


def _image_digest(image: Tensor) -> str:
    digest = hashlib.sha256(f"{image.dtype} {tuple(image.shape)}".encode())
    digest.update(image.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        return read_state_dict(file)
    except InputError:  # none, or a damaged one
        return None


def _write(file: Path, maps: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save

    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(save(dict(maps)))
    except OSError as error:
        raise InputError(file.parent, "room for features", error.strerror) from error
