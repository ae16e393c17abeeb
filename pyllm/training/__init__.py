"""Training: one loop, objectives as functions, exact resume."""

from pyllm.training.config import TrainingConfig
from pyllm.training.objectives import Objective
from pyllm.training.report import StepReport
from pyllm.training.trainer import Trainer, TrainingResult

__all__ = ["Objective", "StepReport", "Trainer", "TrainingConfig", "TrainingResult"]
