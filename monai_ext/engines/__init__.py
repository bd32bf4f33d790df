"""Trainings of several phases."""

from monai_ext.engines.teacher_student import Phase, TeacherStudentChain

__all__ = ["Phase", "TeacherStudentChain"]
