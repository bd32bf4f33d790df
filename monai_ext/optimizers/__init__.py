"""Parameter groups for optimizers."""

from monai_ext.optimizers.param_groups import caffe_param_groups

__all__ = ["caffe_param_groups"]
