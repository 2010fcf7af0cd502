"""Settings that are allowed and known to fail: each a warning before a run starts, which `silence=[NAME]` turns off.

They are warnings, not errors: somebody may want to see it fail. Imports no torch: what must be known of the
network, the images and the machine is in `Facts`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imgcls.config.schema import Config
from imgcls.errors import ConfigError, did_you_mean

DEEP = 8  # weight layers: AlexNet's; fewer learn at a large lr without normalisation too
LARGE_LR = 0.1
LARGE_ADAM_LR = 0.01
LARGE_DECAY = 0.01  # of SGD; a larger one is AdamW's, which multiplies it by a smaller lr
FEW_STEPS = 8  # of an epoch
FEW_IMAGES = 8  # that a batch normalisation takes its statistics over


@dataclass(frozen=True)
class Facts:
    """What the config alone does not say of a run.

    Args:
        lr: of the first step after the warm-up, lr_scaling included; None if the optimizer has none.
        num_images: of training.
        num_ranks: processes that share a batch.
        depth: convolutions and full connections of the network, one after another or side by side.
        normalised: it has layers that normalise, of whatever kind.
        batch_norm: it has batch normalisations that take their statistics over the batch.
    """

    lr: float | None
    num_images: int
    num_ranks: int
    depth: int
    normalised: bool
    batch_norm: bool


@dataclass(frozen=True)
class Risk:
    """A setting that is known to fail: a name to silence it by, and the setting with the reason and the way out."""

    name: str
    text: str


def _lr(config: Config, facts: Facts) -> Iterator[str]:
    """An lr of 0.1 with SGD in a network of 8 layers or more without normalisation, or of 0.01 with Adam or AdamW."""
    if facts.lr is None:
        return
    kind = _kind(config)
    if "Adam" in kind and facts.lr >= LARGE_ADAM_LR:
        yield (
            f"optimizer.lr={facts.lr:g} with {kind}, which moves each weight by about lr in a step whatever its "
            "gradient; 0.001 is usual"
        )
    if kind == "SGD" and facts.lr >= LARGE_LR and facts.depth >= DEEP and not facts.normalised:
        yield (
            f"optimizer.lr={facts.lr:g} in {facts.depth} layers without normalisation, whose loss is then soon not a "
            "number, or stays at that of guessing; AlexNet and VGG take 0.01"
        )


def _weights_lr(config: Config, facts: Facts) -> Iterator[str]:
    """An lr of 0.1 with SGD in a run that starts from trained weights."""
    if config.weights is not None and facts.lr is not None and _kind(config) == "SGD" and facts.lr >= LARGE_LR:
        yield (
            f"optimizer.lr={facts.lr:g} from weights={config.weights} undoes in its first steps what these have "
            "learnt; recipe=finetune takes 0.01"
        )


def _weight_decay(config: Config, facts: Facts) -> Iterator[str]:
    """A weight decay above 0.01 with SGD, where AdamW's 0.05 is another quantity."""
    del facts
    decay = config.optimizer.get("weight_decay")
    if _kind(config) == "SGD" and isinstance(decay, int | float) and decay > LARGE_DECAY:
        yield (
            f"optimizer.weight_decay={decay:g} with SGD shrinks the weights faster than they learn; its recipes take "
            "0.0005 or less, AdamW's 0.05"
        )


def _patience(config: Config, facts: Facts) -> Iterator[str]:
    """Early stopping, or a plateau schedule, that waits for as many epochs as the run has."""
    del facts
    stop, plateau = config.early_stopping.patience_epochs, config.schedule.get("patience_epochs")
    if stop is not None and stop >= config.epochs:
        yield (
            f"early_stopping.patience_epochs={stop} in a run of epochs={config.epochs} never ends it early; use a "
            "fifth of the epochs"
        )
    if isinstance(plateau, int) and plateau >= config.epochs > 1:
        yield (
            f"schedule.patience_epochs={plateau} in a run of epochs={config.epochs}: lr never drops; use a fifth of "
            "the epochs, or schedule=cosine"
        )


def _few_steps(config: Config, facts: Facts) -> Iterator[str]:
    """An epoch of fewer than 8 steps: a batch size of a large set on a small one."""
    steps = facts.num_images // max(config.batch_size, 1)
    if steps < FEW_STEPS and config.batch_size > facts.num_ranks * FEW_IMAGES and config.data.memorise is None:
        left_out = facts.num_images - steps * config.batch_size
        yield (
            f"batch_size={config.batch_size} of {facts.num_images:,} images makes an epoch of {steps} steps"
            f"{f', which leaves out {left_out} images' if left_out else ''}: {steps * config.epochs} steps in all "
            "teach little; batch_size=0 epochs=0 lr_scaling=auto choose by the number of images"
        )


def _batch_norm(config: Config, facts: Facts) -> Iterator[str]:
    """Batch normalisation over fewer than 8 images."""
    share = config.batch_size // facts.num_ranks
    microbatch = config.microbatch if isinstance(config.microbatch, int) else share
    images = min(share, microbatch) * (facts.num_ranks if config.sync_batch_norm else 1)
    frozen = config.freeze == "backbone" and config.unfreeze_after_epochs is None
    if facts.batch_norm and images < FEW_IMAGES and not frozen:
        key = "microbatch" if microbatch < share else "batch_size"
        yield (
            f"{key}={min(share, microbatch)}: batch normalisation takes its statistics over so few images, which "
            f"validation then does not have; use {FEW_IMAGES} or more (Wu & He 2018, figure 1)"
        )


def _input(config: Config, facts: Facts) -> Iterator[str]:
    """Standardised pixels in a VGG of 16 layers or more without batch normalisation, trained from scratch."""
    deep = facts.depth >= 2 * DEEP and not facts.normalised
    if deep and config.weights is None and config.augment.input == "standardised" and _target(config) == "VGG":
        yield (
            f"augment.input=standardised in {facts.depth} layers without normalisation: each ReLU halves the signal, "
            "which starts too weak to leave chance; use augment.input=mean_subtracted, as the paper"
        )


def _balanced_twice(config: Config, facts: Facts) -> Iterator[str]:
    """Balanced weights on the loss of images that are drawn balanced already."""
    del facts
    if config.class_weights == "balanced" and config.sampler == "balanced":
        yield (
            "class_weights=balanced and sampler=balanced both even the classes out, so that small ones count more than "
            "large ones; use one of the two"
        )


def _validate_every(config: Config, facts: Facts) -> Iterator[str]:
    """Early stopping or a plateau schedule in a run that is validated at its end alone."""
    del facts
    if config.validate_every < config.epochs or config.epochs == 1:
        return
    users = {"early_stopping.patience_epochs": config.early_stopping.patience_epochs is not None}
    users["schedule=plateau"] = "patience_epochs" in config.schedule
    for user in (name for name, used in users.items() if used):
        yield f"validate_every={config.validate_every:g} of epochs={config.epochs}: {user} sees one score, at the end"


RISKS: dict[str, Callable[[Config, Facts], Iterator[str]]] = {
    "lr": _lr,
    "weights_lr": _weights_lr,
    "weight_decay": _weight_decay,
    "patience": _patience,
    "few_steps": _few_steps,
    "batch_norm": _batch_norm,
    "input": _input,
    "validate_every": _validate_every,
    "balanced_twice": _balanced_twice,
}


def find_risks(config: Config, facts: Facts) -> list[Risk]:
    """Return the settings of a run that are known to fail, but for those in `silence`."""
    return [
        Risk(name, text) for name, find in RISKS.items() if name not in config.silence for text in find(config, facts)
    ]


def check_silence(silence: object) -> None:
    """Check the names of warnings that are not to be given.

    Raises:
        ConfigError: they are no list, or one is no such name.
    """
    if not isinstance(silence, list):
        raise ConfigError(f"silence={silence} must be a list of warnings: silence=[{silence}]")
    for name in silence:
        if name not in RISKS:
            raise ConfigError(f"silence=[{name}]: the warnings are {', '.join(RISKS)}{did_you_mean(str(name), RISKS)}")


def _kind(config: Config) -> str:
    return str(config.optimizer["_target_"]).rpartition(".")[2]


def _target(config: Config) -> str:
    return str(config.model["_target_"]).rpartition(".")[2]
