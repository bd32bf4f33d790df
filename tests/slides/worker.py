"""A run over a folder of slides, as a bundle's configuration would make it: for tests that kill it or starve it."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from monai_ext.base.errors import report_plainly
from monai_ext.data import Cohort
from monai_ext.slides import OutputSettings, SlideInferer, check_slide
from tests.slides.conftest import ConvPredictor


class Slow(ConvPredictor):
    """Takes its time for every tile, so that there is a middle to be killed in."""

    pause = 0.0

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause)
        return super().__call__(tiles)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--file_limit", type=int, help="bytes that a file may have, as a disk that fills up")
    parser.add_argument("--step", type=int, default=8)
    args = parser.parse_args(argv)
    report_plainly()
    torch.set_num_threads(1)
    Slow.pause = args.pause
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    cohort = Cohort(args.source, args.output, None, 0.5, check=check_slide, resume=True)
    inferer = SlideInferer(
        Slow(step=args.step), args.output, 0.5, tile_px=160, outputs=OutputSettings(nms_radius_um=30)
    )
    if args.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
    inferer.run(cohort)
    cohort.close()


def logged_main(argv: Sequence[str], log: Path) -> None:
    """``main`` in a process that was forked, with what it prints in a file."""
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    try:
        main(argv)
    except Exception:
        sys.excepthook(*sys.exc_info())  # as the interpreter does; multiprocessing would not ask for it
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
