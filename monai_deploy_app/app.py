"""MONAI Deploy application of a bundle: slides in, what the bundle finds on them out, as DICOM beside QuPath's GeoJSON.

``python -m monai_ext export NAME --map True`` lays it out beside a bundle. By the SDK's runner, without a container::

    python app/app.py -i SLIDES -o OUT -m models
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from holoscan.conditions import CountCondition
from monai.deploy.core import Application, Operator, OperatorSpec

FORMATS = ["dicom-ann", "dicom-seg"]
METADATA = "configs/metadata.json"
CONFIGS = ("configs/inference.json", "configs/slides.json")  # the second where a bundle has it


class BundleOperator(Operator):
    """Runs a bundle's workflow over the slides of a folder, once.

    Args:
        fragment: the application.
        bundle: the bundle's folder, with the ``monai_ext`` that came along.
        slides: a folder of DICOM files, or of folders of them, a series each; or of slides in any other format.
        results: where results go, some files for each slide.
        name: the operator's.
    """

    def __init__(self, fragment: Application, bundle: Path, slides: Path, results: Path, name: str = "bundle") -> None:
        self.bundle, self.slides, self.results = bundle, slides, results
        super().__init__(fragment, CountCondition(fragment, 1), name=name)

    def setup(self, spec: OperatorSpec) -> None:
        """Nothing goes in or out but files."""

    def compute(self, *_: Any) -> None:
        """Run the workflow to its end; which slides were done, and why others were not, is in ``state.json``."""
        sys.path.insert(0, str(self.bundle))  # as MONAI's own command does
        from monai.bundle import ConfigWorkflow

        workflow = ConfigWorkflow(
            config_file=[str(self.bundle / name) for name in CONFIGS if (self.bundle / name).is_file()],
            meta_file=str(self.bundle / METADATA),
            workflow_type="inference",
            bundle_root=str(self.bundle),
            dataset_dir=str(self.slides),
            output_dir=str(self.results),
            formats=FORMATS,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()


class BundleApplication(Application):
    """The bundle in the model folder (``-m``), over the slides of ``-i``; results go to ``-o``."""

    def compose(self) -> None:
        """A single operator."""
        context = Application.init_app_context(self.argv)
        folders = [Path(path).resolve() for path in (context.model_path, context.input_path, context.output_path)]
        (metadata,) = folders[0].glob(f"*/{METADATA}")
        self.add_operator(BundleOperator(self, metadata.parents[1], *folders[1:]))


if __name__ == "__main__":
    BundleApplication().run()
