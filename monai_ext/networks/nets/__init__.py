"""Networks."""

from monai_ext.networks.nets.segmitos import SegMitosFCN

__all__ = ["SegMitosFCN"]
