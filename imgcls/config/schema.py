"""The schema of conf/: which keys there are, their types, defaults and bounds.

What a user chooses is in conf/, and so is what each key means. Imports no torch, so that help and every config error
come at once.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from imgcls.config.image_size import ImageSize
from imgcls.config.settings import setting
from imgcls.metrics import TOPK

INTERPOLATIONS = ("bilinear", "bicubic")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass
class Scale:
    """The size of a run that a data set brings instead of the recipe's.

    null keeps the recipe's; a batch size or epochs of 0 are chosen by the number of training images.

    Args:
        image_size: pixels on a side, or [height, width].
        batch_size: images per optimizer step over all devices.
        epochs: passes over the data.
        lr_scaling: as the key of that name, for that batch size.
        patience_epochs: of the schedule `plateau`: epochs without a gain before lr drops.
        min_gain: of the schedule `plateau`: the points of top-1 that count as a gain.
        min_epochs: of the schedule `plateau`: epochs of the run that count as no stall.
    """

    image_size: Any = setting(None, is_image_size=True)
    batch_size: int | None = None
    epochs: int | None = None
    lr_scaling: Any = None
    patience_epochs: int | None = None
    min_gain: float | None = None
    min_epochs: int | None = None


@dataclass
class DataConfig:
    """Where images come from and how they are read.

    In a test without a `source` the images are those that the network was trained on.

    Args:
        name: what logs, results and folders of results call the set.
        source: the function that opens the set, and its settings: one of imgcls.data.sets, or of a trusted package.
        num_classes: how many classes the set must have; null counts them.
        published_images: how many training and validation images the whole set has, for `doctor` to compare.
        channels: of an image: 1 (gray) or 3 (RGB).
        mean: of each channel, for pixels of 0 to 1: subtracted.
        std: of each channel: divided by.
    """

    name: str = ""
    source: Any = None
    root: str | None = setting(None, incidental=True, is_path=True)
    num_classes: int | None = setting(None, least=2, fixed=True)
    published_images: list[int] | None = setting(None, incidental=True)
    memorise: int | None = setting(None, least=2)
    channels: int = setting(3, fixed=True)
    mean: list[float] = setting(list)
    std: list[float] = setting(list)
    scale: Scale = setting(Scale)
    exclude: str | None = setting(None, incidental=True, is_path=True)
    num_threads: int | None = setting(None, least=1, incidental=True)
    prefetch: int = setting(4, least=1, incidental=True)
    cache_gb: float = setting(0.0, least=0, incidental=True)
    stream_gb: float | None = setting(None, above=0)
    pillow_draft: bool = setting(False, earlier=True)
    alpha: str | None = setting(None, one_of=("drop", "white", "black"))
    orientation: str | None = setting(None, one_of=("stored", "apply"))
    bits: int | None = setting(None, least=8, most=32)
    val_share: float | None = setting(None, above=0, below=1)
    fold: int | None = setting(None, least=0)
    num_folds: int | None = setting(None, least=2)
    split_seed: int = setting(0, least=0)
    class_order: str = setting("text", one_of=("text", "natural"))
    on_bad_image: str = setting("raise", one_of=("raise", "skip"), incidental=True)
    max_bad_share: float = setting(0.01, least=0, most=1, incidental=True)


@dataclass
class AugmentConfig:
    """What happens to a training image, and the crop that validation takes.

    Args:
        crop: of a training image: a class of imgcls.data.augment and its settings.
        eval_crop: the same of a validation image, and of a test by protocol=center.
        input: what the network is shown: pixels less their mean and divided by std, or 0..255 less their mean.
        flip: the share of training images that are mirrored.
        policy: a list of changes of which each training image gets some at random (Cubuk et al. 2019, Mueller & Hutter
            2021, Hendrycks et al. 2020); null is none.
        policy_ops: changes an image, of randaugment (null: 2); chains of changes, of augmix (null: 3).
        policy_magnitude: their strength, of randaugment (0 to 30, null: 9) and augmix (1 to 10, null: 3).
        repeats: how often an image comes in a batch, each time augmented in another way (Hoffer et al. 2020). An epoch
            keeps its steps: it shows one in so many of the images.
    """

    crop: Any = MISSING
    eval_crop: Any = MISSING
    input: str = setting("standardised", one_of=("standardised", "mean_subtracted"))
    flip: float = setting(0.0, least=0, most=1)
    batch: dict[str, Any] = field(default_factory=dict)
    policy: str | None = setting(None, one_of=("randaugment", "trivialaugment", "augmix"))
    policy_ops: int | None = setting(None, earlier=2)
    policy_magnitude: int | None = setting(None, earlier=9)
    repeats: int = setting(1, least=1)
    interpolation: str = setting("bilinear", one_of=INTERPOLATIONS)
    eval_interpolation: str | None = setting(None, one_of=INTERPOLATIONS, hint="null takes augment.interpolation")

    @property
    def interpolation_of_test(self) -> str:
        """How the pixels of a crop are interpolated in validation and tests."""
        return self.eval_interpolation or self.interpolation

    def resolve_policy(self) -> None:
        """Give the settings of the policy that are null their values; without a policy too, as they always had some."""
        ops, magnitude = (3, 3) if self.policy == "augmix" else (2, 9)
        self.policy_ops = ops if self.policy_ops is None else self.policy_ops
        self.policy_magnitude = magnitude if self.policy_magnitude is None else self.policy_magnitude


@dataclass
class RecipeConfig:
    """The size of a paper's training procedure, which a tiny data set may replace by its own.

    Args:
        name: of the recipe, in the first lines of a run.
        paper: its source.
        batch_size: images per optimizer step over all devices; `lr_scaling` counts from it.
        image_size: pixels on a side, or [height, width].
        small_image_size: pixels on a side where a tiny data set asks for minutes on a CPU.
        small_epochs: passes over such a set.
        small_lr_scaling: `lr_scaling` on such a set, and on a folder of few images.
        small_patience_epochs: of the schedule `plateau` on such a set.
        small_min_gain: of the schedule `plateau` on such a set, if not the set's own.
        small_min_epochs: of the schedule `plateau` on such a set.
        epochs: passes over the data.
    """

    name: str = MISSING
    paper: str = MISSING
    batch_size: int = MISSING
    image_size: Any = setting(MISSING, is_image_size=True)
    small_image_size: int = setting(72, incidental=True)
    small_epochs: int = setting(10, least=1, incidental=True)
    small_lr_scaling: Any = setting("linear", incidental=True)
    small_patience_epochs: int = setting(2, least=1, incidental=True)
    small_min_gain: float | None = setting(None, least=0, incidental=True)
    small_min_epochs: int | None = setting(None, least=0, incidental=True)
    epochs: int = MISSING


@dataclass
class CheckpointConfig:
    """When a run is saved, and what is kept of it."""

    every_minutes: float = setting(10.0, least=0, incidental=True)
    keep: int = setting(0, least=0, incidental=True)
    best_metric: str = "top1"


@dataclass
class EarlyStoppingConfig:
    """When a run ends because it gets no better, by `checkpoint.best_metric`."""

    patience_epochs: int | None = setting(None, least=1, hint="null trains all epochs")


@dataclass
class DivergenceConfig:
    """What `on_divergence=rollback` does, and when a loss counts as stuck."""

    lr_factor: float = setting(0.5, above=0, most=1)
    max_rollbacks: int = setting(3, least=1)
    stuck_epochs: float = setting(3.0, above=0, hint="divergence.on_stuck=ignore turns the warning off")
    stuck_steps: int = setting(5000, least=1)
    on_stuck: str = setting("warn", one_of=("warn", "stop", "ignore"))


@dataclass
class SweepConfig:
    """How the jobs of a sweep (`-m`) are run."""

    name: str | None = None
    file: str | None = setting(None, is_path=True)
    jobs: int = setting(1, least=1)
    fail_fast: bool = False


@dataclass
class RanksConfig:
    """How the processes of a run exchange gradients, and wait for each other."""

    gradients: str = setting("fp32", one_of=("fp32", "bf16"))
    bucket_mb: float = setting(25.0, above=0, below=math.inf, incidental=True)
    static_graph: bool = setting(False, incidental=True)
    timeout_minutes: float = setting(10.0, above=0, incidental=True)


@dataclass
class CommonConfig:
    """What training and a test have in common."""

    data: DataConfig = setting(DataConfig)
    weights: str | None = setting(None, is_path=True, fixed=True)
    weights_kind: str = setting("average", one_of=("average", "raw"), fixed=True)
    trust: Any = setting(list)
    device: str = setting("auto", incidental=True)
    threads: int | None = setting(None, least=1, incidental=True)
    precision: str = setting("auto", one_of=PRECISIONS)
    channels_last: bool = True
    topk: list[int] = setting(list(TOPK), fixed=True)
    logger: Any = setting(dict, incidental=True)


@dataclass
class Config(CommonConfig):
    """One run.

    Args:
        given: the keys that the command line sets, or the experiment that it chooses; never in conf/.
    """

    model: Any = setting(MISSING, fixed=True)
    augment: AugmentConfig = setting(AugmentConfig)
    optimizer: Any = MISSING
    schedule: Any = MISSING
    recipe: RecipeConfig = setting(RecipeConfig)

    batch_size: int = setting(MISSING, least=0, hint="0 chooses by the number of training images")
    image_size: Any = setting(MISSING, is_image_size=True)
    epochs: int = setting(MISSING, least=0, hint="0 chooses by the number of training images")

    label_smoothing: float = setting(0.0, least=0, most=1)
    auxiliary_weight: float = setting(0.3, least=0)
    class_weights: Any = None
    sampler: str = setting("uniform", one_of=("uniform", "balanced"))
    ema_decay: float = setting(0.0, least=0, below=1, hint="0 is no averaging")
    clip_grad_norm: float | None = setting(None, above=0, hint="null is no clipping")
    decay_norms_and_biases: bool = True
    lr_scaling: Any = setting("none", one_of=("auto", "none", "linear", "sqrt"), or_above=0)

    freeze: Any = "none"
    unfreeze_after_epochs: int | None = setting(None, least=1)
    head_lr_factor: float = setting(
        1.0, above=0, below=math.inf, hint="with 0 the last layer learns nothing, with 1 it has the lr of the rest"
    )
    layer_lr_decay: float = setting(1.0, above=0, most=1, hint="1 is the same lr for all layers")
    lr_factors: Any = None

    given: list[str] = setting(list, incidental=True)
    name: str | None = setting(None, incidental=True)
    seed: int = setting(0, least=0, most=2**32 - 1, fixed=True)
    overwrite: bool = setting(False, incidental=True)
    continue_run: bool = setting(False, incidental=True)
    lock: bool = setting(True, incidental=True)
    max_steps: int | None = setting(None, least=1)
    max_hours: float | None = setting(None, above=0, incidental=True)
    validate_every: float = setting(1.0, above=0, below=math.inf)
    early_stopping: EarlyStoppingConfig = setting(EarlyStoppingConfig)
    min_val_top1: float | None = setting(None, least=0, most=100, incidental=True)
    silence: Any = setting(list, incidental=True)
    sweep: SweepConfig = setting(SweepConfig, incidental=True)

    microbatch: Any = None
    compile: bool = False
    compile_mode: str = setting("default", one_of=("default", "blocks", "max-autotune", "reduce-overhead"))
    sync_batch_norm: bool = False
    sharding: str = setting("none", one_of=("none", "full"), incidental=True)
    ranks: RanksConfig = setting(RanksConfig)
    deterministic: bool = False

    log_every_steps: int = setting(20, least=1, incidental=True)
    checkpoint: CheckpointConfig = setting(CheckpointConfig)
    # A run that has diverged may be resumed with another answer to it.
    on_divergence: str = setting("stop", one_of=("stop", "rollback"), incidental=True)
    divergence: DivergenceConfig = setting(DivergenceConfig, incidental=True)

    @property
    def input_size(self) -> ImageSize:
        """Height and width of what the network sees, which `image_size` gives."""
        return ImageSize.of(self.image_size)


@dataclass
class EvaluateConfig(CommonConfig):
    """One test of a network, or of an ensemble.

    Args:
        network: with `weights`: a run of the network that they are for, as train.py would compose it; never in conf/,
            the command line's `model=...` becomes it.
        crop: words such as augment.eval_crop=whole that change how images are shown in the test; never in conf/ either.
    """

    checkpoint: Any = setting(None, is_path=True)
    average: str = setting("softmax", one_of=("softmax", "weights"))
    protocol: Any = MISSING
    image_size: Any = setting(None, is_image_size=True)
    batch_size: int = setting(64, least=1)
    fresh: bool = False
    compare: str | None = setting(None, one_of=("published",))
    real: str | None = setting(None, is_path=True)
    num_worst: int = setting(25, least=1)
    out: str | None = setting(None, is_path=True)
    precision: str = setting("fp32", one_of=PRECISIONS)
    network: Any = None
    crop: Any = setting(list)
    interpolation: str | None = setting(None, one_of=INTERPOLATIONS)

    @property
    def checkpoints(self) -> list[str]:
        if self.checkpoint is None:
            return []
        return [str(path) for path in self.checkpoint] if isinstance(self.checkpoint, list) else [str(self.checkpoint)]


def data_of_test(trained: DataConfig, given: DataConfig) -> DataConfig:
    """Return the data of a test: the images that `given` names, or those of training, prepared as in training."""
    kept = {key: getattr(trained, key) for key in ("channels", "mean", "std", "scale")}
    kept["root"] = given.root or (trained.root if given.source is None else None)
    kept["name"] = given.name or trained.name
    kept["source"] = given.source or trained.source
    if given.source is None and given.val_share is None and given.fold is None:
        kept |= {key: getattr(trained, key) for key in ("val_share", "fold", "num_folds", "split_seed")}
    if given.source is None:
        kept["class_order"] = trained.class_order
    if given.source is None and given.root is None:
        kept["stream_gb"] = given.stream_gb or trained.stream_gb
    kept |= {key: getattr(given, key) or getattr(trained, key) for key in ("alpha", "orientation", "bits")}
    # Other images may be of some of the classes.
    kept["num_classes"] = trained.num_classes if given.source is None and given.root is None else None
    return dataclasses.replace(given, **kept)
