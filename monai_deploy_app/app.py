"""MONAI Deploy application of a bundle: slides in, what the bundle finds on them out, as DICOM beside QuPath's GeoJSON.

``python -m monai_ext export NAME --map`` lays it out beside a bundle. By the SDK's own runner, without a container::

    python app/app.py -i SLIDES -o OUT -m models
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from holoscan.conditions import CountCondition
from monai.deploy.core import Application, Operator, OperatorSpec

FORMATS = ["dicom-ann", "dicom-seg"]
_INFERENCE, _SLIDES = "configs/inference.json", "configs/slides.json"

logger = logging.getLogger(__name__)


class BundleOperator(Operator):
    """Runs a bundle's workflow over the slides of a folder, DICOM series among them.

    Args:
        fragment: the application.
        bundle: the bundle's folder, with the ``monai_ext`` that came along.
        slides: the folder of slides: files and folders of DICOM, one of them for each slide, or any other format.
        results: where results go, a file or more for each slide.
    """

    def __init__(self, fragment: Application, *args: Any, bundle: Path, slides: Path, results: Path, **kwargs: Any):
        self.bundle, self.slides, self.results = bundle, slides, results
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Emit the states of the slides."""
        spec.output("states")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Run the workflow to its end."""
        sys.path.insert(0, str(self.bundle))  # MONAI does so for its own command, not for a workflow
        from monai.bundle import ConfigWorkflow

        configs = [self.bundle / name for name in (_INFERENCE, _SLIDES)]
        workflow = ConfigWorkflow(
            config_file=[str(path) for path in configs if path.is_file()],
            meta_file=str(self.bundle / "configs/metadata.json"),
            workflow_type="inference",
            bundle_root=str(self.bundle),
            dataset_dir=str(self.slides),
            output_dir=str(self.results),
            formats=FORMATS,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        op_output.emit(json.loads((self.results / "state.json").read_text(encoding="utf-8")), "states")


class ReportOperator(Operator):
    """Says of each slide whether it was done, and ends the application with an error if none was."""

    def setup(self, spec: OperatorSpec) -> None:
        """Take the states."""
        spec.input("states")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Log a line for each slide."""
        states = op_input.receive("states")
        for slide, entry in states.items():
            logger.info("%s: %s %s", slide, entry["status"], entry.get("reason") or "")
        if not any(entry["status"] == "done" for entry in states.values()):
            raise RuntimeError("no slide was done; the reasons are above, and in state.json")


class BundleApplication(Application):
    """The bundle below the model folder (``-m``), over the slides of ``-i``; results go to ``-o``."""

    def compose(self) -> None:
        """Connect the two steps."""
        context = Application.init_app_context(self.argv)
        (bundle,) = (path.parents[1] for path in Path(context.model_path).resolve().glob("*/configs/metadata.json"))
        run = BundleOperator(
            self,
            CountCondition(self, 1),
            bundle=bundle,
            slides=Path(context.input_path).resolve(),
            results=Path(context.output_path).resolve(),
            name="bundle",
        )
        self.add_flow(run, ReportOperator(self, name="report"), {("states", "states")})


if __name__ == "__main__":
    BundleApplication().run()
