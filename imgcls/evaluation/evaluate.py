"""From a test's config to its results: members, their probabilities (kept on disk), ensembles, and what is told."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls import distributed
from imgcls.config import EvaluateConfig, build_component, consequential, data_of_test
from imgcls.data.sets import ImageSet, open_image_set, wnids
from imgcls.errors import ConfigError
from imgcls.evaluation.cache import cache_key, load_predictions, save_predictions
from imgcls.evaluation.ensemble import check_checkpoints, check_same_images, ensemble_results, ensemble_table
from imgcls.evaluation.published import check_comparable, compare_published
from imgcls.evaluation.report import (
    CONFUSION,
    PREDICTIONS,
    RESULTS,
    WORST,
    MemberResult,
    Report,
    real_accuracy,
    real_labels,
)
from imgcls.inference import (
    Member,
    TestProtocol,
    average_weights,
    draw_confusion_matrix,
    ensemble_predictions,
    folder_of_several,
    num_outputs,
    open_checkpoint,
    open_weights,
    predict_split,
    protocol_name,
    validation_crop,
)
from imgcls.metrics import METRICS
from imgcls.runs import code_version

log = logging.getLogger(__name__)


def members(config: EvaluateConfig) -> list[Callable[[], Member]]:
    """Return what opens each network of the test: one at a time, as several may not fit into memory."""
    if config.weights is not None:
        assert config.network is not None
        weights, network = config.weights, config.network
        return [lambda: open_weights(weights, network)]
    if config.average == "weights":
        return [lambda: average_weights(config.checkpoints)]
    return [lambda path=path: open_checkpoint(path) for path in config.checkpoints]


def use_data(member: Member, config: EvaluateConfig) -> None:
    """Point the member at the images of the test; how it sees them stays as it was trained."""
    own = member.config.data = data_of_test(member.config.data, config.data)
    member.config.image_size = config.image_size or member.config.image_size
    source, root = own.source, Path(own.root or "").expanduser()
    # A test needs no training images: a root that holds val/ alone will do.
    if own.root and "train" in source and not (root / source["train"]).is_dir() and (root / source["val"]).is_dir():
        own.source = {**source, "train": source["val"]}
    elif own.root and str(source["_target_"]).endswith(".open_imagenet") and not (root / "train").is_dir():
        own.source = (
            {**source, "train": source.get("val", "val")} if (root / source.get("val", "val")).is_dir() else source
        )


def labels_for(member: Member, images: ImageSet) -> np.ndarray:
    """The labels of the validation images as positions among the classes that the network knows.

    Raises:
        ValueError: the images have classes that it does not know.
    """
    if member.classes is None and num_outputs(member) == len(wnids()) and set(images.classes) <= set(wnids()):
        member.classes = list(wnids())
    if member.classes is None:
        if len(images.classes) != num_outputs(member):
            raise ValueError(
                f"{member.name} has {num_outputs(member)} outputs, but the data has {len(images.classes)} classes; "
                "give the set that it was trained on"
            )
        member.classes = images.classes
    known = {name: k for k, name in enumerate(member.classes)}
    unknown = [name for name in images.classes if name not in known]
    if unknown:
        raise ValueError(
            f"{member.name} knows {len(member.classes)} classes ({', '.join(member.classes[:3])}, ...), but the data "
            f"has {len(images.classes)}, {len(unknown)} of them unknown to it ({', '.join(unknown[:3])}); "
            "give the set that it was trained on, or one with some of its classes"
        )
    return np.array([known[name] for name in images.classes])[images.val.labels]


def evaluate_member(
    member: Member, config: EvaluateConfig, protocol: TestProtocol, device: torch.device
) -> MemberResult:
    """Test one network, or take up the predictions that are kept of it.

    Raises:
        ValueError, FileNotFoundError: whatever does not fit, before the network is run.
    """
    use_data(member, config)
    images = open_image_set(member.config)
    labels = labels_for(member, images)
    assert member.classes is not None
    if config.compare is not None:
        check_comparable(member, labels, protocol)
    if config.real is not None:
        real_labels(Path(config.real).expanduser(), images.val, len(member.classes))
    size = f"-{config.image_size}px" if config.image_size else ""
    subfolder = f"{data_name(member, config)}-{protocol_name(protocol)}{size}"
    single = len(config.checkpoints) < 2 or config.average == "weights"
    folder = Path(config.out).expanduser() if config.out and single else member.home / "evaluate" / subfolder
    _make_folder(folder)
    facts = cache_key(member, images.val, protocol, config)
    kept = None if config.fresh else load_predictions(folder, facts)
    if distributed.from_main(kept is not None):
        log.info("%s: its predictions are kept in %s (fresh=true runs it again)", member.name, folder)
        predictions = kept
    else:
        started = time.monotonic()
        views = len(protocol.views(375, 500, image_size=member.config.image_size, crop=validation_crop(member)))
        num_views = views * (1 + protocol.flip)
        of_each = "one view" if num_views == 1 else f"{num_views} views"
        log.info("%s: %s images, %s of each", member.name, f"{len(images.val):,}", of_each)
        predictions = predict_split(member, images.val, protocol, config, device)
        seconds = time.monotonic() - started
        log.info("%.1f s, %.1f images/s", seconds, len(images.val) / seconds)
        if predictions is not None:
            save_predictions(folder, predictions, facts)
    return MemberResult(
        name=member.name,
        arch=member.arch,
        published=member.published,
        classes=member.classes,
        config=consequential(member.config),
        folder=folder,
        split=images.val,
        labels=labels,
        predictions=predictions,
    )


def data_name(member: Member, config: EvaluateConfig) -> str:
    """Return the name of the test's data in the results' folder.

    It has a few letters of its root if data= names another set than the member's own, as two sets may be of one kind.
    """
    own = member.config.data
    if config.data.source is None or own.root is None:
        return own.name
    return f"{own.name}-{hashlib.sha256(os.path.abspath(os.path.expanduser(own.root)).encode()).hexdigest()[:6]}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: no folder for results can be made there ({error.strerror}); use out=DIR"
        ) from error


def run_evaluation(config: EvaluateConfig, device: torch.device) -> dict[str, Any] | None:
    """Test what the config names, write the results, and return them; None on ranks other than the main one.

    Raises:
        ValueError, FileNotFoundError: whatever does not fit: a checkpoint, the data, the labels.
    """
    protocol: Any = build_component("protocol", config.protocol)
    if config.average == "softmax" and len(config.checkpoints) > 1:
        check_checkpoints(config.checkpoints)
        if config.out:
            _make_folder(Path(config.out).expanduser())
    tested = [evaluate_member(open_member(), config, protocol, device) for open_member in members(config)]
    if not distributed.is_main():
        return None
    first = tested[0]
    for other in tested[1:]:
        check_same_images(first, other)
    predictions = [member.predictions for member in tested if member.predictions is not None]
    folder = first.folder
    results: dict[str, Any] = {}
    report = Report(predictions[0], first.split, first.labels, first.classes)
    if len(tested) > 1:
        folder = (
            Path(config.out).expanduser()
            if config.out
            else folder_of_several(config.checkpoints, "ensemble") / folder.name
        )
        results["ensemble"] = ensemble_results(tested, predictions, [member.name for member in tested])
        log.info(ensemble_table(results["ensemble"]))
        log.info("the ensemble of %d:", len(tested))
        report = Report(ensemble_predictions(predictions), first.split, first.labels, first.classes)
    log.info(report.table())
    results = report.results(num_worst=config.num_worst) | results
    if config.real is not None:
        real = real_labels(Path(config.real).expanduser(), first.split, len(first.classes))
        accuracy, num_images = real_accuracy(report, real)
        results["real"] = {"top1": accuracy, "num_images": num_images}
        log.info("ReaL     top-1 %.2f %% of %s images", accuracy, f"{num_images:,}")
    if config.compare is not None:
        results["published"] = compare_published(report, first, protocol)
    results |= {
        "members": [member.name for member in tested],
        "protocol": protocol_name(protocol),
        "data": first.config["data.name"],
        "image_size": first.config["image_size"],
        "code": code_version(),
    }
    write_results(report, results, folder, config)
    log.info("results  %s", folder)
    return results


def write_results(report: Report, results: dict[str, Any], folder: Path, config: EvaluateConfig) -> None:
    """Write results.json, predictions.csv, the pictures, and the same to TensorBoard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    report.write_predictions(folder / PREDICTIONS)
    pictures = {CONFUSION: draw_confusion_matrix(report.confusion(), report.names)}
    if (worst := report.worst_picture(config.num_worst)) is not None:
        pictures[WORST] = worst
    for name, picture in pictures.items():
        picture.save(folder / name)
    if config.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as writer:
            for key in METRICS:
                if results[key] is not None:
                    writer.add_scalar(f"test/{key}", results[key], 0)
            for name, picture in pictures.items():
                writer.add_image(f"test/{Path(name).stem}", np.asarray(picture.convert("RGB")), 0, dataformats="HWC")
