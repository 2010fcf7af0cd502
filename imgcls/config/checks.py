"""TODO imgcls.config.checks."""

import math
import re
from typing import Any

from imgcls.config.schema import (
    AUGMENT_POLICIES,
    BAD_IMAGE_POLICIES,
    BEST_METRICS,
    ENSEMBLE_AVERAGES,
    FREEZES,
    INPUTS,
    LR_SCALINGS,
    ON_DIVERGENCE,
    ON_STUCK,
    PRECISIONS,
    Config,
    EvaluateConfig,
)
from imgcls.errors import ConfigError, did_you_mean


def check_config(config: Config) -> None:
    """Hold every field, and the fields against each other, to what they mean.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    _one_of("precision", config.precision, PRECISIONS)
    _one_of("lr_scaling", config.lr_scaling, LR_SCALINGS)
    _one_of("data.on_bad_image", config.data.on_bad_image, BAD_IMAGE_POLICIES)
    _one_of("checkpoint.best_metric", config.checkpoint.best_metric, BEST_METRICS)
    _one_of("on_divergence", config.on_divergence, ON_DIVERGENCE)
    _one_of("divergence.on_stuck", config.divergence.on_stuck, ON_STUCK)
    _one_of("augment.input", config.augment.input, INPUTS)
    if config.augment.policy is not None:
        _one_of("augment.policy", config.augment.policy, AUGMENT_POLICIES)
    _one_of("freeze", config.freeze, FREEZES)
    _check_device(config.device)
    for key in ("batch_size", "image_size", "epochs", "max_steps", "log_every_steps", "data.prefetch"):
        _at_least(key, _select(config, key), 1)
    for key in ("divergence.stuck_steps", "divergence.max_rollbacks"):
        _at_least(key, _select(config, key), 1)
    _at_least("data.num_threads", config.data.num_threads, 1)
    _at_least("data.num_classes", config.data.num_classes, 2)
    _between("seed", config.seed, 0, 2**32 - 1)
    for key in ("auxiliary_weight", "clip_grad_norm", "data.cache_gb"):
        _at_least(key, _select(config, key), 0)
    for key in ("checkpoint.every_minutes", "checkpoint.keep"):
        _at_least(key, _select(config, key), 0)
    _between("augment.flip", config.augment.flip, 0, 1)
    for name, node in config.augment.batch.items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"augment.batch.{name}={node} has no _target_; name a class of imgcls.data.on_device")
    _between("label_smoothing", config.label_smoothing, 0, 1)
    _between("min_val_top1", config.min_val_top1, 0, 100)
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"ema_decay={config.ema_decay} must be at least 0 (no averaging) and below 1")
    _check_microbatch(config)
    if not 0 < config.divergence.lr_factor <= 1:
        raise ConfigError(f"divergence.lr_factor={config.divergence.lr_factor} must lie above 0 and be at most 1")
    if not config.divergence.stuck_epochs > 0:
        raise ConfigError(
            f"divergence.stuck_epochs={config.divergence.stuck_epochs} must be above 0; "
            "divergence.on_stuck=ignore turns the warning off"
        )
    if config.precision == "fp16" and config.device == "cpu":
        raise ConfigError("precision=fp16 needs a CUDA device; on device=cpu use precision=fp32 or auto")
    if config.data.channels not in (1, 3):
        raise ConfigError(f"data.channels={config.data.channels} must be 1 (gray) or 3 (RGB)")
    for key in ("mean", "std"):
        values = getattr(config.data, key)
        if len(values) not in (1, config.data.channels):
            raise ConfigError(
                f"data.{key}={values} has {len(values)} values for data.channels={config.data.channels}; "
                "give one value a channel, or one for all"
            )
    for plug in ("model", "optimizer", "schedule", "data.source", "augment.crop", "augment.eval_crop"):
        node = _select(config, plug)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"{plug}={node} has no _target_; choose one of conf/{plug.split('.')[0]}")
    for key in ("num_classes", "in_channels"):
        value = config.model.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"model.{key}={value} must be a whole number; leave it out, the data says how many")
    _check_lr(config)
    _check_trains(config)


def check_evaluation(config: EvaluateConfig) -> None:
    """The same for a test.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    _one_of("precision", config.precision, PRECISIONS)
    _one_of("average", config.average, ENSEMBLE_AVERAGES)
    _one_of("data.on_bad_image", config.data.on_bad_image, BAD_IMAGE_POLICIES)
    _check_device(config.device)
    for key in ("batch_size", "image_size", "num_worst", "data.prefetch"):
        _at_least(key, _select(config, key), 1)
    _at_least("data.num_threads", config.data.num_threads, 1)
    _at_least("data.cache_gb", config.data.cache_gb, 0)
    if config.compare is not None:
        _one_of("compare", config.compare, ("published",))
        if len(config.checkpoints) > 1 and config.average == "softmax":
            raise ConfigError(
                "compare=published: the published numbers are of single networks, not of an ensemble; leave it out"
            )
        if config.image_size is not None:
            raise ConfigError(
                f"compare=published: the published numbers are not of image_size={config.image_size} but of each "
                "network's own; leave one of the two out"
            )
    if bool(config.checkpoints) == (config.weights is not None):
        raise ConfigError("name what to test: checkpoint=runs/.../best.pt, or network=resnet50 weights=torchvision")
    if config.weights is not None and config.network is None:
        raise ConfigError(f"weights={config.weights} of which network? add network=resnet50, or another of conf/model")
    if config.checkpoints and (config.network is not None or config.overrides):
        raise ConfigError("network= and overrides= go with weights=; a checkpoint brings its own: leave them out")
    if config.average == "weights" and len(config.checkpoints) < 2:
        raise ConfigError("average=weights needs several checkpoints of one network: checkpoint=[a.pt,b.pt]")


def _check_microbatch(config: Config) -> None:
    microbatch = config.microbatch
    if microbatch is None or microbatch == "auto":
        return
    if not isinstance(microbatch, int) or isinstance(microbatch, bool):
        raise ConfigError(f"microbatch={microbatch} must be a number of images, auto, or null for all at once")
    _at_least("microbatch", microbatch, 1)
    if microbatch > config.batch_size:
        raise ConfigError(
            f"microbatch={microbatch} is larger than batch_size={config.batch_size}; "
            f"use microbatch={config.batch_size} or less, or leave it out"
        )


def _check_lr(config: Config) -> None:
    lr = config.optimizer.get("lr")
    if "lr" not in config.optimizer:
        multiplied = {"lr_scaling": config.lr_scaling != "none", "head_lr_factor": config.head_lr_factor != 1}
        for key in (key for key, is_multiplied in multiplied.items() if is_multiplied):
            raise ConfigError(
                f"optimizer.lr has no value, and {key}={getattr(config, key)} multiplies it; give one: optimizer.lr=..."
            )
    elif not isinstance(lr, int | float) or isinstance(lr, bool):
        lr = "null" if lr is None else lr
        raise ConfigError(f"optimizer.lr={lr}: {config.optimizer['_target_']} takes a number (float) there")
    elif not math.isfinite(lr):
        raise ConfigError(f"optimizer.lr={lr} must be finite")
    else:
        _at_least("optimizer.lr", lr, 0)


def _check_trains(config: Config) -> None:
    """Refuse what would train nothing, or nothing of use."""
    if not 0 < config.head_lr_factor < math.inf:
        raise ConfigError(
            f"head_lr_factor={config.head_lr_factor} must be above 0 and finite, or the last layer learns nothing; "
            "1 gives it the lr of the rest"
        )
    if config.clip_grad_norm == 0:
        raise ConfigError("clip_grad_norm=0 leaves nothing of any gradient; null is no clipping")
    # torchvision's networks and timm's have a setting of their own for published weights.
    starts = (config.weights, config.model.get("weights"), config.model.get("pretrained"))
    if config.freeze == "backbone" and not any(starts):
        raise ConfigError(
            "freeze=backbone would keep the random weights that the network starts from; "
            "add weights=torchvision, a file, or a URL, or freeze=none"
        )


def _check_device(device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device={device} is none of auto, cpu, cuda, cuda:N")


def _select(config: Config | EvaluateConfig, key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = getattr(node, part)
    return node


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key}={value} is none of {', '.join(known)}{did_you_mean(value, known)}")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ConfigError(f"{key}={value} is too small; use at least {least}")


def _between(key: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{key}={value} must lie between {low} and {high}")
