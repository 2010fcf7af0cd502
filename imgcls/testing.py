"""From a test's config to its results: members, their probabilities (kept on disk), ensembles, and what is told."""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from imgcls import build, checkpoint, distributed, figures, memory, names, published, statistics, weights
from imgcls.config import Config, ConfigError, EvaluateConfig, compose, consequential, from_flat
from imgcls.data.augment import Normalise
from imgcls.data.bad import BadImages
from imgcls.data.loader import Loader, default_num_threads
from imgcls.data.sources import ArraySplit, ImageSet, PackSplit, Split
from imgcls.data.views import view_images
from imgcls.evaluation import Predictions, gather, joint, predict, predict_views, scores
from imgcls.events import Progress
from imgcls.folding import fold_batch_norms
from imgcls.protocols import Center, Dense, TestProtocol, fully_convolutional
from imgcls.reports import CONFUSION, PREDICTIONS, RESULTS, WORST, Report, real_accuracy, real_labels, scores_dict
from imgcls.runs import BEST, code_version

log = logging.getLogger(__name__)

PROTOCOL_NAMES = {"Center": "center", "TenCrop": "ten_crop", "Dense": "dense", "GoogLeNet144": "googlenet144"}
KEPT_PROBS, KEPT_FACTS = "log_probs.npy", "log_probs.json"


@dataclass
class Member:
    """A network to be tested, not yet built.

    Args:
        config: of the run it is from; its data part is that of the test.
        classes: what its outputs mean; None where the weights do not say.
        home: the folder beside which its results go.
        published: the name of its weights, where it was not trained here.
    """

    name: str
    config: Config
    state: dict[str, Tensor]
    classes: list[str] | None
    home: Path
    published: str | None = None

    def build(self, device: torch.device, *, channels_last: bool = True) -> nn.Module:
        """Build the network with its weights, ready to predict."""
        num_classes = num_outputs(self)
        memory.keep_freed(device)
        network = build.model(self.config, num_classes=num_classes, with_weights=False)
        weights.load_into(network, self.state, self.name, new_head=False)
        network = network.to(device).eval()
        return network.to(memory_format=torch.channels_last) if channels_last else network

    def prepare(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Uint8 images (B, H, W, C) to what the network takes."""
        return Normalise(**build.input_statistics(self.config)).to(device)

    @property
    def arch(self) -> str:
        """The name that its architecture is published under, as far as that goes."""
        settings = self.config.model
        target = str(settings["_target_"]).rpartition(".")[2]
        if target == "ResNet":
            return f"resnet{settings.get('depth', 50)}"
        if target == "VGG":
            column = settings.get("column", "D")
            return weights.VGG_COLUMNS.get(column, f"vgg_{column}") + ("_bn" if settings.get("batch_norm") else "")
        return str(settings.get("arch") or target.lower())

    def digest(self) -> str:
        """What its predictions depend on besides images and protocol, in a few letters."""
        keys = ("model.", "data.mean", "data.std", "data.channels", "augment.input", "augment.eval_crop", "image_size")
        facts = {key: value for key, value in consequential(self.config).items() if key.startswith(keys)}
        text = json.dumps([checkpoint.checksum(self.state), facts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def num_outputs(member: Member) -> int:
    """The number of classes that its network is built for."""
    if member.config.model.get("num_classes"):
        return member.config.model["num_classes"]
    return len(member.classes) if member.classes is not None else len(names.wnids())


def known_classes(member: Member) -> list[str]:
    """Names of its outputs: its own, or ImageNet's where nobody said and there are as many, or else numbers."""
    if member.classes is not None:
        return member.classes
    if num_outputs(member) == len(names.wnids()):
        log.info("%s: 1,000 outputs without names; shown as ImageNet's classes in their order", member.name)
        return list(names.wnids())
    return [str(k) for k in range(num_outputs(member))]


def from_checkpoint(path: str | Path) -> Member:
    """Open a checkpoint of a run, or the best one in a run's folder.

    Raises:
        FileNotFoundError, ValueError: there is none, or it cannot be read.
    """
    path = _file_of(path)
    saved = checkpoint.load(path)
    for key in ("config", "classes", "model"):
        if key not in saved:
            raise checkpoint.CheckpointError(f"checkpoint={path} has no {key}: it is not of a training run")
    # Where weights are averaged, the average is what was validated.
    state = saved.get("average") or saved["model"]
    member = Member(str(path), from_flat(saved["config"]), state, list(saved["classes"]), path.parent)
    # More outputs than the data had classes were never trained on anything; they need a name all the same.
    assert member.classes is not None
    member.classes += [f"(class {k})" for k in range(len(member.classes), num_outputs(member))]
    return member


def check_checkpoints(paths: list[str]) -> None:
    """Hold an ensemble's checkpoints against each other before the first is run, by what costs little to read.

    Raises:
        FileNotFoundError, ValueError: one is not there, cannot be read, or knows other classes than the first.
    """
    files = [_file_of(path) for path in paths]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"checkpoint={file}: there is no such file")
    first = None
    for file in files:
        try:  # mapped, its tensors stay on the disk
            classes = list(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["classes"])
        except Exception:  # what it lacks, `from_checkpoint` names
            classes = from_checkpoint(file).classes
        assert classes is not None
        first = first or classes
        _check_classes(str(files[0]), first, str(file), classes)


def _check_classes(first: str, own: list[str], other: str, theirs: list[str]) -> None:
    if theirs != own:
        raise ConfigError(
            f"{other} knows {len(theirs)} classes and {first} {len(own)}, or in another order; "
            "an ensemble's members must know the same"
        )


def _file_of(path: str | Path) -> Path:
    path = Path(path).expanduser()
    return path / BEST if path.is_dir() else path


def from_weights(source: str, model: str, overrides: list[str]) -> Member:
    """Open weights from elsewhere for the network that conf/model/`model` and `overrides` describe.

    Published ones are tested as they were published: centre crop, mean and std of ImageNet. How many outputs a file's
    network has is read from its last layer, where `overrides` do not say.
    """
    config = compose([f"model={model}", "data=imagenet", *overrides])
    if weights.is_published(source):
        expected = weights.published_input(source, config.model)
        config.image_size = expected.image_size
        config.augment.input = "standardised"
        config.augment.eval_crop = {
            "_target_": "imgcls.data.crops.CenterCrop",
            "short_side": expected.short_side,
            "at_image_size": expected.image_size,
        }
    state = weights.read(source, config.model)
    classes = list(names.wnids()) if weights.is_published(source) else None
    member = Member(f"{source} for {model}", config, state, classes, Path(), weights.published_name(source))
    if classes is None and not config.model.get("num_classes"):
        network = build.model(config, num_classes=num_outputs(member), with_weights=False)
        head = state.get(f"{weights.heads(network)[0]}.weight")
        if head is not None:
            config.model["num_classes"] = len(head)
    member.home = Path("runs") / "weights" / _weights_folder(member, source, [model, *overrides])
    return member


def _weights_folder(member: Member, source: str, words: list[str]) -> str:
    if member.published is not None:
        return f"{member.arch}-{member.published}"
    stem = Path(urlparse(source).path).stem
    return f"{member.arch}-{stem}-{hashlib.sha256(repr([source, *words]).encode()).hexdigest()[:6]}"


def members(config: EvaluateConfig) -> list[Callable[[], Member]]:
    """Return what opens each network of the test: one at a time, as several may not fit into memory."""
    if config.weights is not None:
        assert config.network is not None
        source, model = config.weights, config.network
        return [lambda: _from_weights(source, model, config.overrides, lambda words: f"overrides=[{','.join(words)}]")]
    if config.average == "weights":
        return [lambda: averaged(config.checkpoints)]
    return [lambda path=path: from_checkpoint(path) for path in config.checkpoints]


def open_member(checkpoint: str | None, source: str | None, network: str | None, overrides: list[str]) -> Member:
    """Open the one network that a script was told: a checkpoint, or weights from elsewhere."""
    if checkpoint is not None:
        return from_checkpoint(checkpoint)
    assert source is not None
    assert network is not None
    return _from_weights(source, network, overrides, lambda words: " ".join(f"override={word}" for word in words))


def _from_weights(source: str, model: str, overrides: list[str], told: Callable[[list[str]], str]) -> Member:
    # The remedy in the words of the command: train.py's model= is network= here, and other overrides are `told` so.
    try:
        return from_weights(source, model, overrides)
    except weights.UnpublishedError as error:
        network = [f"network={word.removeprefix('model=')}" for word in error.remedy if word.startswith("model=")]
        others = [word for word in error.remedy if not word.startswith("model=")]
        raise ConfigError(f"{error.reason}: {' '.join([*network, *([told(others)] if others else [])])}") from error


def averaged(paths: list[str]) -> Member:
    """One network whose weights are the mean of several checkpoints'."""
    opened = [from_checkpoint(path) for path in paths]
    for member in opened[1:]:
        if member.classes != opened[0].classes:
            raise ConfigError(f"average=weights: {member.name} knows other classes than {opened[0].name}")
    state = weights.soup([member.state for member in opened], [member.name for member in opened])
    first = opened[0]
    return Member(f"the mean of {len(opened)} weights", first.config, state, first.classes, _together(paths, "soup"))


def _together(paths: list[str], kind: str) -> Path:
    return Path("runs") / "evaluate" / f"{kind}-{hashlib.sha256(repr(sorted(paths)).encode()).hexdigest()[:8]}"


def use_data(member: Member, config: EvaluateConfig) -> None:
    """Point the member at the images of the test; how it sees them stays as it was trained."""
    given, own = config.data, member.config.data
    if given.source is not None:
        own.source, own.name, own.num_classes = given.source, given.name or own.name, None
    own.root = given.root or own.root
    own.num_threads, own.prefetch, own.cache_gb = given.num_threads, given.prefetch, given.cache_gb
    own.on_bad_image = given.on_bad_image
    member.config.image_size = config.image_size or member.config.image_size
    source, root = own.source, Path(own.root or "").expanduser()
    # A test needs no training images: a root that holds val/ alone will do.
    if own.root and "train" in source and not (root / source["train"]).is_dir() and (root / source["val"]).is_dir():
        own.source = {**source, "train": source["val"]}
    elif own.root and str(source["_target_"]).endswith(".imagenet") and not (root / "train").is_dir():
        own.source = (
            {**source, "train": source.get("val", "val")} if (root / source.get("val", "val")).is_dir() else source
        )


def labels_for(member: Member, images: ImageSet) -> np.ndarray:
    """The labels of the validation images as positions among the classes that the network knows.

    Raises:
        ValueError: the images have classes that it does not know.
    """
    if (
        member.classes is None
        and num_outputs(member) == len(names.wnids())
        and set(images.classes) <= set(names.wnids())
    ):
        member.classes = list(names.wnids())
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


def predictions_of(
    member: Member, split: Split, protocol: TestProtocol, config: EvaluateConfig, device: torch.device
) -> Predictions | None:
    """Run the network over the images, each rank its share; the main rank gets all predictions, others None."""
    data, size = member.config.data, member.config.image_size
    prepare = _layout(member.prepare(device), channels_last=config.channels_last)
    network = member.build(device, channels_last=config.channels_last)
    # A trial image of noise: the sizes of weights are what folding could get wrong.
    trial = torch.randint(0, 256, (2, size, size, data.channels), generator=torch.Generator().manual_seed(0))
    network = fold_batch_norms(network, prepare(trial.to(device, torch.uint8)))
    if isinstance(protocol, Dense):
        network = fully_convolutional(network)
    crop = build.plug("augment.eval_crop", member.config.augment.eval_crop)
    rank, ranks = distributed.rank(), distributed.world_size()
    threads = data.num_threads or default_num_threads()
    common: dict[str, Any] = {
        "prepare": prepare,
        "device": device,
        "autocast": build.autocast_dtype(config.precision, device),
        "flip": protocol.flip,
        "average": protocol.average,
    }
    share = range(rank, len(split), ranks)
    with Progress("test", total=len(share), num_images=1, enabled=distributed.is_main()) as progress:

        def after_batch(num_images: int) -> None:
            for _ in range(num_images):
                progress.advance()

        if isinstance(protocol, Center):
            loader = Loader(
                split,
                crop,
                image_size=size,
                batch_size=config.batch_size * ranks,
                seed=0,
                shuffle=False,
                channels=data.channels,
                rank=rank,
                world_size=ranks,
                num_threads=threads,
                prefetch=data.prefetch,
                device=device,
                on_bad_image=data.on_bad_image,  # type: ignore[arg-type]
                cache_gb=data.cache_gb,
            )
            found = predict(network, loader.epoch(0), after_batch=after_batch, **common)
            loader.close()
            bad = loader.bad_images
        else:

            def plan(height: int, width: int) -> list[Any]:
                return protocol.views(height, width, image_size=size, crop=crop)

            bad = BadImages(split)
            on_bad = bad.note if data.on_bad_image == "skip" else None
            images = view_images(split, share, plan, channels=data.channels, num_threads=threads, on_bad=on_bad)
            at_once = config.batch_size * size * size
            found = predict_views(network, images, max_pixels=at_once, after_batch=after_batch, **common)
    bad.share()
    bad.check()
    return gather(found)


def _layout(prepare: Callable[[Tensor], Tensor], *, channels_last: bool) -> Callable[[Tensor], Tensor]:
    return prepare if channels_last else lambda pixels: prepare(pixels).contiguous()


def facts_of(member: Member, split: Split, protocol: TestProtocol, config: EvaluateConfig) -> dict[str, Any]:
    """What predictions depend on, to know kept ones again."""
    return {
        "network": member.digest(),
        "images": digest_of(split),
        "num_images": len(split),
        "protocol": f"{type(protocol).__name__} {protocol}",
        "precision": config.precision,
    }


def digest_of(split: Split) -> str:
    """Where the images lie and what they are, in a few letters: of files their names, sizes and times of change."""
    if isinstance(split, ArraySplit):
        return hashlib.sha256(split.images.tobytes()).hexdigest()[:16]
    digest = hashlib.sha256(split.names.tobytes())
    digest.update(os.path.abspath(split.root))
    files = [split.root] if isinstance(split, PackSplit) else map(split.raw_path, range(len(split)))
    for file in files:
        try:
            stat = os.stat(file)
        except OSError:  # for the loader to name, or to pass over
            continue
        digest.update(f"{stat.st_size} {stat.st_mtime_ns};".encode())
    return digest.hexdigest()[:16]


def kept_predictions(folder: Path, facts: dict[str, Any]) -> Predictions | None:
    """Return the predictions that an earlier test with the same `facts` kept in `folder`; None where they are torn."""
    try:
        known = json.loads((folder / KEPT_FACTS).read_text())
        if known["facts"] != facts:
            return None
        found = Predictions(torch.from_numpy(np.load(folder / KEPT_PROBS)), torch.tensor(known["indices"]))
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        return None
    return found if len(found.log_probs) == len(found.indices) else None


def keep_predictions(folder: Path, predictions: Predictions, facts: dict[str, Any]) -> None:
    """Keep predictions for a later test; a crash at any moment leaves no half of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEPT_FACTS).unlink(missing_ok=True)  # facts without their numbers would be a lie
    probs, known = folder / f"{KEPT_PROBS}.partial", folder / f"{KEPT_FACTS}.partial"
    with probs.open("wb") as file:
        np.save(file, predictions.log_probs.numpy())
    known.write_text(json.dumps({"facts": facts, "indices": predictions.indices.tolist()}))
    probs.replace(folder / KEPT_PROBS)
    known.replace(folder / KEPT_FACTS)


def protocol_name(protocol: Any) -> str:
    """`ten_crop`, with what differs from its defaults: `ten_crop-flip=False`."""
    name = PROTOCOL_NAMES[type(protocol).__name__]
    for field in dataclasses.fields(protocol):
        value = getattr(protocol, field.name)
        value = tuple(value) if isinstance(value, list) else value
        if value != field.default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            name += f"-{field.name}={text}"
    return name


def published_protocol(protocol: Any) -> str:
    """The protocol's name in the table of published results."""
    name = protocol_name(protocol)
    return "dense_resnet" if name == "dense-scales=224,256,384,480,640" else name


@dataclass
class Tested:
    """A member after its test: what of it the ensemble and the report need."""

    name: str
    arch: str
    published: str | None
    classes: list[str]
    config: dict[str, Any]
    folder: Path
    split: Split
    labels: np.ndarray
    predictions: Predictions | None  # on the main rank


def test_member(member: Member, config: EvaluateConfig, protocol: TestProtocol, device: torch.device) -> Tested:
    """Test one network, or take up the predictions that are kept of it.

    Raises:
        ValueError, FileNotFoundError: whatever does not fit, before the network is run.
    """
    use_data(member, config)
    images = build.image_set(member.config)
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
    facts = facts_of(member, images.val, protocol, config)
    kept = None if config.fresh else kept_predictions(folder, facts)
    if distributed.from_main(kept is not None):
        log.info("%s: its predictions are kept in %s (fresh=true runs it again)", member.name, folder)
        predictions = kept
    else:
        started = time.monotonic()
        views = len(protocol.views(375, 500, image_size=member.config.image_size, crop=_crop(member)))
        num_views = views * (1 + protocol.flip)
        of_each = "one view" if num_views == 1 else f"{num_views} views"
        log.info("%s: %s images, %s of each", member.name, f"{len(images.val):,}", of_each)
        predictions = predictions_of(member, images.val, protocol, config, device)
        seconds = time.monotonic() - started
        log.info("%.1f s, %.1f images/s", seconds, len(images.val) / seconds)
        if predictions is not None:
            keep_predictions(folder, predictions, facts)
    return Tested(
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
    """The name of the test's data in the results' folder: with a few letters of its root where data= names another set
    than the member's own, as two of them may be of one kind."""
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


def _crop(member: Member) -> Any:
    return build.plug("augment.eval_crop", member.config.augment.eval_crop)


def run(config: EvaluateConfig, device: torch.device) -> dict[str, Any] | None:
    """Test what the config names, write the results, and return them; None on ranks other than the main one.

    Raises:
        ValueError, FileNotFoundError: whatever does not fit: a checkpoint, the data, the labels.
    """
    protocol: Any = build.plug("protocol", config.protocol)
    if config.average == "softmax" and len(config.checkpoints) > 1:
        check_checkpoints(config.checkpoints)
        if config.out:
            _make_folder(Path(config.out).expanduser())
    tested = [test_member(open_member(), config, protocol, device) for open_member in members(config)]
    if not distributed.is_main():
        return None
    first = tested[0]
    for other in tested[1:]:
        check_same(first, other)
    predictions = [member.predictions for member in tested if member.predictions is not None]
    folder = first.folder
    results: dict[str, Any] = {}
    report = Report(predictions[0], first.split, first.labels, first.classes)
    if len(tested) > 1:
        folder = (
            Path(config.out).expanduser() if config.out else _together(config.checkpoints, "ensemble") / folder.name
        )
        results["ensemble"] = ensemble_results(tested, predictions, [member.name for member in tested])
        log.info(ensemble_table(results["ensemble"]))
        log.info("the ensemble of %d:", len(tested))
        report = Report(joint(predictions), first.split, first.labels, first.classes)
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
    write(report, results, folder, config)
    log.info("results  %s", folder)
    return results


def check_comparable(member: Member, labels: np.ndarray, protocol: Any) -> None:
    """Hold a test against the table of published results before it is run.

    Raises:
        ValueError: the classes, or those of the images, are not ImageNet's, or nothing is published for it.
    """
    assert member.classes is not None
    if tuple(member.classes) != names.wnids():
        raise ConfigError("compare=published: the published numbers are of ImageNet's 1,000 classes; leave it out")
    if (num_shown := len(np.unique(labels))) < len(member.classes):
        raise ConfigError(
            f"compare=published: the images are of {num_shown} classes alone, the published numbers of all "
            f"{len(member.classes):,}; name the whole set (data.root=...), or leave it out"
        )
    published.find(model=member.arch, protocol=published_protocol(protocol), weights=member.published)


def compare_published(report: Report, member: Tested, protocol: Any) -> list[dict[str, Any]]:
    """Set the result beside the published one, aloud."""
    found = published.compare(
        report.scores, model=member.arch, protocol=published_protocol(protocol), weights=member.published
    )
    for comparison in found:
        log.info("%s", comparison)
    return [{**comparison._asdict(), "within": comparison.within} for comparison in found]


def check_same(first: Tested, other: Tested) -> None:
    """Hold an ensemble's members to the same images and classes.

    Raises:
        ValueError: they differ.
    """
    _check_classes(first.name, first.classes, other.name, other.classes)
    if len(other.labels) != len(first.labels) or (other.labels != first.labels).any():
        raise ConfigError(f"{other.name} and {first.name} were trained on other sets; name one to test on: data=...")
    if other.predictions is None or first.predictions is None:
        return
    if not torch.equal(other.predictions.indices, first.predictions.indices):
        raise ConfigError(
            f"{other.name} and {first.name} could not read the same images, or one was tested when a file was missing; "
            "test them together with fresh=true"
        )


def ensemble_results(tested: list[Tested], predictions: list[Predictions], shown: list[str]) -> dict[str, Any]:
    """Each member's scores, the ensemble's as members are added in their order, and tests of what differs."""
    labels = tested[0].labels[predictions[0].indices.numpy()]
    true = torch.from_numpy(labels)
    right = [(member.log_probs.argmax(dim=1) == true).numpy() for member in predictions]
    alone = [scores(member, true) for member in predictions]
    added = [scores(joint(predictions[: count + 1]), true) for count in range(len(predictions))]
    results: dict[str, Any] = {
        "members": [{"name": name, **scores_dict(value)} for name, value in zip(shown, alone, strict=True)],
        "added": [scores_dict(value) for value in added],
        "mcnemar": [
            {"first": shown[i], "second": shown[j], **statistics.mcnemar(right[i], right[j])._asdict()}
            for i in range(len(right))
            for j in range(i + 1, len(right))
        ],
    }
    if statistics.only_seeds_differ([member.config for member in tested]):
        for quantity in ("top1", "top5"):
            values = [getattr(value, quantity) for value in alone]
            if None not in values:
                interval = statistics.confidence_interval(values)
                results[f"seeds_{quantity}"] = {"mean": interval.mean, "half_width_95": interval.half_width}
    return results


def ensemble_table(results: dict[str, Any]) -> str:
    """The members, and what each adds, for the terminal."""

    def cells(row: dict[str, Any]) -> str:
        top5 = "      -" if row["top5"] is None else f"{row['top5']:7.2f}"
        return f"{row['top1']:7.2f} {top5}"

    width = max(len(row["name"]) for row in results["members"])
    lines = [f"{'member':<{width}}  {'top-1 %':>7} {'top-5 %':>7}   with those above"]
    lines += [
        f"{row['name']:<{width}}  {cells(row)}   {cells(with_above)}"
        for row, with_above in zip(results["members"], results["added"], strict=True)
    ]
    last, best = results["added"][-1]["top1"], max(row["top1"] for row in results["members"])
    lines.append(f"gain over the best member: {last - best:+.2f} points of top-1")
    for key, name in (("seeds_top1", "top-1"), ("seeds_top5", "top-5")):
        if key in results:
            mean, half = results[key]["mean"], results[key]["half_width_95"]
            lines.append(f"over the seeds: {name} {mean:.2f} +- {half:.2f} % (95 % interval of the mean)")
    for pair in results["mcnemar"][:10]:
        verdict = "differ" if pair["p_value"] < 0.05 else "do not differ significantly"
        lines.append(
            f"McNemar: {pair['first']} and {pair['second']} {verdict}: {pair['only_first']} images only the first has "
            f"right, {pair['only_second']} only the second, p = {pair['p_value']:.3g}"
        )
    return "\n".join(lines)


def write(report: Report, results: dict[str, Any], folder: Path, config: EvaluateConfig) -> None:
    """Write results.json, predictions.csv, the pictures, and the same to TensorBoard."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    report.write_predictions(folder / PREDICTIONS)
    pictures = {CONFUSION: figures.confusion_matrix(report.confusion(), report.names)}
    if (worst := report.worst_picture(config.num_worst)) is not None:
        pictures[WORST] = worst
    for name, picture in pictures.items():
        picture.save(folder / name)
    if config.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as writer:
            for key in ("loss", "top1", "top5"):
                if results[key] is not None:
                    writer.add_scalar(f"test/{key}", results[key], 0)
            for name, picture in pictures.items():
                writer.add_image(f"test/{Path(name).stem}", np.asarray(picture.convert("RGB")), 0, dataformats="HWC")
