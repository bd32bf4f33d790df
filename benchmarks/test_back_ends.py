"""Back ends of Cyclic Learning, on the CPU: what finding instances adds to the network's own time, and its parts.

``pytest benchmarks/test_back_ends.py -s`` prints counts and shares, which are in the JSON report's ``extra_info`` too.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.apps.pathology.transforms.post.array import HoVerNetInstanceMapPostProcessing
from monai.transforms.intensity.array import ComputeHoVerMaps
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from monai_ext.inferers import InstanceInferer
from monai_ext.instances.hover import hover_instances, hover_maps
from monai_ext.instances.sparse import SparseInstances
from monai_ext.metrics.instance import Overlaps, PanopticQuality
from monai_ext.networks import load_weights, with_runtime
from monai_ext.networks.nets import NucleiMaskRCNN, NucleiUNet
from monai_ext.phantom import phantom_field


def nuclei(side: int, across: int, seed: int = 0) -> Tensor:
    """Ids ``(side, side)`` of ``across ** 2`` ellipses on a jittered grid, most of them apart."""
    rng = np.random.default_rng(seed)
    ids, rows, cols = np.zeros((side, side), np.int64), *np.mgrid[:side, :side]
    pitch = side / across
    for k in range(across**2):
        row, col = (np.array(divmod(k, across)) + 0.5) * pitch + rng.uniform(-0.15, 0.15, 2) * pitch
        height, width = rng.uniform(0.25, 0.42, 2) * pitch
        box = tuple(slice(max(0, int(at - pitch)), int(at + pitch)) for at in (row, col))
        ids[box][((rows[box] - row) / height) ** 2 + ((cols[box] - col) / width) ** 2 < 1] = k + 1
    return torch.from_numpy(ids)


class Clock:
    """Sums the processor time that is spent in a block."""

    def __init__(self):
        self.seconds = 0.0

    @contextmanager
    def __call__(self):
        began = time.process_time()
        yield
        self.seconds += time.process_time() - began

    def over(self, module):
        """Clock all calls of a module."""
        call = module.forward

        def clocked(*args, **kwargs):
            with self():
                return call(*args, **kwargs)

        module.forward = clocked


class Planted(NucleiMaskRCNN):
    """Computes all that a network computes, untrained, and finds the nuclei whose ids are in the third channel."""

    def __init__(self, backbone: str) -> None:
        super().__init__(backbone)
        self.planting, self.network = Clock(), Clock()
        heads = self.roi_heads
        for part in (self.backbone, self.fpn, self.rpn.head, heads.box_roi_pool, heads.box_head, heads.box_predictor):
            self.network.over(part)
        self.network.over(self.mask_head)
        self.mask_head.register_forward_hook(lambda *_: self.small)

    def compute_dense(self, images):
        with self.planting():
            true = [SparseInstances.from_map(image[2].long()) for image in images]
            self.boxes, self.scores = [each.boxes for each in true], [each.scores for each in true]
            rois = [torch.cat([torch.arange(len(each))[:, None], each.boxes], dim=1) for each in true]
            parts = zip(true, rois, strict=True)
            small = [roi_align(each.masks()[:, None].float(), roi, 28, aligned=True)[:, 0] for each, roi in parts]
            self.small = torch.cat(small) * 20 - 10
        return super().compute_dense(images)

    def detect(self, features, size):
        super().detect(features, size)
        return self.boxes, self.scores


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_share_outside_the_network(benchmark, backbone):
    """The bar: a 1000 x 1000 image with 400+ nuclei spends less than 25 % of its time outside the network.

    Processor time. The network is backbone, pyramid, heads and RoIAlign; outside are anchors, suppression, pasting,
    tiles, and the joining of what they find.
    """
    ids = nuclei(1000, 22)
    image = torch.cat([torch.randn(2, 1000, 1000), ids[None].float()])[None]
    torch.manual_seed(0)
    network = Planted(backbone)
    inferer = InstanceInferer()
    counts = {}

    def run():
        network.planting.seconds = network.network.seconds = 0.0
        began = time.process_time()
        found = inferer(image, network)["instances"]
        own = time.process_time() - began - network.planting.seconds
        counts.update(nuclei=int(found.max()), share=1 - network.network.seconds / own, seconds=own)
        return found

    benchmark.group = "instances of a 1000 x 1000 image, Mask R-CNN"
    found = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info |= counts
    print(backbone, counts)
    assert counts["nuclei"] >= 400
    quality = PanopticQuality.score(Overlaps.count(found[0].long(), ids[None]))
    assert quality[0] >= 0.99 * len(ids.unique())  # what was planted is what was found


@pytest.fixture(scope="module")
def pasted():
    found = SparseInstances.from_map(nuclei(512, 20))
    torch.manual_seed(0)
    return torch.rand(len(found), 28, 28), found.boxes


@pytest.mark.benchmark(group="paste 400 masks, 512 x 512")
class TestPaste:
    def test_monai_ext(self, benchmark, pasted):
        masks, boxes = pasted
        assert len(benchmark(SparseInstances.paste, masks, boxes, masks[:, 0, 0], (512, 512))) == 400

    def test_torchvision(self, benchmark, pasted):
        masks, boxes = pasted
        assert len(benchmark(lambda: paste_masks_in_image(masks[:, None], boxes, (512, 512)) >= 0.5)) == 400


@pytest.mark.benchmark(group="IoU of 484 with 484 masks, 1000 x 1000")
class TestMatching:
    def test_monai_ext(self, benchmark):
        one, other = (SparseInstances.from_map(nuclei(1000, 22, seed)) for seed in (0, 1))
        assert len(benchmark(one.ious, other)[0]) > 400

    def test_dense(self, benchmark):
        one, other = (SparseInstances.from_map(nuclei(1000, 22, seed)).masks() for seed in (0, 1))

        def run():
            shared = one.flatten(1).float() @ other.flatten(1).float().T
            return shared / (one.sum((1, 2))[:, None] + other.sum((1, 2)) - shared)

        assert (benchmark.pedantic(run, rounds=1) > 0).sum() > 400


@pytest.mark.benchmark(group="HoVer-Net's targets, 512 x 512, 400 nuclei")
class TestHoVerMaps:
    def test_monai_ext(self, benchmark):
        assert benchmark(hover_maps, nuclei(512, 20)).abs().max() == 1

    def test_monai(self, benchmark):
        ids = nuclei(512, 20)[None].int()
        assert benchmark.pedantic(ComputeHoVerMaps(), (ids,), rounds=1).abs().max() == 1


@pytest.mark.benchmark(group="HoVer-Net's maps to instances, 512 x 512, 400 nuclei")
class TestHoVerInstances:
    def test_monai_ext(self, benchmark):
        ids = nuclei(512, 20)
        maps = hover_maps(ids).numpy()
        assert benchmark(hover_instances, (ids > 0).numpy().astype(np.float32), maps).max() > 350

    def test_monai(self, benchmark):
        ids = nuclei(512, 20)
        logits, maps = torch.stack([ids == 0, ids > 0]) * 20.0, hover_maps(ids)
        peer = HoVerNetInstanceMapPostProcessing()
        assert len(benchmark.pedantic(peer, (logits, maps), rounds=1)[0]) > 350


WEIGHTS = Path(__file__).parents[1] / "bundles/pathology_nuclei_instance_segmentation/models/model.pt"
LITE = "timm:tf_efficientnet_lite0"
SMALL = {"channels": 64, "box_channels": 256}  # as in the bundle's mask_rcnn.json


class Told(NucleiMaskRCNN):
    """Computes all that a network computes, untrained, and is told where the nuclei are."""

    def detect(self, features, size):
        super().detect(features, size)
        return [self.boxes], [torch.ones(len(self.boxes))]


NETWORKS = {
    "U-Net as shipped": lambda: load_weights(NucleiUNet(LITE), WEIGHTS),
    "Mask R-CNN, EfficientNet-Lite0": lambda: Told(LITE, **SMALL),
    "Mask R-CNN, ResNet-18": lambda: Told("resnet18", **SMALL),
}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NETWORKS)
def test_another_engine(benchmark, name, runtime, tmp_path):
    """A tile of a slide with its halo, 640 x 640 px of the phantom, one thread: all that finding its nuclei takes.

    Processor time of torch as a multiple of the engine's, each pair in turn, their median.
    """
    pytest.importorskip(runtime)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    field = phantom_field((640, 640), seed=1)
    image = torch.from_numpy(field.image.transpose(2, 0, 1)[None].copy()).float().sub(127).div(128)
    network = NETWORKS[name]().eval().to(memory_format=torch.channels_last)
    network.boxes = SparseInstances.from_map(torch.from_numpy(field.instances.astype(np.int64))).boxes
    run = with_runtime(network, runtime, cache_dir=tmp_path)
    ratios, counts = [], set()

    def seconds(find):
        began = time.process_time()
        counts.add(len(find(image)[0]))
        return time.process_time() - began

    try:
        run.find(image)
        benchmark.group = "instances of 640 x 640 px by another engine"
        benchmark.pedantic(lambda: ratios.append(seconds(network.find) / seconds(run.find)), rounds=5)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info |= {"times torch": float(np.median(ratios)), "nuclei": counts.pop()}
    print(name, runtime, benchmark.extra_info)
    assert run.chosen == runtime
    assert not counts  # all the same
