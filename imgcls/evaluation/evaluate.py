"""Test networks: open the members, predict or load earlier predictions, and report the results."""

import hashlib
import inspect
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imgcls import distributed
from imgcls.config import (
    DataConfig,
    EvaluateConfig,
    ImageSize,
    build_component,
    consequential,
    crop_from_words,
    data_of_test,
    locate,
    name_of_crop,
)
from imgcls.data.sets import TRAIN_TAR, VAL_TAR, ImageSet, Split, list_folder, open_image_set, parts_present, wnids
from imgcls.errors import ConfigError
from imgcls.evaluation.cache import cache_key, load_predictions, save_predictions
from imgcls.evaluation.ensemble import check_checkpoints, check_same_images, ensemble_results, ensemble_table
from imgcls.evaluation.published import check_comparable, compare_published
from imgcls.evaluation.report import (
    CALIBRATION,
    CONFUSION,
    PREDICTIONS,
    RESULTS,
    WORST,
    MemberResult,
    Report,
    real_accuracy,
    real_labels,
    scores_dict,
)
from imgcls.inference import (
    Member,
    Predictions,
    TestProtocol,
    average_weights,
    draw_confusion_matrix,
    ensemble_predictions,
    folder_of_several,
    num_outputs,
    open_checkpoint,
    open_weights,
    predict_split,
    validation_crop,
)
from imgcls.runs import OpenLoggers, build_loggers, code_version, name_disk_errors

log = logging.getLogger(__name__)

Predict = Callable[[Member, Split, TestProtocol, EvaluateConfig, torch.device], Predictions | None]


def members(config: EvaluateConfig) -> list[Callable[[], Member]]:
    """Return a function for each network of the test that opens it."""
    if config.weights is not None:
        assert config.network is not None
        weights, network = config.weights, config.network
        return [lambda: open_weights(weights, network, kind=config.weights_kind)]
    if config.average == "weights":
        return [lambda: average_weights(config.checkpoints, kind=config.weights_kind)]
    return [lambda path=path: open_checkpoint(path, kind=config.weights_kind) for path in config.checkpoints]


def use_data(member: Member, config: EvaluateConfig) -> None:
    """Set the member's data to the images of the test; how they are shown to it stays as in its training."""
    own = member.config.data = data_of_test(member.config.data, config.data)
    member.config.image_size = config.image_size or member.config.image_size
    if config.crop:
        trained, augment = member.config.augment.eval_crop, member.config.augment
        augment.eval_crop = crop_from_words(trained, config.crop)
        shown, before = name_of_crop(augment.eval_crop), name_of_crop(trained)
        log.info("crop     %s (it was validated on %s)", shown, before)
    if config.interpolation is not None:
        log.info("pixels   %s (it was validated on %s)", config.interpolation, member.interpolation)
        member.config.augment.eval_interpolation = config.interpolation
    own.source = _class_folders_alone(own) or _without_training_images(own)
    if config.data.source is None and "download" in _parameters(own):
        own.source = {**own.source, "download": False}  # the command names no set: it must not fetch one
    if config.data.val_share is None and config.data.fold is None and _has_val(own):
        own.val_share = own.fold = own.num_folds = None  # it was trained on a set without val/


def _without_training_images(data: DataConfig) -> dict[str, Any]:
    # A test needs no training images: where a set has validation images alone, they are opened as its training images.
    present = _parts_present(data)
    if "train" in present or "val" not in present:
        return data.source
    return {**data.source, "train": _name_of_part(data, "val")}


def _class_folders_alone(data: DataConfig) -> dict[str, Any] | None:
    """Return the source of a root that holds class folders itself, all of whose images are tested; None of others."""
    parts, root = _parameters(data), Path(data.root or "").expanduser()
    if data.root is None or not {"train", "val"} <= parts.keys() or data.val_share is not None or data.fold is not None:
        return None
    known = [TRAIN_TAR, VAL_TAR, *(data.source.get(part, parts[part].default) for part in ("train", "val"))]
    if not root.is_dir() or any((root / name).exists() for name in known) or _parts_present(data):
        return None
    listing = list_folder(root)
    one_deep = len(listing.classes) > 0 and np.count_nonzero(listing.names == ord("/")) == len(listing.labels)
    return {**data.source, "train": ".", "val": "."} if one_deep else None


def _has_val(data: DataConfig) -> bool:
    """Return True if the set is of files, and has validation images."""
    return "val" in _parts_present(data)


def _parts_present(data: DataConfig) -> set[str]:
    if data.root is None or not {"train", "val"} <= _parameters(data).keys():
        return set()
    return parts_present(data.root, *(_name_of_part(data, part) for part in ("train", "val")))


def _name_of_part(data: DataConfig, part: str) -> str:
    return data.source.get(part, _parameters(data)[part].default)


def _parameters(data: DataConfig) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(locate("data.source", data.source["_target_"])).parameters


def labels_for(member: Member, images: ImageSet) -> np.ndarray:
    """Return the labels (N,) of the validation images as positions among the classes that the network knows.

    Raises:
        ValueError: the images have classes that the network does not know.
    """
    numbers = [int(name) for name in images.classes if name.isdecimal()]
    numbered = len(set(numbers)) == len(images.classes) and max(numbers) < num_outputs(member)
    if (
        member.classes is None
        and num_outputs(member) == len(wnids())
        and (numbered or set(images.classes) <= set(wnids()))
    ):
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
    if len(unknown) == len(images.classes) and numbered:  # as ImageNetV2's folders, which text would sort otherwise
        first = member.classes[0]
        log.info("%s: the folders' numbers are taken for places among its classes: 0 is %s", member.name, first)
        return np.array(numbers)[images.val.labels]
    if unknown:
        raise ValueError(
            f"{member.name} knows {len(member.classes)} classes ({', '.join(member.classes[:3])}, ...), but the data "
            f"has {len(images.classes)}, {len(unknown)} of them unknown to it ({', '.join(unknown[:3])}); "
            "give the set that it was trained on, or one with some of its classes"
        )
    return np.array([known[name] for name in images.classes])[images.val.labels]


def evaluate_member(
    member: Member,
    config: EvaluateConfig,
    protocol: TestProtocol,
    device: torch.device,
    *,
    predict: Predict = predict_split,
) -> MemberResult:
    """Test one network, or load the predictions of an earlier test of it.

    Raises:
        ValueError, FileNotFoundError: something does not fit; the network has not been run.
    """
    use_data(member, config)
    images = open_image_set(member.config)
    images.log_notes()
    labels = labels_for(member, images)
    assert member.classes is not None
    if config.compare is not None:
        check_comparable(member, labels, protocol)
    real = None
    if config.real is not None:
        real = real_labels(Path(config.real).expanduser(), images.val, len(member.classes))
    folder = results_folder(member, config, protocol)
    key = cache_key(member, images.val, protocol, config)
    predictions = None if config.fresh else load_predictions(folder, key)
    if distributed.from_main(predictions is not None):
        log.info("%s: predictions of an earlier test, from %s (fresh=true runs it again)", member.name, folder)
    else:
        predictions = _run_network(member, images.val, protocol, config, device, predict)
        if predictions is not None:
            with name_disk_errors(folder):
                save_predictions(folder, predictions, key)
    return MemberResult(
        name=member.name,
        arch=member.arch,
        published=member.published,
        classes=member.classes,
        config=consequential(member.config),
        crop=name_of_crop(member.config.augment.eval_crop),
        folder=folder,
        split=images.val,
        labels=labels,
        real=real,
        predictions=predictions,
    )


def _run_network(
    member: Member,
    split: Split,
    protocol: TestProtocol,
    config: EvaluateConfig,
    device: torch.device,
    predict: Predict,
) -> Predictions | None:
    views = protocol.views(375, 500, image_size=member.config.input_size, crop=validation_crop(member))
    num_views = len(views) * (1 + protocol.flip)
    of_each = "one view" if num_views == 1 else f"{num_views} views"
    log.info("%s: %s images, %s of each", member.name, f"{len(split):,}", of_each)
    started = time.monotonic()
    predictions = predict(member, split, protocol, config, device)
    seconds = time.monotonic() - started
    log.info("%.1f s, %.1f images/s", seconds, len(split) / seconds)
    return predictions


def results_folder(member: Member, config: EvaluateConfig, protocol: TestProtocol) -> Path:
    """Make and return the folder of a member's results: `out`, or a folder for data and protocol beside its checkpoint.

    Raises:
        ConfigError: it cannot be made.
    """
    size = f"-{ImageSize.of(config.image_size)}px" if config.image_size else ""
    crop = f"-{name_of_crop(member.config.augment.eval_crop)}" if config.crop else ""
    crop += f"-{config.interpolation}" if config.interpolation else ""
    single = len(config.checkpoints) < 2 or config.average == "weights"
    if config.out and single:
        folder = Path(config.out).expanduser()
    else:
        folder = member.home / "evaluate" / f"{data_name(member, config)}-{protocol.full_name()}{size}{crop}"
    _make_folder(folder)
    return folder


def data_name(member: Member, config: EvaluateConfig) -> str:
    """Return the name of the test's data for the results' folder.

    If data= names another set than the member's own, a hash of its root follows: two sets may be of one kind.
    """
    own = member.config.data
    name = own.name.replace("/", "_")  # data=hf data.name=owner/set
    if config.data.source is None or own.root is None:
        return name
    return f"{name}-{hashlib.sha256(os.path.abspath(os.path.expanduser(own.root)).encode()).hexdigest()[:6]}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: a folder for results cannot be made there ({error.strerror}); use out=DIR"
        ) from error


def run_evaluation(
    config: EvaluateConfig, device: torch.device, *, predict: Predict = predict_split
) -> dict[str, Any] | None:
    """Test the networks of the config, write the results, and return them; None on ranks other than 0.

    Args:
        predict: runs a network over a split; a test may count its calls, or forbid them.

    Raises:
        ValueError, FileNotFoundError: a checkpoint, the data or the labels do not fit.
    """
    protocol: TestProtocol = build_component("protocol", config.protocol)
    if config.average == "softmax" and len(config.checkpoints) > 1:
        check_checkpoints(config.checkpoints)
        if config.out:
            _make_folder(Path(config.out).expanduser())
    # One at a time: several networks may not fit into memory.
    tested = [evaluate_member(open_(), config, protocol, device, predict=predict) for open_ in members(config)]
    if not distributed.is_main():
        return None
    first, folder = tested[0], tested[0].folder
    for other in tested[1:]:
        check_same_images(first, other)
    predictions = [member.predictions for member in tested if member.predictions is not None]
    report = Report(ensemble_predictions(predictions), first.split, first.labels, first.classes, config.topk)
    results: dict[str, Any] = {}
    if len(tested) > 1:
        together = folder_of_several(config.checkpoints, "ensemble") / folder.name
        folder = Path(config.out).expanduser() if config.out else together
        results["ensemble"] = ensemble_results(tested, predictions, [member.name for member in tested], config.topk)
        log.info(ensemble_table(results["ensemble"]))
        log.info("the ensemble of %d:", len(tested))
    log.info(report.table())
    results = report.results(num_worst=config.num_worst) | results
    if (present := report.among_present()) is not None:
        num_present = len(np.unique(report.labels))
        results["among_present"] = {"classes": num_present, **scores_dict(present)}
        log.info("among the %d classes of the images alone, of %d: %s", num_present, len(report.classes), present)
    if first.real is not None:
        accuracy, num_images = real_accuracy(report, first.real)
        results["real"] = {"top1": accuracy, "num_images": num_images}
        log.info("ReaL     top-1 %.2f %% of %s images", accuracy, f"{num_images:,}")
    if config.compare is not None:
        results["published"] = compare_published(report, first, protocol)
    results |= {
        "members": [member.name for member in tested],
        "protocol": protocol.full_name(),
        "data": first.config["data.name"],
        "image_size": first.config["image_size"],
        "code": code_version(),
    } | ({"eval_crop": first.crop} if config.crop else {})
    results |= {"interpolation": config.interpolation} if config.interpolation else {}
    with name_disk_errors(folder):
        write_results(report, results, folder, config)
    log.info("results  %s", folder)
    return results


def write_results(report: Report, results: dict[str, Any], folder: Path, config: EvaluateConfig) -> None:
    """Write results.json, the predictions, counts and pictures, and log them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    report.write_predictions(folder / PREDICTIONS)
    report.write_confusions(folder)
    pictures = {
        CONFUSION: draw_confusion_matrix(report.counts, report.names),
        CALIBRATION: report.calibration_picture(),
    }
    if (worst := report.worst_picture(config.num_worst)) is not None:
        pictures[WORST] = worst
    for name, picture in pictures.items():
        picture.save(folder / name)
    loggers = OpenLoggers()
    loggers.open(build_loggers(config.logger), folder, goes_on=False)
    scores = {f"test/{name}": value for name, value in report.scores.values().items() if value is not None}
    loggers.each(lambda logger: logger.scalars(0, scores))
    for name, picture in pictures.items():
        pixels = np.asarray(picture.convert("RGB"))
        loggers.each(lambda logger, name=name, pixels=pixels: logger.image(f"test/{Path(name).stem}", pixels, 0))
    loggers.close(finished=True)
