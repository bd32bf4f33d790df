"""Building blocks of networks."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.networks.blocks.attention import ChannelAttention, MultiBranchAttention, SpatialAttention
    from monai_ext.networks.blocks.backbones import BACKBONES, Backbone
    from monai_ext.networks.blocks.encoders import ENCODERS, Encoder
    from monai_ext.networks.blocks.feature_cache import FeatureCache
    from monai_ext.networks.blocks.grid_gcn import GridGCN, GridGraphConv
    from monai_ext.networks.blocks.group_conv import GroupBatchNorm2d, GroupConv2d, GroupPool
    from monai_ext.networks.blocks.windows import pool_windows

__all__ = [
    "BACKBONES",
    "ENCODERS",
    "Backbone",
    "ChannelAttention",
    "Encoder",
    "FeatureCache",
    "GridGCN",
    "GridGraphConv",
    "GroupBatchNorm2d",
    "GroupConv2d",
    "GroupPool",
    "MultiBranchAttention",
    "SpatialAttention",
    "pool_windows",
]

__getattr__ = lazy_names(__name__, __file__)
