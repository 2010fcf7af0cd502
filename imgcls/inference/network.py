"""The networks to be tested: from a checkpoint of a run, or from weights from elsewhere."""

import copy
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from imgcls.checkpoints import CheckpointError, checksum, load_checkpoint
from imgcls.config import Config, build_component, config_from_checkpoint, consequential, flatten
from imgcls.data.augment import Crop
from imgcls.data.decoding import MAX_SIDE
from imgcls.data.on_device import Normalise, input_statistics
from imgcls.data.sets import FolderSplit, pixel_rules, wnids
from imgcls.device import keep_freed_memory
from imgcls.errors import ConfigError
from imgcls.models import (
    average_states,
    build_model,
    describe_input,
    explained_sizes,
    find_heads,
    fit_weights,
    is_published,
    load_into,
    outline_model,
    pretrained_input,
    published_name,
    read_weights,
    take_input,
)
from imgcls.startup import checkpoint_file

log = logging.getLogger(__name__)


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
        keep_freed_memory(device)
        network = build_model(self.config, num_classes=num_classes, with_weights=False)
        try:
            load_into(network, self.state, self.name, new_head=False)
        except RuntimeError as error:  # torch's, of tensors of a kind that no weight can have
            raise CheckpointError(f"{self.name} does not fit {type(network).__name__}: {error}") from error
        network = network.to(device).eval()
        return network.to(memory_format=torch.channels_last) if channels_last else network

    def explained(self, network: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which an error of `network` that comes from the size of its images is one line."""
        return explained_sizes(network, channels=self.config.data.channels, size=self.config.input_size)

    def files(self, files: Sequence[str]) -> FolderSplit:
        """Return image files by their paths, whose pixels are read as in its training."""
        split = FolderSplit.of_files(files)
        split.rules = pixel_rules(self.config.data)
        return split

    def prepare(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the function from uint8 images (B, H, W, C) to the network's input."""
        return Normalise(**input_statistics(self.config)).to(device)

    @property
    def interpolation(self) -> str:
        """How the pixels of an image's views are interpolated: as in its validation."""
        return self.config.augment.interpolation_of_test

    @functools.cached_property
    def arch(self) -> str:
        """The name that its architecture is published under, such as `resnet50`, or that of its class."""
        return str(outline_model(self.config, num_classes=num_outputs(self)).arch)

    def digest(self) -> str:
        """Return a digest of all that its predictions depend on besides images and protocol."""
        keys = (
            "model.",
            "data.mean",
            "data.std",
            "data.channels",
            "data.alpha",
            "data.orientation",
            "data.bits",
            "augment.input",
            "augment.eval_crop",
            "image_size",
        )
        facts = {key: value for key, value in consequential(self.config).items() if key.startswith(keys)}
        if self.interpolation != "bilinear":  # the digests of results from before there was a choice stay valid
            facts["interpolation"] = self.interpolation
        text = json.dumps([checksum(self.state), facts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def num_outputs(member: Member) -> int:
    """Return the number of classes that its network is built for."""
    if member.config.model.get("num_classes"):
        return member.config.model["num_classes"]
    return len(member.classes) if member.classes is not None else len(wnids())


def known_classes(member: Member) -> list[str]:
    """Return the names of its outputs: those it was saved with, ImageNet's if there are 1,000, or else numbers."""
    if member.classes is not None:
        return member.classes
    if num_outputs(member) == len(wnids()):
        log.info("%s: 1,000 outputs without names; shown as ImageNet's classes in their order", member.name)
        return list(wnids())
    return [str(k) for k in range(num_outputs(member))]


def open_checkpoint(path: str | Path, *, kind: str = "average") -> Member:
    """Open a checkpoint of a run, or the best one in a run's folder.

    Args:
        kind: which weights to take where it has both: their `average`, which is what was validated, or the `raw` ones.

    Raises:
        FileNotFoundError, ValueError: there is none, or it cannot be read.
    """
    path = checkpoint_file(path)
    saved = load_checkpoint(path)
    for key in ("config", "classes", "model"):
        if key not in saved:
            raise CheckpointError(f"checkpoint={path} has no {key}: it is not of a training run")
    average = saved.get("average")
    state = average if average and kind == "average" else saved["model"]
    _check_content(path, state, saved["classes"])
    if average:
        taken, other = ("average of the", "raw") if state is average else ("raw", "average")
        log.info("%s: the %s weights (weights_kind=%s takes the others)", path, taken, other)
    try:
        config = config_from_checkpoint(saved["config"])
    except ConfigError as error:
        raise ConfigError(f"checkpoint={path}: {error}") from error
    config.data.root = saved.get("data_root")  # it does not belong to the config: the images may move
    member = Member(str(path), config, state, list(saved["classes"]), path.parent)
    check_sizes(member)
    # More outputs than the data had classes were never trained on anything; they need a name all the same.
    assert member.classes is not None
    member.classes += [f"(class {k})" for k in range(len(member.classes), num_outputs(member))]
    return member


def check_sizes(member: Member) -> None:
    """Check that the network which a checkpoint's config describes is no larger than its weights.

    Classes, channels and layers have one weight each at least, so that no number of them can exceed that of all.

    Raises:
        CheckpointError: a number that the network would be built by is too large.
    """
    num_weights = sum(tensor.numel() for tensor in member.state.values())
    most = {"model": num_weights, "image_size": MAX_SIDE}
    for key, value in flatten({"model": member.config.model, "image_size": member.config.image_size}).items():
        limit = most[key.partition(".")[0]]
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and abs(number) > limit:
                raise CheckpointError(
                    f"checkpoint={member.name}: its config has {key}={number}, and at most {limit} is possible with "
                    "its weights; it was changed"
                )


def _check_content(path: Path, state: Any, classes: Any) -> None:
    named = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not named or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"checkpoint={path} is damaged: its weights are no named tensors")
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"checkpoint={path} is damaged: its classes are no list of names")


def open_weights(source: str, config: Config, *, kind: str = "average") -> Member:
    """Open weights from elsewhere for the network that `config` describes.

    Those that torchvision and timm publish are tested as they were published, but for what the command line gave. How
    many outputs a file's network has is read from its last layer, if the config does not say.
    """
    config = copy.deepcopy(config)
    network = outline_model(config, num_classes=config.model.get("num_classes") or len(wnids()))
    config.weights = source
    if (expected := pretrained_input(config, network, for_test=True)) is not None:
        config, changes = take_input(config, expected, for_test=True)
        if changes:
            log.info("input    of %s", describe_input(expected, changes))
    config.weights = None
    found = read_weights(source, network, kind=kind)
    state, texts = fit_weights(network, found.state)
    log.info("weights  %s: %s", source, "; ".join([found.text, *texts]))
    classes = list(wnids()) if is_published(source) else None
    member = Member("", config, state, classes, Path(), published_name(source))
    member.name = f"{source} for {member.arch}"
    member.home = Path("runs") / "weights" / _weights_folder(member, source, kind)
    if classes is None and not config.model.get("num_classes"):
        head = state.get(f"{find_heads(network)[0]}.weight")
        if head is not None:
            config.model["num_classes"] = len(head)
    return member


def _weights_folder(member: Member, source: str, kind: str) -> str:
    if member.published is not None:
        return f"{member.arch}-{member.published}"
    stem = Path(urlparse(source).path).stem
    words = repr([source, sorted(consequential(member.config).items()), *([kind] if kind != "average" else [])])
    return f"{member.arch}-{stem}-{hashlib.sha256(words.encode()).hexdigest()[:6]}"


def open_member(checkpoint: str | None, weights: str | None, network: Config | None, kind: str = "average") -> Member:
    """Open the network that a script names: a checkpoint, or weights from elsewhere for the run `network`."""
    if checkpoint is not None:
        return open_checkpoint(checkpoint, kind=kind)
    assert weights is not None
    assert network is not None
    return open_weights(weights, network, kind=kind)


def average_weights(paths: list[str], *, kind: str = "average") -> Member:
    """Return one network whose weights are the mean of several checkpoints'."""
    opened = [open_checkpoint(path, kind=kind) for path in paths]
    for member in opened[1:]:
        if member.classes != opened[0].classes:
            raise ConfigError(f"average=weights: {member.name} knows other classes than {opened[0].name}")
    state = average_states([member.state for member in opened], [member.name for member in opened])
    first = opened[0]
    return Member(
        f"the mean of {len(opened)} weights", first.config, state, first.classes, folder_of_several(paths, "soup")
    )


def folder_of_several(paths: list[str], kind: str) -> Path:
    """Return the folder for the results of several checkpoints together."""
    return Path("runs") / "evaluate" / f"{kind}-{hashlib.sha256(repr(sorted(paths)).encode()).hexdigest()[:8]}"


def validation_crop(member: Member) -> Crop:
    """Build the crop that the network was validated on."""
    return build_component("augment.eval_crop", member.config.augment.eval_crop)
