"""Pictures and reports."""

from monai_ext.visualize.overlay import overlay
from monai_ext.visualize.report import write_metrics, write_report

__all__ = ["overlay", "write_metrics", "write_report"]
