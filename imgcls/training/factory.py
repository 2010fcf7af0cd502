"""Build the trainer and its parts from a checked config."""

import inspect
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from imgcls import distributed
from imgcls.checkpoints import Checkpoints
from imgcls.config import Config, brought_by_set, build_component, consequential, locate
from imgcls.data.augment import num_different
from imgcls.data.decoding import describe_decoder
from imgcls.data.loading import Batch, build_loaders, check_files
from imgcls.data.on_device import Augment, Normalise, build_augmentations, input_statistics
from imgcls.data.sets import ImageSet, describe_sample, open_image_set
from imgcls.device import (
    autocast_dtype,
    device_name,
    float64_device,
    keep_freed_memory,
    precision_name,
    set_determinism,
)
from imgcls.environment import command
from imgcls.errors import ConfigError
from imgcls.metrics import Meter, metrics_of
from imgcls.models import (
    build_model,
    describe_input,
    outline_model,
    parameters_without_gradient,
    pretrained_input,
    take_input,
    try_out,
)
from imgcls.runs import (
    Events,
    RunDirectory,
    build_loggers,
    code_version,
    epochs_text,
    explain_disk_errors,
    shorter_run,
)
from imgcls.startup import with_settings_of_weights
from imgcls.training.bad_files import put_back_removed_files
from imgcls.training.compiled_step import with_compiled_step
from imgcls.training.compiling import check_compiler, compile_network, keep_compiled_code, repeated_blocks
from imgcls.training.freezing import Freezing
from imgcls.training.groups import lr_factors, lr_scale, optimizer_groups
from imgcls.training.host_memory import host_memory
from imgcls.training.log import RunLog
from imgcls.training.losses import ClassificationLoss
from imgcls.training.microbatch import check_host_memory
from imgcls.training.optim import WeightAverage, without_dynamo
from imgcls.training.risks import log_risks
from imgcls.training.schedules import Schedule
from imgcls.training.sharding import check_precision, is_sharded, shard
from imgcls.training.state import resume
from imgcls.training.trainer import Trainer

log = logging.getLogger(__name__)


@contextmanager
def open_run_directory(config: Config, path: Path) -> Iterator[RunDirectory]:
    """Open the run's directory, locked by the main rank; an error of the main rank is raised on all ranks."""
    with explain_disk_errors(path):
        opened: RunDirectory | Exception
        try:
            opened = RunDirectory(
                path,
                consequential(with_settings_of_weights(config, path)),
                overwrite=config.overwrite,
                continue_run=config.continue_run,
                look_only=not distributed.is_main(),
                lock=config.lock,
            )
        except (ValueError, OSError) as error:
            opened = error
        distributed.from_main(opened if isinstance(opened, Exception) else None)
        assert isinstance(opened, RunDirectory)
        with opened:
            yield opened


def build_optimizer(config: Config, network: nn.Module) -> Optimizer:
    """Build the optimizer of the network's parameters, fused into one pass over them if it can be, else compiled."""
    groups = optimizer_groups(config, network)
    settings = dict(config.optimizer)
    if "lr" in settings:
        settings["lr"] *= lr_scale(config)
    parameters = inspect.signature(locate("optimizer", settings["_target_"])).parameters
    if "fused" in parameters and settings.get("fused") is None:
        settings["fused"] = not is_sharded(config)  # torch (2.11 to 2.15) has no fused SGD over parts of tensors
    compiled = config.compile and not settings.get("fused") and not is_sharded(config)
    built = build_component("optimizer", settings, groups, adapt=with_compiled_step if compiled else without_dynamo)
    if not isinstance(built, Optimizer):
        raise ConfigError(f"optimizer._target_={settings['_target_']} is not a torch.optim.Optimizer")
    return built


def build_trainer(
    config: Config,
    run_dir: RunDirectory,
    device: torch.device,
    *,
    images: ImageSet | None = None,
    look_at_files: bool = True,
    words: Sequence[str] = (),
    new_scaler: Callable[[], torch.amp.GradScaler] | None = None,
) -> Trainer:
    """Build the trainer of a run, claim `run_dir` for it, and resume the run that the directory holds, if any.

    Args:
        images: the image set of the config, if it is open already.
        look_at_files: look at every validation file before the first step.
        words: of the command line, which TensorBoard shows.
        new_scaler: makes the scaler of the loss; by default it scales in fp16 alone.

    Raises:
        ValueError, FileNotFoundError: the config does not fit the data, the network or the machine; nothing has been
            trained or changed.
    """
    # A resumed run has its weights; it does not need the file that it started from.
    resumed = distributed.from_main(run_dir.holds_run)
    config = with_settings_of_weights(config, run_dir.path) if resumed else _with_input_of_weights(config, run_dir)
    set_determinism(config, device)
    keep_freed_memory(device)
    images = images or open_image_set(config)
    if run_dir.holds_run:
        images = put_back_removed_files(images, run_dir.path)
    num_classes = len(images.classes)
    train_loader, val_loader = build_loaders(config, images, device)
    network = build_model(config, num_classes=num_classes, with_weights=not resumed)
    if config.sync_batch_norm:
        network = sync_batch_norm(network, config, device)
    sharded = is_sharded(config)
    if not sharded:  # else it stays on the host until it is shared out
        network = network.to(device)
        if config.channels_last:
            network = network.to(memory_format=torch.channels_last)
    metrics, dtype = metrics_of(config.topk), autocast_dtype(config.precision, device, config.input_size)
    check_precision(config, dtype)
    distributed.check_same({f"what precision={config.precision} takes": precision_name(dtype)})
    statistics = input_statistics(config)
    normalise = Normalise(**statistics).to(device)
    augment = Augment(build_augmentations(config.augment.batch), **statistics, seed=config.seed)
    if config.compile:
        check_compiler(device)
        keep_compiled_code()
        augment.compile()
    log_run(config, images, network, device=device, dtype=dtype, run_dir=run_dir.path, steps=train_loader.num_batches)
    log_risks(config, network, num_images=len(images.train))

    def layout(pixels: Tensor) -> Tensor:
        # (B, H, W, C) seen as (B, C, H, W) is channels_last already.
        return pixels if config.channels_last else pixels.contiguous()

    def augment_batch(batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        pixels, targets = augment(batch.images, batch.labels, batch.indices, epoch=epoch, num_classes=num_classes)
        return layout(pixels), targets

    def open_events(position: dict[str, int] | None) -> Events:
        main = distributed.is_main()
        return Events(
            run_dir.path,
            loggers=build_loggers(config.logger),
            enabled=main,
            position=position,
            averages=config.ema_decay > 0,
            metrics=metrics,
        )

    def fp16_scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    # Everything that may be refused comes before the first change to the run's directory.
    check_best_metric(config, num_classes)
    if config.compile_mode == "blocks":
        repeated_blocks(network)
    if look_at_files:
        check_files(val_loader)
    freezing = Freezing(config, network)
    all_learn = try_network(config, network, freezing, num_classes=num_classes, dtype=dtype)
    host = host_memory(config, network, freezing, device=device, dtype=dtype)
    average = WeightAverage(network, decay=config.ema_decay) if config.ema_decay else None
    for each in (network, average and average.model) if sharded else ():
        if each is not None:
            shard(each, config, device)
    optimizer, schedule = build_optimizer(config, network), build_schedule(config)
    freezing = Freezing(config, network)
    trainer = Trainer(
        config=config,
        device=device,
        autocast=dtype,
        num_classes=num_classes,
        model=network,
        train_model=network,
        wrap=lambda network: wrap(network, config, all_learn=all_learn),
        freezing=freezing,
        average=average,
        loss=ClassificationLoss(
            label_smoothing=config.label_smoothing,
            auxiliary_weight=config.auxiliary_weight,
            class_weights=class_weights(config, images),
        ).to(device),
        optimizer=optimizer,
        schedule=schedule,
        new_scaler=new_scaler or fp16_scaler,
        augment=augment_batch,
        prepare=lambda pixels: layout(normalise(pixels)),
        train_loader=train_loader,
        val_loader=val_loader,
        checkpoints=build_checkpoints(config, run_dir.path),
        run_log=RunLog(open_events, Meter(float64_device(device), metrics=metrics)),
        description={
            "config": consequential(config),
            "classes": images.classes,
            "data": images.identity(),
            "data_root": config.data.root,
            "metrics": ", ".join(metrics),
            "precision": precision_name(dtype),
            "code": code_version(),
        },
        host=host,
    )
    check_host_memory(trainer)
    position = resume(trainer) if resumed else None
    if not resumed and (shorter := shorter_run(run_dir.path, trainer.description["config"])):
        log.info("shorter  name=%s continue_run=true goes on with the same run of %d epochs instead", *shorter)
    run_dir.claim(step=trainer.state.step, epoch=trainer.state.epoch)
    trainer.run_log.open(position)
    line = f"{command('train')} {shlex.join(words)}"
    trainer.run_log.events.describe(trainer.description["config"], model=str(network.arch), command=line)
    freezing.apply(trainer.state.epoch)
    trainer.train_model = trainer.wrap(network)
    log_learning(config, network, freezing)
    return trainer


def _with_input_of_weights(config: Config, run_dir: RunDirectory) -> Config:
    """Return the config of a run that begins, with the input that its pretrained weights expect, and log which."""
    of_libraries = any(config.model.get(key) for key in ("weights", "pretrained", "checkpoint_path"))
    if config.weights is None and not of_libraries:
        return config
    expected = pretrained_input(config, outline_model(config, num_classes=config.model.get("num_classes") or 1000))
    if expected is None:
        return config
    config, changes = take_input(config, expected)
    if changes:
        log.info("input    of %s", describe_input(expected, changes))
        run_dir.take_settings(consequential(config), changes)
    return config


def sync_batch_norm(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """Let each batch norm of a run on several GPUs take its statistics over the images of all of them.

    Raises:
        ConfigError: the ranks are on CPUs, where torch's SyncBatchNorm does not run.
    """
    if distributed.world_size() == 1:
        return network  # the images of one device are all images
    if device.type != "cuda":
        raise ConfigError(
            f"sync_batch_norm=true: torch's SyncBatchNorm runs on CUDA devices alone, not on device={device.type}; "
            "leave it out, or train in one process"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def try_network(
    config: Config, network: nn.Module, freezing: Freezing, *, num_classes: int, dtype: torch.dtype | None
) -> bool:
    """Try whether the network takes this run's images, and as few at a time as the run would give it.

    Returns:
        False if several ranks train and some parameter that learns gets no gradient.

    Raises:
        ConfigError: it does not take them.
    """
    local_size = config.batch_size // distributed.world_size()
    num_parts = -(-local_size // config.microbatch) if isinstance(config.microbatch, int) else 1
    output = try_out(
        network,
        num_images=local_size // num_parts,  # of the smallest part of a step
        channels=config.data.channels,
        size=config.input_size,
        num_classes=num_classes,
        autocast=dtype,
        in_eval=freezing.norms_for_good,
    )
    if distributed.world_size() == 1:
        return True
    without = parameters_without_gradient(network, output)
    if without:
        shown = f"{', '.join(without[:3])}{f' and {len(without) - 3} more' if without[3:] else ''}"
        log.info("ranks    these parameters get no gradient, which each step looks for: %s", shown)
    return not without


def wrap(network: nn.Module, config: Config, *, all_learn: bool = True) -> nn.Module:
    """Return what trains the network's weights: over all ranks, and compiled if asked for.

    Args:
        all_learn: every parameter that is not frozen gets a gradient in each step.
    """
    blocks = config.compile and config.compile_mode == "blocks"
    if blocks:
        network = compile_network(network, "blocks")
    alone = is_sharded(config) or distributed.world_size() == 1
    over_ranks = network if alone else exchange_gradients(network, config, all_learn=all_learn)
    return compile_network(over_ranks, config.compile_mode) if config.compile and not blocks else over_ranks


def exchange_gradients(network: nn.Module, config: Config, *, all_learn: bool = True) -> DistributedDataParallel:
    """Return the network with gradients that are averaged over all ranks while they are computed."""
    ranks = config.ranks
    over_ranks = DistributedDataParallel(
        network,
        bucket_cap_mb=ranks.bucket_mb,
        # Statistics of batch norm do not change what is trained; rank 0's are sent before a validation.
        broadcast_buffers=False,
        static_graph=ranks.static_graph,
        # A static graph finds them itself, in its first step.
        find_unused_parameters=not all_learn and not ranks.static_graph,
    )
    if ranks.gradients == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        over_ranks.register_comm_hook(None, bf16_compress_hook)
    return over_ranks


def class_weights(config: Config, images: ImageSet) -> Tensor | None:
    """Return what each image's loss is multiplied by, by class (K,), or None.

    balanced: N / (K * images of the class), of N training images in K classes; its mean over the images is 1.

    Raises:
        ConfigError: a list of another length than there are classes.
    """
    given, num_classes = config.class_weights, len(images.classes)
    if given is None:
        return None
    if given == "balanced":
        counts = np.bincount(images.train.labels, minlength=num_classes)
        present = np.maximum(counts, 1) * (counts > 0).sum()
        return torch.from_numpy(np.where(counts > 0, counts.sum() / present, 0)).float()
    if len(given) != num_classes:
        raise ConfigError(
            f"class_weights has {len(given)} numbers, and the data has {num_classes} classes; give one for each, in "
            f"the order {', '.join(images.classes[:5])}{', ...' if num_classes > 5 else ''}"
        )
    return torch.tensor(given, dtype=torch.float32)


def build_checkpoints(config: Config, run_dir: Path) -> Checkpoints:
    """Build what saves the run; on_divergence=rollback needs the newest epoch's checkpoint at least."""
    keep = max(config.checkpoint.keep, int(config.on_divergence == "rollback"))
    return Checkpoints(run_dir, every_minutes=config.checkpoint.every_minutes, keep=keep)


def check_best_metric(config: Config, num_classes: int) -> None:
    """Raise ConfigError if this data has too few classes for `checkpoint.best_metric`."""
    name, metrics = config.checkpoint.best_metric, metrics_of(config.topk)
    if num_classes < metrics[name].min_classes:
        others = " or ".join(other for other, metric in metrics.items() if num_classes >= metric.min_classes)
        raise ConfigError(
            f"checkpoint.best_metric={name} needs at least {metrics[name].min_classes} classes, and the data has "
            f"{num_classes}; use {others}"
        )


def build_schedule(config: Config) -> Schedule:
    """Build the schedule of lr; its warm-up must be shorter than the run."""
    built: Schedule = build_component("schedule", config.schedule)
    warmup_epochs = config.schedule.get("warmup_epochs") or 0
    if warmup_epochs >= config.epochs:
        raise ConfigError(
            f"schedule.warmup_epochs={warmup_epochs} takes all of epochs={config.epochs}; use a tenth of it"
        )
    min_lr, lr = config.schedule.get("min_lr"), (config.optimizer.get("lr") or 0) * lr_scale(config)
    if min_lr is not None and min_lr >= lr:
        raise ConfigError(
            f"schedule.min_lr={min_lr} ends the run at once, as lr is {lr:g}; use less, such as {lr / 1000:g}"
        )
    return built


def log_run(
    config: Config,
    images: ImageSet,
    network: nn.Module,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    run_dir: Path,
    steps: int,
) -> None:
    """Log what is about to be trained, and on what, in the log's first lines."""
    recipe, num_parameters = config.recipe, sum(parameter.numel() for parameter in network.parameters())
    log.info("imgcls %s, torch %s", code_version(), torch.__version__)
    arch = config.model.get("arch") or getattr(network, "arch", type(network).__name__)
    log.info("model    %s, %s parameters", arch, f"{num_parameters:,}")
    log.info(
        "data     %s: %d classes, %s training and %s validation images%s",
        config.data.name,
        len(images.classes),
        f"{len(images.train):,}",
        f"{len(images.val):,}",
        "" if config.data.memorise is None else f", the same ones (data.memorise={config.data.memorise})",
    )
    images.log_notes()
    for line in describe_sample(images.train) if distributed.is_main() else ():
        log.info("data     %s", line)
    left_out = len(images.train) - steps * config.batch_size
    log.info(
        "recipe   %s (%s): %s of %d steps, batch %d, %s px%s",
        recipe.name,
        recipe.paper,
        epochs_text(config.epochs),
        steps,
        config.batch_size,
        config.input_size,
        f"; each epoch leaves out {left_out} other images" if left_out else "",
    )
    if (repeats := config.augment.repeats) > 1:
        different = num_different(config.batch_size, repeats)
        log.info(
            "repeats  each batch is %d images, up to %d times each: an epoch shows %s different ones",
            different,
            repeats,
            f"{steps * different:,}",
        )
    settings = {key: value for key, value in config.optimizer.items() if key != "_target_" and value is not None}
    if "lr" in settings:
        settings["lr"] = f"{settings['lr'] * lr_scale(config):.4g}"
    log.info("trains   by %s, %s; lr by %s", _kind(config.optimizer), _named(settings), _kind(config.schedule))
    brought = brought_by_set(config, len(images.train))
    if brought:
        sizes = {key: f"{value} ({getattr(recipe, key)})" for key, value in brought.items()}
        log.info("scale    of data=%s (and the recipe's): %s", config.data.name, _named(sizes))
    scale, schedule = config.data.scale, config.schedule
    patience = {key: getattr(scale, key) for key in ("patience_epochs", "min_gain", "min_epochs")}
    if patience := {key: value for key, value in patience.items() if value is not None and schedule.get(key) == value}:
        log.info("scale    of the schedule, by data=%s: %s", config.data.name, _named(patience))
    if lr_scale(config) != 1:
        lr, at = config.optimizer["lr"], f"at batch {recipe.batch_size}"
        log.info("scale    lr %g %s, lr_scaling=%s; none keeps it", lr, at, config.lr_scaling)
    log.info("decoder  %s", describe_decoder())
    name = device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name += f", {threads} thread{'s' * (threads > 1)}"
    ranks = f", {distributed.world_size()} ranks" if distributed.world_size() > 1 else ""
    log.info("device   %s, %s%s", name, precision_name(dtype), ranks)
    log.info("run      %s", run_dir)


def log_learning(config: Config, network: nn.Module, freezing: Freezing) -> None:
    """Log which part of the network does not learn, and how lr differs between its layers."""
    if freezing.parameters:
        of_all = sum(each.numel() for each in freezing.parameters) / sum(each.numel() for each in network.parameters())
        until = "" if freezing.until_epoch is None else f" in the first {epochs_text(freezing.until_epoch)}"
        what = config.freeze if isinstance(config.freeze, str) else ", ".join(config.freeze)
        log.info("freeze   %s: %.1f %% of the weights do not learn%s", what, 100 * of_all, until)
    names: dict[float, list[str]] = {}
    for name, factor in lr_factors(config, network).items():
        names.setdefault(factor, []).append(name.rpartition(".")[0] or name)
    if len(names) > 1:
        shown = [f"{factor:.3g} of {layers[0]} to {layers[-1]}" for factor, layers in names.items()]
        log.info("factors  on lr: %s", ", ".join(shown))


def _kind(node: dict[str, Any]) -> str:
    return node["_target_"].rpartition(".")[2]


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
