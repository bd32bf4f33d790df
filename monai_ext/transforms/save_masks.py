"""A data set whose training images have masks that a network made."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import tifffile
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, ensure_tuple_rep

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.data.result_files import MAP, ResultFiles
from monai_ext.transforms.label_image import file_labels

__all__ = ["SaveMasksd"]


class SaveMasksd(MapTransform):
    """Writes maps of images as TIFF, on the grid of the image's file, and at the end a data list of them.

    Args:
        keys: of maps ``(1, H, W)``: instances, or masks (bool).
        names: under which keys the data list has them; as many as ``keys``. Each is a folder of ``output_dir``.
        output_dir: the data set's folder.
        lists: items by the list's name, as ``load_datalist`` gives them. Files are named after the images' paths
            below the folder that holds them all.
        image_key: the image, a MetaTensor as ``LoadFieldd`` gives it.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> import json
        >>> from PIL import Image
        >>> from monai_ext.transforms import LoadFieldd, SaveMasksd
        >>> Image.fromarray(np.full((20, 30, 3), 255, np.uint8)).save(folder / "a.png")
        >>> lists = {"training": [{"image": str(folder / "a.png")}]}
        >>> save = SaveMasksd("instances", names="label", output_dir=folder / "out", lists=lists)
        >>> item = LoadFieldd(["source"])({"source": str(folder / "a.png")})
        >>> _ = save({**item, "instances": torch.ones(1, 20, 30, dtype=torch.int32)})
        >>> json.loads(save.close().read_text())["training"]
        [{'image': '../a.png', 'label': 'label/a.tif'}]
    """

    def __init__(
        self,
        keys: KeysCollection,
        names: str | Sequence[str],
        output_dir: str | os.PathLike,
        lists: Mapping[str, Sequence[Mapping[str, Any]]],
        image_key: str = "source",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.names, self.output_dir = ensure_tuple_rep(names, len(self.keys)), Path(output_dir)
        self.lists = lists
        root = os.path.commonpath([_absolute(item["image"]).parent for items in lists.values() for item in items])
        self.files = {name: ResultFiles(self.output_dir / name, root) for name in self.names}
        self.image_key = image_key
        self._maps: dict[Path, dict[str, str]] = {}
        self._found = dict.fromkeys(self.names, 0)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write an image's maps; the data are returned as they came."""
        d = dict(data)
        image = d[self.image_key]
        maps = self._maps.setdefault(_absolute(image.meta["filename_or_obj"]), {})
        for key, name in self.key_iterator(d, self.names):
            files = self.files[name]
            path = files.path(files.source(image, self.image_key), MAP)
            values = file_labels(convert_to_numpy(d[key])[0], image)
            with atomic_path(path) as temporary:
                tifffile.imwrite(temporary, values, compression="zlib", metadata=None)
            maps[name] = path.relative_to(self.output_dir).as_posix()
            self._found[name] += bool(values.any())
        return d

    def close(self, needed: str | None = None) -> Path:
        """Write ``dataset.json``: the lists with the maps that were written, paths relative to the data set.

        Args:
            needed: what the error expects where all maps of the first key are empty; ``None`` if that is fine.

        Returns:
            the path of ``dataset.json``.

        Raises:
            InputError: all maps of the first key are empty, and something is needed.
        """
        if needed and not self._found[self.names[0]]:
            raise InputError(self.output_dir, needed, f"none in {len(self._maps)} images")
        path = self.output_dir / "dataset.json"
        content = {name: [self._item(item) for item in items] for name, items in self.lists.items()}
        with atomic_path(path) as temporary:
            temporary.write_bytes(orjson.dumps({"name": "masks", **content}, option=orjson.OPT_INDENT_2))
        return path

    def _item(self, item: Mapping[str, Any]) -> dict[str, Any]:
        entry = {key: self._relative(value) for key, value in item.items()}
        return entry | self._maps.get(_absolute(item["image"]), {})

    def _relative(self, value: Any) -> Any:
        is_path = isinstance(value, str) and Path(value).is_file()
        return Path(os.path.relpath(_absolute(value), self.output_dir.resolve())).as_posix() if is_path else value


def _absolute(path: Any) -> Path:
    """An absolute path that keeps the names of links."""
    return Path(os.path.abspath(str(path)))  # noqa: PTH100 - resolve() would follow them
