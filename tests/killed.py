"""Trainings that are stopped in the middle of a step, and the comparison of what runs leave."""

import torch
from ignite.engine import Events


class Killed(BaseException):
    """What no handler catches."""


class KillableRun:
    """A training, ``trainer``, of which something else may be asked afterwards."""

    def kill_after(self, step):
        """Stop after so many steps as a power cut does: nothing is tidied up."""
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=step), self._kill)

    @staticmethod
    def _kill():
        raise Killed

    def __call__(self):
        self.trainer.run()
        return self


def assert_equal(a, b):
    """Nested states are the same to the last bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b or (a != a and b != b)
