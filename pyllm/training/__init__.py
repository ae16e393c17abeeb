"""Training: one loop, objectives as functions, exact resume; `pretrain` from text to a model folder."""

from pyllm.training.config import TrainingConfig
from pyllm.training.objectives import Objective, language_modelling
from pyllm.training.pretraining import PretrainingResult, pretrain
from pyllm.training.pretraining_config import PretrainingConfig
from pyllm.training.report import StepReport
from pyllm.training.trainer import Trainer, TrainingResult

__all__ = [
    "Objective",
    "PretrainingConfig",
    "PretrainingResult",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
    "language_modelling",
    "pretrain",
]
