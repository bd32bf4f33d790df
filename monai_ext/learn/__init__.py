"""From a reviewer's corrections to weights that know them."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.learn.command import learn
    from monai_ext.learn.regions import Region, find_regions, split_regions, write_regions
    from monai_ext.learn.review_orders import compare_review_orders
    from monai_ext.learn.reviews import KEPT, REJECTED, UNSEEN, SlideReview, read_reviews

__all__ = [
    "KEPT",
    "REJECTED",
    "UNSEEN",
    "Region",
    "SlideReview",
    "compare_review_orders",
    "find_regions",
    "learn",
    "read_reviews",
    "split_regions",
    "write_regions",
]

__getattr__ = lazy_names(__name__, __file__)
