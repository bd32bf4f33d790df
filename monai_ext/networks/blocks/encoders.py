"""Pathology's foundation encoders: how timm builds each, where its weights are, what they may be used for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from monai_ext.networks.convention import IMAGENET

__all__ = ["ENCODERS", "Encoder", "timm_names_of_dinov2"]


@dataclass(frozen=True)
class Encoder:
    """One of them.

    Args:
        hub: owner and name on the Hugging Face hub.
        architecture: timm's name of the network.
        options: what ``timm.create_model`` needs besides.
        licence: of the weights.
        access: ``"open"``, or ``"gated"``: its terms are to be accepted on the hub, and a token is needed.
        mean: of its input, in 0 to 255.
        std: likewise.
        convert: gives its weights timm's names, where they have others.
    """

    hub: str
    architecture: str
    options: Mapping[str, Any]
    licence: str
    access: str
    mean: tuple[float, float, float] = IMAGENET.mean
    std: tuple[float, float, float] = IMAGENET.std
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = field(default=None, repr=False)

    def build(self) -> nn.Module:
        """The network without a head and with random weights, for images of any size that its patches divide."""
        import timm
        from timm.layers import SwiGLUPacked

        options = {"num_classes": 0, "img_size": 224, "dynamic_img_size": True, **self.options}
        if options.pop("swiglu", False):
            options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
        return timm.create_model(self.architecture, **options)


def timm_names_of_dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ``Dinov2Model`` of transformers under the names of timm's vision transformer.

    Query, key and value are one matrix there. The token for masked patches, of training alone, is left out. A state
    dict that has timm's names already is returned as it is.
    """
    if "embeddings.cls_token" not in state:
        return dict(state)
    plain = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
    }
    inside = {
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
    }
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "embeddings.mask_token":
            continue
        for theirs, timms in plain.items():
            if name.startswith(theirs):
                converted[timms + name.removeprefix(theirs)] = value
        if name.startswith("encoder.layer."):
            number, rest = name.removeprefix("encoder.layer.").split(".", 1)
            part = rest.rpartition(".")[2]
            if rest.startswith("attention.attention.query."):
                three = [name.replace(".query.", f".{each}.") for each in ("query", "key", "value")]
                converted[f"blocks.{number}.attn.qkv.{part}"] = torch.cat([state[each] for each in three])
            elif not rest.startswith("attention.attention."):
                for theirs, timms in inside.items():
                    rest = rest.replace(theirs, timms)
                converted[f"blocks.{number}.{rest}"] = value
    return converted


#: By the name that ``backbone=`` takes. Arguments are those of the model cards.
ENCODERS: dict[str, Encoder] = {
    "uni2-h": Encoder(
        hub="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        options={
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "swiglu": True,
            "reg_tokens": 8,
        },
        licence="CC-BY-NC-ND-4.0",
        access="gated",
    ),
    "virchow2": Encoder(
        hub="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        options={"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, "swiglu": True},
        licence="CC-BY-NC-ND-4.0",
        access="gated",
    ),
    "h-optimus-0": Encoder(
        hub="bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        options={"init_values": 1e-5},
        licence="Apache-2.0",
        access="gated",
        mean=(180.341865, 147.575895, 179.422335),
        std=(54.030165, 58.679835, 45.266835),
    ),
    "prov-gigapath": Encoder(
        hub="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        options={
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
        licence="Apache-2.0, for research only by its card",
        access="gated",
    ),
    "phikon-v2": Encoder(
        hub="owkin/phikon-v2",
        architecture="vit_large_patch16_224",
        options={"init_values": 1.0},
        licence="Owkin's non-commercial licence",
        access="open",
        convert=timm_names_of_dinov2,
    ),
}
