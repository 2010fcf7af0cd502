"""From a checked config to the objects that do the work; the one place that instantiates a `_target_`."""

import difflib
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from imgcls import disk, distributed, divergence, memory, signatures, weights
from imgcls.config import Config, ConfigError, consequential
from imgcls.data import pixels, policies
from imgcls.data.augment import Augment, Normalise
from imgcls.data.loader import Batch, Loader
from imgcls.data.sources import ImageSet
from imgcls.events import Events
from imgcls.losses import ClassificationLoss
from imgcls.optim import Schedule, WeightAverage, parameter_groups
from imgcls.recovery import Checkpoints
from imgcls.runs import RunDirectory, code_version, refuse_other
from imgcls.trainer import Settings, Trainer

log = logging.getLogger(__name__)

# What may stand behind each plug. A config file can come from anywhere; it must not be a way to run `os.system`.
TRUSTED = {
    "model": ("imgcls.models", "torchvision.models", "timm"),
    "optimizer": ("imgcls.optim", "torch.optim", "timm.optim"),
    "schedule": ("imgcls.optim",),
    "data.source": ("imgcls.data",),
    "augment.crop": ("imgcls.data.crops",),
    "augment.eval_crop": ("imgcls.data.crops",),
    "protocol": ("imgcls.protocols",),
}

# The changes of conf/augment that are made to whole batches on the device; crop, flip and policy are the loader's.
ON_DEVICE = ("pca_std", "brightness", "contrast", "saturation", "hue", "erasing", "mixup", "cutmix")


def plug(key: str, node: dict[str, Any], *arguments: Any, **more: Any) -> Any:
    """Call the `_target_` of the plug `key` with its settings, positional `arguments` and keywords `more`.

    Raises:
        ConfigError: the target is not trusted, does not exist, lacks a setting, or does not take one or its value.
    """
    target = node["_target_"]
    found = _locate(key, target)
    settings = {name: value for name, value in node.items() if not name.startswith("_")}
    signatures.check(key, target, found, settings, num_given=len(arguments), given=more)
    try:
        # Not recursive: a `_target_` hidden among the settings stays a plain value.
        return instantiate({"_target_": target, **settings}, *arguments, **more, _convert_="all", _recursive_=False)
    except Exception as error:
        # Hydra wraps what the target raised; the user wants the target's own words.
        if isinstance(error.__cause__, ValueError | FileNotFoundError | OSError | TypeError):
            raise ConfigError(f"{key}: {error.__cause__}") from error
        raise


def _locate(key: str, target: str) -> Callable[..., Any]:
    trusted = TRUSTED[key]
    module_name, _, name = target.rpartition(".")
    if not any(target.startswith(f"{prefix}.") for prefix in trusted):
        raise ConfigError(f"{key}._target_={target} is not allowed; it must lie below {' or '.join(trusted)}")
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}._target_={target}: {error}") from error
    except AttributeError:
        close = difflib.get_close_matches(name, dir(module), n=1)
        hint = f" (did you mean {module_name}.{close[0]}?)" if close else ""
        raise ConfigError(f"{key}._target_={target}: {module_name} has no {name}{hint}") from None
    # A trusted module's own imports (`imgcls.data.loader.os`) are not what it offers.
    home = getattr(found, "__module__", "") or ""
    if not callable(found) or not any(f"{home}.".startswith(f"{prefix}.") for prefix in trusted):
        raise ConfigError(f"{key}._target_={target} is not allowed; it is not defined below {' or '.join(trusted)}")
    return found


@contextmanager
def run_directory(config: Config, path: Path) -> Iterator[RunDirectory]:
    """Hold the run's directory on the main rank, and know it on the others; what the main rank refuses, all refuse."""
    with disk.explained(path):
        held: RunDirectory | Exception
        try:
            held = RunDirectory(path, consequential(config), overwrite=config.overwrite, lock=distributed.is_main())
            check_finished(config, held)
        except (ValueError, OSError) as error:
            held = error
        refused = distributed.from_main(held if isinstance(held, Exception) else None)
        assert refused is None
        assert isinstance(held, RunDirectory)
        with held:
            yield held


def check_finished(config: Config, run_dir: RunDirectory) -> None:
    """Hold a finished run against the data that is asked for, if that lies elsewhere.

    Raises:
        ValueError: it was trained on another set.
    """
    results = run_dir.results() or {}
    if results and results["data_root"] != config.data.root:
        refuse_other(run_dir.path, "data set", results["data"], image_set(config).identity())


def image_set(config: Config) -> ImageSet:
    """Open the data set that the config names, and hold `data.num_classes` against it."""
    data = config.data
    opened: ImageSet = plug("data.source", data.source, root=data.root, channels=data.channels)
    opened.check_num_classes(data.num_classes)
    return opened


def model(config: Config, *, num_classes: int, with_weights: bool = True) -> nn.Module:
    """Build the network for `num_classes`, with its paper's initialisation drawn from the seed, or config.weights."""
    settings = dict(config.model)
    for key, value in (("num_classes", num_classes), ("in_channels", config.data.channels)):
        if settings.get(key) is None:
            settings[key] = value
    if settings["num_classes"] < num_classes:
        raise ConfigError(
            f"model.num_classes={settings['num_classes']}, but the data has {num_classes} classes; "
            "leave model.num_classes out"
        )
    if settings["in_channels"] != config.data.channels:
        raise ConfigError(
            f"model.in_channels={settings['in_channels']}, but data.channels={config.data.channels}; "
            "leave model.in_channels out"
        )
    torch.manual_seed(config.seed)
    built: nn.Module = plug("model", settings)
    if with_weights and config.weights is not None:
        if weights.is_published(config.weights) and config.augment.input != "standardised":
            raise ConfigError(
                f"augment.input={config.augment.input}, but the published weights are of standardised pixels; "
                "add augment.input=standardised"
            )
        weights.start_from(built, config.weights, settings)
    if config.freeze == "backbone":
        weights.freeze_backbone(built)
    least = getattr(built, "min_image_size", 1)
    if config.image_size < least:
        raise ConfigError(
            f"image_size={config.image_size} is too small for {type(built).__name__}; use image_size={least} or more"
        )
    return built


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision on `device`, or None for plain float32.

    Raises:
        ConfigError: fp16 on a CPU, whose gradients would underflow unscaled and which gains nothing by it.
    """
    if precision == "auto":
        if device.type == "cpu":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision=fp16 needs a CUDA device, and there is none here; use precision=fp32 or auto")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def optimizer(config: Config, network: nn.Module) -> Optimizer:
    """Build the optimizer over the network's parameters, fused into one pass over them where it can be."""
    groups = parameter_groups(network, decay_norms_and_biases=config.decay_norms_and_biases)
    settings = dict(config.optimizer)
    if config.lr_scaling == "linear":
        settings["lr"] *= config.batch_size / config.recipe.batch_size
    if config.head_lr_factor != 1:
        groups = head_apart(network, groups, lr=settings["lr"] * config.head_lr_factor)
    takes = inspect.signature(_locate("optimizer", settings["_target_"])).parameters
    if "fused" in takes and settings.get("fused") is None:
        settings["fused"] = True
    built = plug("optimizer", settings, groups)
    if not isinstance(built, Optimizer):
        raise ConfigError(f"optimizer._target_={settings['_target_']} is no torch.optim.Optimizer")
    return built


def head_apart(network: nn.Module, groups: list[dict[str, Any]], *, lr: float) -> list[dict[str, Any]]:
    """Split the last layer's parameters off into groups of their own `lr`."""
    names = weights.heads(network)
    head = {id(parameter) for name, parameter in network.named_parameters() if weights.is_head(name, names)}
    split = [
        *({**group, "params": [p for p in group["params"] if id(p) not in head]} for group in groups),
        *({**group, "params": [p for p in group["params"] if id(p) in head], "lr": lr} for group in groups),
    ]
    return [group for group in split if group["params"]]


def loaders(config: Config, images: ImageSet, device: torch.device) -> tuple[Loader, Loader]:
    """Build the training and the validation loader of this rank."""
    data, augment = config.data, config.augment
    ranks = distributed.world_size()
    if config.batch_size % ranks:
        raise ConfigError(
            f"batch_size={config.batch_size} does not divide over {ranks} ranks; use a multiple of {ranks}"
        )
    common: dict[str, Any] = {
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "rank": distributed.rank(),
        "world_size": ranks,
        "num_threads": data.num_threads,
        "prefetch": data.prefetch,
        "device": device,
        "on_bad_image": data.on_bad_image,
        "cache_gb": data.cache_gb,
        "channels": data.channels,
    }
    crop, eval_crop = plug("augment.crop", augment.crop), plug("augment.eval_crop", augment.eval_crop)
    policy = policies.make(augment.policy, ops=augment.policy_ops, magnitude=augment.policy_magnitude)
    train = Loader(images.train, crop, shuffle=True, flip=augment.flip, policy=policy, **common)
    return train, Loader(images.val, eval_crop, shuffle=False, **common)


def trainer(config: Config, run_dir: RunDirectory, device: torch.device) -> Trainer:
    """Build everything that a run needs, make `run_dir` its own, and take up the run that is there, if any.

    Raises:
        ValueError, FileNotFoundError: whatever in the config does not fit the data, the network or the machine; nothing
            has been trained by then.
    """
    same_bits(config, device)
    memory.keep_freed(device)
    images = image_set(config)
    num_classes = len(images.classes)
    train_loader, val_loader = loaders(config, images, device)
    # A run that goes on has its weights, and need not find those again that it started from.
    network = model(config, num_classes=num_classes, with_weights=not run_dir.holds_run).to(device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    dtype = autocast_dtype(config.precision, device)
    statistics = input_statistics(config)
    normalise = Normalise(**statistics).to(device)
    changes = {key: getattr(config.augment, key) for key in ON_DEVICE}
    augment = Augment(**statistics, seed=config.seed, **changes)
    describe(config, images, network, device=device, dtype=dtype, run_dir=run_dir.path, steps=train_loader.num_batches)

    def wrap(bare: nn.Module) -> nn.Module:
        wrapped = DistributedDataParallel(bare) if distributed.world_size() > 1 else bare
        return torch.compile(wrapped) if config.compile else wrapped  # type: ignore[return-value]

    def layout(pixels: Tensor) -> Tensor:
        # (B, H, W, C) seen as (B, C, H, W) is channels_last already.
        return pixels if config.channels_last else pixels.contiguous()

    def augment_batch(batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        pixels, targets = augment(batch.images, batch.labels, batch.indices, epoch=epoch, num_classes=num_classes)
        return layout(pixels), targets

    def open_events(position: dict[str, int] | None) -> Events:
        main = distributed.is_main()
        return Events(run_dir.path, tensorboard=config.tensorboard, enabled=main, position=position)

    # Whatever may be refused comes before the run that is there is touched.
    metric = best_metric(config, num_classes)
    average = WeightAverage(network, decay=config.ema_decay) if config.ema_decay else None
    loss = ClassificationLoss(label_smoothing=config.label_smoothing, auxiliary_weight=config.auxiliary_weight)
    train_optimizer = optimizer(config, network)
    lr_schedule = schedule(config)
    run_dir.claim()
    return Trainer(
        network,
        Settings(
            epochs=config.epochs,
            num_classes=num_classes,
            seed=config.seed,
            device=device,
            autocast=dtype,
            max_steps=config.max_steps,
            microbatch=config.microbatch,
            clip_grad_norm=config.clip_grad_norm,
            log_every_steps=config.log_every_steps,
            best_metric=metric,
            on_divergence=divergence.Policy(rollback=config.on_divergence == "rollback", **asdict(config.divergence)),
        ),
        wrap=wrap,
        average=average,
        loss=loss,
        optimizer=train_optimizer,
        schedule=lr_schedule,
        augment=augment_batch,
        prepare=lambda pixels: layout(normalise(pixels)),
        train_loader=train_loader,
        val_loader=val_loader,
        checkpoints=checkpoints(config, run_dir.path),
        open_events=open_events,
        description={
            "config": consequential(config),
            "classes": images.classes,
            "data": images.identity(),
            "data_root": config.data.root,
            "precision": "fp32" if dtype is None else str(dtype).removeprefix("torch."),
            "code": code_version(),
        },
    )


def same_bits(config: Config, device: torch.device) -> None:
    """Have CUDA too give the same bits for the same seed, where `deterministic=true` asks for it, and say at what cost.

    On a CPU they are the same anyhow.
    """
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic and device.type == "cuda":
        # cuBLAS reads it before its first product; with workspaces of its own choice the order of its sums varies.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        log.info(
            "deterministic=true: cuDNN takes kernels that add in a fixed order instead of timing which are fastest; "
            "that costs images per second (train/images_per_second in TensorBoard tells how many)"
        )


def checkpoints(config: Config, run_dir: Path) -> Checkpoints:
    """Build what saves the run; going back to the start of an epoch needs that kept."""
    keep = max(config.checkpoint.keep, int(config.on_divergence == "rollback"))
    return Checkpoints(run_dir, every_minutes=config.checkpoint.every_minutes, keep=keep)


def best_metric(config: Config, num_classes: int) -> Any:
    """Return `checkpoint.best_metric`, held against what this data has."""
    metric = config.checkpoint.best_metric
    if metric == "top5" and num_classes < 6:
        raise ConfigError(
            f"checkpoint.best_metric=top5, but of {num_classes} classes any five hold nearly all; use top1 or loss"
        )
    return metric


def input_statistics(config: Config) -> dict[str, list[float]]:
    """Return the mean and std that pixels in 0..1 are normalised by, one number a channel.

    `augment.input=mean_subtracted` leaves them in 0..255 less their mean, as the networks of 2012 took them, whose
    initial weights are too small for anything less (Krizhevsky et al. 2012, section 2).
    """
    channels, std = config.data.channels, config.data.std
    if config.augment.input == "mean_subtracted":
        std = [1 / 255]
    return {"mean": _per_channel(config.data.mean, channels), "std": _per_channel(std, channels)}


def _per_channel(values: list[float], channels: int) -> list[float]:
    return values * channels if len(values) == 1 else values


def schedule(config: Config) -> Schedule:
    """Build the schedule of lr, and hold its warm-up against the length of the run."""
    built: Schedule = plug("schedule", config.schedule)
    warmup_epochs = config.schedule.get("warmup_epochs") or 0
    if warmup_epochs >= config.epochs:
        raise ConfigError(
            f"schedule.warmup_epochs={warmup_epochs} takes all of epochs={config.epochs}; use a tenth of it"
        )
    return built


def describe(
    config: Config,
    images: ImageSet,
    network: nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    run_dir: Path,
    steps: int,
) -> None:
    """Say in the log's first lines what is about to be trained, and on what."""
    recipe, num_parameters = config.recipe, sum(parameter.numel() for parameter in network.parameters())
    model_name = str(config.model.get("arch") or type(network).__name__)
    log.info("imgcls %s, torch %s", code_version(), torch.__version__)
    log.info("model    %s, %s parameters", model_name, f"{num_parameters:,}")
    log.info(
        "data     %s: %d classes, %s training and %s validation images",
        config.data.name,
        len(images.classes),
        f"{len(images.train):,}",
        f"{len(images.val):,}",
    )
    log.info(
        "recipe   %s (%s): %d epochs of %d steps, batch %d, %d px",
        recipe.name,
        recipe.paper,
        config.epochs,
        steps,
        config.batch_size,
        config.image_size,
    )
    changed = [
        f"{key} {own} from data={config.data.name} (the recipe has {getattr(recipe, key)})"
        for key in ("image_size", "batch_size", "epochs")
        if (own := getattr(config.data.scale, key)) is not None
        and own == getattr(config, key)
        and own != getattr(recipe, key)
    ]
    if config.lr_scaling == "linear" and config.batch_size != recipe.batch_size:
        lr = config.optimizer["lr"]
        scaled = lr * config.batch_size / recipe.batch_size
        changed.append(f"lr {scaled:g} ({lr:g} at batch {recipe.batch_size}; lr_scaling=none keeps it)")
    if changed:
        log.info("scale    %s", ", ".join(changed))
    log.info("decoder  %s", pixels.decoder())
    precision = "fp32" if dtype is None else str(dtype).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    ranks = f", {distributed.world_size()} ranks" if distributed.world_size() > 1 else ""
    log.info("device   %s, %s%s", name, precision, ranks)
    log.info("run      %s", run_dir)
