"""Trainings of several phases or sites."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.engines.cyclic_learning import CyclicLearning
    from monai_ext.engines.federated import average_weights, federated_round
    from monai_ext.engines.instance_trainer import InstanceTrainer
    from monai_ext.engines.loopback_trainer import LoopbackTrainer
    from monai_ext.engines.phases import Phase, PhaseRunner
    from monai_ext.engines.teacher_student import TeacherStudentChain

__all__ = [
    "CyclicLearning",
    "InstanceTrainer",
    "LoopbackTrainer",
    "Phase",
    "PhaseRunner",
    "TeacherStudentChain",
    "average_weights",
    "federated_round",
]

__getattr__ = lazy_names(__name__, __file__)
