"""The configuration: its schema, the checks across its fields, and the command line's errors.

Imports no torch, so that help and every config error come at once. What a user chooses lives in conf/; this module
says which keys exist, which values they take, and turns a mistake into one line that ends the search.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BAD_IMAGE_POLICIES = ("raise", "skip")
INPUTS = ("standardised", "mean_subtracted")
AUGMENT_POLICIES = ("randaugment", "trivialaugment")
LR_SCALINGS = ("none", "linear")
BEST_METRICS = ("top1", "top5", "loss")
ON_DIVERGENCE = ("stop", "rollback")
ON_STUCK = ("warn", "stop", "ignore")
FREEZES = ("none", "backbone")
ENSEMBLE_AVERAGES = ("softmax", "weights")


@dataclass
class Scale:
    """The size of a run that a tiny data set brings in place of the recipe's; null keeps the recipe's."""

    image_size: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    lr_scaling: str | None = None


@dataclass
class DataConfig:
    """Where images come from and how they are read."""

    name: str = MISSING
    source: Any = MISSING
    root: str | None = None
    num_classes: int | None = None
    channels: int = 3
    mean: list[float] = MISSING
    std: list[float] = MISSING
    scale: Scale = field(default_factory=Scale)
    num_threads: int | None = None
    prefetch: int = 4
    cache_gb: float = 2.0
    on_bad_image: str = "raise"


@dataclass
class AugmentConfig:
    """What happens to a training image, and the crop that validation takes."""

    crop: Any = MISSING
    eval_crop: Any = MISSING
    input: str = "standardised"
    flip: float = 0.0
    batch: dict[str, Any] = field(default_factory=dict)
    policy: str | None = None
    policy_ops: int = 2
    policy_magnitude: int = 9


@dataclass
class RecipeConfig:
    """The scale of a paper's training procedure; what a tiny data set may replace by its own."""

    name: str = MISSING
    paper: str = MISSING
    batch_size: int = MISSING
    image_size: int = MISSING
    epochs: int = MISSING


@dataclass
class CheckpointConfig:
    """When a run is saved, and what of it is kept."""

    every_minutes: float = 10.0
    keep: int = 0
    best_metric: str = "top1"


@dataclass
class DivergenceConfig:
    """What `on_divergence=rollback` does, and when a loss counts as stuck."""

    lr_factor: float = 0.5
    max_rollbacks: int = 3
    stuck_epochs: float = 3.0
    stuck_steps: int = 5000
    on_stuck: str = "warn"


@dataclass
class Config:
    """One run."""

    model: Any = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: Any = MISSING
    schedule: Any = MISSING
    recipe: RecipeConfig = field(default_factory=RecipeConfig)

    batch_size: int = MISSING
    image_size: int = MISSING
    epochs: int = MISSING

    label_smoothing: float = 0.0
    auxiliary_weight: float = 0.3
    ema_decay: float = 0.0
    clip_grad_norm: float | None = None
    decay_norms_and_biases: bool = True
    lr_scaling: str = "none"

    weights: str | None = None
    freeze: str = "none"
    head_lr_factor: float = 1.0

    name: str | None = None
    seed: int = 0
    overwrite: bool = False
    max_steps: int | None = None
    min_val_top1: float | None = None

    device: str = "auto"
    precision: str = "auto"
    microbatch: Any = None
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False

    log_every_steps: int = 20
    tensorboard: bool = True
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_divergence: str = "stop"
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)


@dataclass
class EvaluationDataConfig:
    """The set that a network is tested on; what is null, or there is no choice of data at all, is as it was trained."""

    name: str | None = None
    source: Any = None
    root: str | None = None
    num_classes: int | None = None
    channels: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    scale: Scale = field(default_factory=Scale)
    num_threads: int | None = None
    prefetch: int = 4
    cache_gb: float = 0.0
    on_bad_image: str = "raise"


@dataclass
class EvaluateConfig:
    """One test of a network, or of an ensemble."""

    checkpoint: Any = None
    average: str = "softmax"
    weights: str | None = None
    network: str | None = None
    overrides: list[str] = field(default_factory=list)
    protocol: Any = MISSING
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    image_size: int | None = None
    batch_size: int = 64
    fresh: bool = False
    compare: str | None = None
    real: str | None = None
    num_worst: int = 25
    out: str | None = None
    tensorboard: bool = True
    device: str = "auto"
    precision: str = "fp32"
    channels_last: bool = True

    @property
    def checkpoints(self) -> list[str]:
        if self.checkpoint is None:
            return []
        return [str(path) for path in self.checkpoint] if isinstance(self.checkpoint, list) else [str(self.checkpoint)]
