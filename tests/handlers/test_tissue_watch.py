"""The share of an image's tissue that is unlike the training data reaches its row of the summary."""

import pandas as pd
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import MapTransform

from monai_ext.data.result_files import ResultFiles
from monai_ext.handlers import WatchTissue
from monai_ext.networks import TissueCheck
from tests.networks.test_tissue_check import TILE, Net, tissue, write


class Row(MapTransform):
    """Writes an image's row."""

    def __init__(self, files):
        super().__init__("source")
        self.files = files

    def __call__(self, data):
        self.files.write_row({"image": self.files.source(data["source"]).as_posix()}, data["source"])
        return data


def evaluate(folder, handlers, images):
    network = Net()
    items = [
        {"image": image, "source": MetaTensor(image.clone(), meta={"filename_or_obj": str(folder / name), **meta})}
        for name, image, meta in images
    ]
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(items), batch_size=1),
        network=network,
        postprocessing=Row(ResultFiles(folder / "out", folder)),
        val_handlers=handlers(network),
    )
    evaluator.run()
    return pd.read_csv(folder / "out" / "summary.csv").set_index("image"), evaluator.state.output


IMAGES = [
    ("own.png", tissue(1, seed=2)[0], {}),
    ("foreign.png", tissue(1, seed=3)[0] * 0.4, {"conflict": "two resolutions"}),
    ("glass.png", torch.full((3, 64, 64), 0.95), {}),
]


def test_rows_say_how_foreign_an_image_is(tmp_path, capsys):
    write(tmp_path / "tissue.npz", Net())
    table, told = evaluate(
        tmp_path,
        lambda network: [WatchTissue(TissueCheck(tmp_path / "tissue.npz", network, ["body:fine"], TILE))],
        IMAGES,
    )
    assert table.loc["own.png", "foreign_share"] < 0.3
    assert table.loc["foreign.png", "foreign_share"] > 0.9
    assert table["foreign_share"].isna().tolist() == [name == "glass.png" for name in table.index]
    assert table["warnings"].isna().tolist() == [name != "foreign.png" for name in table.index]
    assert table.loc["foreign.png", "warnings"].startswith("two resolutions; ")
    assert capsys.readouterr().err.count("unlike the training data: do not trust these results") == 1
    plain, before = evaluate(tmp_path / "plain", lambda _: [], IMAGES)
    assert "foreign_share" not in plain
    assert all(torch.equal(one["pred"], other["pred"]) for one, other in zip(told, before, strict=True))


def test_where_nothing_can_be_compared_there_is_no_column(tmp_path, capsys):
    table, _ = evaluate(
        tmp_path,
        lambda network: [WatchTissue(TissueCheck(tmp_path / "tissue.npz", network, ["body:fine"], TILE))],
        IMAGES,
    )
    assert "foreign_share" not in table
    assert table.loc["foreign.png", "warnings"] == "two resolutions"
    assert capsys.readouterr().err.count("\n") == 1
