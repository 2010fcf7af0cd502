"""Checks of a composed config: each setting by its rule, then the combinations of settings."""

import math
import re

from imgcls.config.identity import defaults, flatten
from imgcls.config.risks import check_silence
from imgcls.config.schema import Config, EvaluateConfig
from imgcls.config.settings import check_rules, select, typed
from imgcls.errors import ConfigError, did_you_mean
from imgcls.metrics import metric_of, metrics_of

PLUGS = ("model", "optimizer", "schedule", "data.source", "augment.crop", "augment.eval_crop")


def check_config(config: Config) -> None:
    """Validate each setting and the combinations of settings.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    _check_settings(config)
    for plug in PLUGS:
        node = select(config, plug)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"{plug}={node} has no _target_; choose one of conf/{plug.split('.')[0]}")
    for key in ("num_classes", "in_channels"):
        value = config.model.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"model.{key}={value} must be a whole number; leave it out, the data says how many")
    for name, node in config.augment.batch.items():
        if not isinstance(node, dict) or "_target_" not in node:
            known = [key for key in defaults() if key.startswith(f"augment.batch.{name}.") and "_target_" not in key]
            way_out = f"write {known[0]}=..., of which 0 is off" if known else "name a class of imgcls.data.on_device"
            raise ConfigError(f"augment.batch.{name}={typed(node)} has no _target_; {way_out}")
    if config.data.channels not in (1, 3):
        raise ConfigError(f"data.channels={config.data.channels} must be 1 (gray) or 3 (RGB)")
    for key in ("mean", "std"):
        values = getattr(config.data, key)
        if len(values) not in (1, config.data.channels):
            raise ConfigError(
                f"data.{key}={values} has {len(values)} values for data.channels={config.data.channels}; "
                "give one value a channel, or one for all"
            )
    if config.precision == "fp16" and config.device in ("cpu", "mps"):
        raise ConfigError(
            f"precision=fp16 needs a CUDA or Intel GPU; on device={config.device} use precision=fp32 or auto"
        )
    _check_class_weights(config.class_weights)
    if 0 < config.batch_size < config.augment.repeats:
        raise ConfigError(
            f"augment.repeats={config.augment.repeats} is more than batch_size={config.batch_size}, so that a batch "
            "would be of one image; 3 is usual"
        )
    if config.overwrite and config.continue_run:
        raise ConfigError("overwrite=true deletes the run that continue_run=true goes on with; leave one of them out")
    if config.validate_every > 1 and config.validate_every % 1:
        raise ConfigError(
            f"validate_every={config.validate_every:g} must be a whole number of epochs, or a part of one such as 0.25"
        )
    if config.compile_mode != "default" and not config.compile:
        raise ConfigError(f"compile_mode={config.compile_mode} compiles nothing by itself; add compile=true")
    _check_stream(config)
    _check_sharding(config)
    _check_microbatch(config)
    _check_lr(config)
    _check_freeze(config)
    metrics, metric = metrics_of(config.topk), config.checkpoint.best_metric
    if metric not in metrics:
        hint = f"; add it to topk={_words(config.topk)}" if metric_of(metric) else did_you_mean(metric, metrics)
        raise ConfigError(f"checkpoint.best_metric={metric} is none of {', '.join(metrics)}{hint}")
    check_silence(config.silence)


def _check_stream(config: Config) -> None:
    data = config.data
    if data.stream_gb is None:
        return
    held_out = data.val_share is not None or data.fold is not None
    refused = {
        f"sampler={config.sampler} draws from all images at any time": config.sampler != "uniform",
        f"data.memorise={data.memorise} reads a few images of all shards": data.memorise is not None,
        f"data.cache_gb={data.cache_gb:g} keeps images that are read once an epoch": data.cache_gb > 0,
        "data.val_share and data.fold hold images of all shards out": held_out,
    }
    for reason in (reason for reason, applies in refused.items() if applies):
        raise ConfigError(
            f"data.stream_gb={data.stream_gb:g} has a part of the shards on the disk at a time, but {reason}; leave "
            "one of the two out"
        )


def check_evaluation(config: EvaluateConfig) -> None:
    """Validate each setting of a test and the combinations of settings.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    _check_settings(config)
    if config.compare is not None:
        if len(config.checkpoints) > 1 and config.average == "softmax":
            raise ConfigError(
                "compare=published: the published numbers are of single networks, not of an ensemble; leave it out"
            )
        if config.image_size is not None:
            raise ConfigError(
                f"compare=published: the published numbers are not of image_size={config.image_size} but of each "
                "network's own; leave one of the two out"
            )
    if config.network is not None:
        raise ConfigError("network: there is no such key; describe the network in train.py's words, as model=resnet50")
    if config.crop:
        raise ConfigError("crop: there is no such key; write augment.eval_crop=whole, or another crop")
    if config.average == "weights" and len(config.checkpoints) < 2:
        raise ConfigError("average=weights needs several checkpoints of one network: checkpoint=[a.pt,b.pt]")


def check_source(checkpoint: object, weights: str | None, network: list[str]) -> None:
    """Refuse a command that does not say which network it is for, or says it twice.

    Args:
        network: the words of the command line that describe it: model=resnet50, model.stride_in_3x3=true, ...

    Raises:
        ConfigError: with what to add or to leave out.
    """
    if bool(checkpoint) == (weights is not None):
        raise ConfigError("name the network: checkpoint=runs/.../best.pt, or model=resnet50 weights=torchvision")
    if weights is not None and not any(word.startswith("model=") for word in network):
        raise ConfigError(f"weights={weights} of which network? add model=resnet50, or another of conf/model")
    if checkpoint and network:
        raise ConfigError(
            f"{network[0]}: a checkpoint brings its network and input; this goes with weights=: leave it out"
        )


def check_crop(config: EvaluateConfig) -> None:
    """Refuse a crop in a test that has none, or another than the published one.

    Raises:
        ConfigError: with what to leave out.
    """
    changed = [*config.crop, *([f"interpolation={config.interpolation}"] if config.interpolation else [])]
    if changed and config.compare is not None:
        raise ConfigError(
            f"{changed[0]} does not go with compare=published: the published numbers are of each network's own crop"
        )
    protocol = str(config.protocol["_target_"]).rpartition(".")[2]
    if config.crop and protocol != "Center":
        raise ConfigError(f"{config.crop[0]} is for protocol=center: {protocol} has views already; leave it out")


def _check_settings(config: Config | EvaluateConfig) -> None:
    check_rules(config)
    config.logger = config.logger or {}  # of logger=[]
    for name, node in config.logger.items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"logger.{name}={node} has no _target_; choose one of conf/logger")
    if 1 not in config.topk or min(config.topk) < 1 or len(set(config.topk)) < len(config.topk):
        raise ConfigError(
            f"topk={_words(config.topk)} must be different numbers of 1 or more, with 1 among them, such as [1,3,5]"
        )
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", config.device):
        raise ConfigError(
            f"device={config.device} is none of auto, cpu, cuda, cuda:N, xpu, xpu:N, mps; AMD's GPUs are cuda to torch"
        )


def _check_class_weights(weights: object) -> None:
    if weights is None or weights == "balanced":
        return
    numbers = weights if isinstance(weights, list) else [None]
    if not all(
        isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each < math.inf for each in numbers
    ):
        raise ConfigError(
            f"class_weights={weights} is none of balanced, null, or a list with a number of 0 or more for each class"
        )


def _check_sharding(config: Config) -> None:
    if config.ranks.static_graph and config.microbatch is not None:
        raise ConfigError(
            f"ranks.static_graph=true does not go with microbatch={config.microbatch}: torch's DDP does not add "
            "gradients up in a static graph; leave one of the two out"
        )
    if config.sharding == "none":
        return
    cannot = {
        "precision=fp16": (config.precision == "fp16", "use precision=bf16 or fp32"),
        "microbatch=auto": (config.microbatch == "auto", "give a number of images"),
        f"freeze={config.freeze}": (config.freeze != "none", "a network of which little learns needs no sharding"),
        "compile=true": (config.compile and config.compile_mode != "blocks", "add compile_mode=blocks"),
        "ranks.static_graph=true": (config.ranks.static_graph, "leave it out, it is of DDP"),
    }
    for setting, (given, way_out) in cannot.items():
        if given:
            raise ConfigError(f"sharding=full does not go with {setting}; {way_out}")


def _check_microbatch(config: Config) -> None:
    microbatch = config.microbatch
    if microbatch is None or microbatch == "auto":
        return
    if not isinstance(microbatch, int) or isinstance(microbatch, bool):
        raise ConfigError(f"microbatch={microbatch} must be a number of images, auto, or null for all at once")
    if microbatch < 1:
        raise ConfigError(f"microbatch={microbatch} is too small; use at least 1")
    if 0 < config.batch_size < microbatch:
        raise ConfigError(
            f"microbatch={microbatch} is larger than batch_size={config.batch_size}; "
            f"use microbatch={config.batch_size} or less, or leave it out"
        )


def _check_lr(config: Config) -> None:
    lr = config.optimizer.get("lr")
    if "lr" not in config.optimizer:
        off = {"lr_scaling": "none", "head_lr_factor": 1, "layer_lr_decay": 1, "lr_factors": None}
        for key in (key for key, value in off.items() if getattr(config, key) != value):
            raise ConfigError(
                f"optimizer.lr has no value, and {key}={getattr(config, key)} changes it; give one: optimizer.lr=..."
            )
    elif not isinstance(lr, int | float) or isinstance(lr, bool):
        lr = "null" if lr is None else lr
        raise ConfigError(f"optimizer.lr={lr}: {config.optimizer['_target_']} takes a number (float) there")
    elif not math.isfinite(lr):
        raise ConfigError(f"optimizer.lr={lr} must be finite")
    elif lr < 0:
        raise ConfigError(f"optimizer.lr={lr} is too small; use at least 0")


def _check_freeze(config: Config) -> None:
    freeze, named = config.freeze, ("none", "backbone")
    if isinstance(freeze, str) and freeze not in named:
        raise ConfigError(
            f"freeze={freeze} is none of {', '.join(named)}{did_you_mean(freeze, named)}; layers are in a list: "
            f"freeze=[{freeze}]"
        )
    if not isinstance(freeze, str) and not (freeze and isinstance(freeze, list) and all(map(_is_text, freeze))):
        raise ConfigError(f"freeze={freeze} must be none, backbone, or a list of layers such as [conv1,layer1]")
    if config.unfreeze_after_epochs is not None and freeze == "none":
        raise ConfigError(
            f"unfreeze_after_epochs={config.unfreeze_after_epochs}, but freeze=none freezes nothing; add "
            "unfreeze_after_epochs=null, or freeze=backbone"
        )
    # torchvision's networks and timm's have a setting of their own for published weights.
    starts = (config.weights, config.model.get("weights"), config.model.get("pretrained"))
    if freeze != "none" and not any(starts):
        shown = freeze if isinstance(freeze, str) else f"[{','.join(freeze)}]"
        off = "freeze=none" + (" unfreeze_after_epochs=null" if config.unfreeze_after_epochs is not None else "")
        raise ConfigError(
            f"freeze={shown} would keep the random weights that the network starts from; "
            f"add weights=torchvision, a file, or a URL, or {off}"
        )
    if not isinstance(config.lr_factors, dict | None):
        raise ConfigError(f"lr_factors={config.lr_factors} must name layers, such as {{layer1: 0.1, fc: 5}}")
    for layer, factor in flatten(config.lr_factors or {}).items():
        if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 < factor < math.inf:
            raise ConfigError(f"lr_factors.{layer}={factor} must be a number above 0; freeze=[{layer}] is for none")


def _words(values: list[int]) -> str:
    return f"[{','.join(map(str, values))}]"


def _is_text(value: object) -> bool:
    return isinstance(value, str)
