"""Training: the loop, and the loss, optimizer, schedules, state, logging and saving that it calls.

`build_trainer` builds a `Trainer` from a config, and `Trainer.fit` trains.
"""

from imgcls.training.capsule import keep_capsule
from imgcls.training.divergence import DivergedError, StuckError
from imgcls.training.factory import build_optimizer, build_schedule, build_trainer, open_run_directory
from imgcls.training.losses import ClassificationLoss
from imgcls.training.microbatch import OutOfMemory, explain_out_of_memory, memory_advice, out_of_memory_text
from imgcls.training.optim import WeightAverage, parameter_groups, set_lr, without_dynamo
from imgcls.training.ranks import directory_of_main_rank, look_up_run_on_all_ranks
from imgcls.training.risks import risks_of
from imgcls.training.schedules import Constant, Cosine, Plateau, Step
from imgcls.training.state import State, snapshot
from imgcls.training.trainer import Trainer
from imgcls.training.validation import validate

__all__ = [
    "ClassificationLoss",
    "Constant",
    "Cosine",
    "DivergedError",
    "OutOfMemory",
    "Plateau",
    "State",
    "Step",
    "StuckError",
    "Trainer",
    "WeightAverage",
    "build_optimizer",
    "build_schedule",
    "build_trainer",
    "directory_of_main_rank",
    "explain_out_of_memory",
    "keep_capsule",
    "look_up_run_on_all_ranks",
    "memory_advice",
    "open_run_directory",
    "out_of_memory_text",
    "parameter_groups",
    "risks_of",
    "set_lr",
    "snapshot",
    "validate",
    "without_dynamo",
]
