"""Results and their slides in the browser, and a reviewer's corrections of them."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.view.cases import Case, Cases, find_cases
    from monai_ext.view.command import view
    from monai_ext.view.object_index import ObjectIndex
    from monai_ext.view.review_log import Decision, ReviewLog, reviewed
    from monai_ext.view.reviewers import compare_reviewers

__all__ = [
    "Case",
    "Cases",
    "Decision",
    "ObjectIndex",
    "ReviewLog",
    "compare_reviewers",
    "find_cases",
    "reviewed",
    "view",
]

__getattr__ = lazy_names(__name__, __file__)
