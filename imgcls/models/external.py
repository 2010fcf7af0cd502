"""Networks of other libraries: any classifier of torchvision, and of timm if it is installed."""

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from imgcls.errors import did_you_mean
from imgcls.models.fitting import first_convolution_name, fit_weights

log = logging.getLogger(__name__)
# Their published weights were trained on inputs scaled in another way, which transform_input restores.
SCALED_INPUT = ("googlenet", "inception_v3")


def torchvision_model(
    arch: str, num_classes: int = 1000, *, in_channels: int = 3, weights: str | None = None, **options: Any
) -> nn.Module:
    """Build the classifier that torchvision calls `arch`, such as convnext_tiny.

    In training googlenet and inception_v3 return NamedTuples: the logits, then those of the auxiliary heads.

    Args:
        weights: None for random ones, or the name of published ones (`DEFAULT`, `IMAGENET1K_V1`), which torchvision
            downloads. With another number of classes than theirs the last layer is fresh; for other channels and image
            sizes they are fitted.
        options: what else the network's constructor takes, such as dropout, or image_size of the vit family.

    Raises:
        ValueError: an unknown `arch`, `weights` or option.
    """
    _check_torchvision_arch(arch)
    # Their default initialisation warns that it may change; naming it avoids the warning.
    defaults = {"init_weights": True} if arch in SCALED_INPUT else {}
    if weights is None:
        return _from_torchvision(arch, {"num_classes": num_classes, **defaults, **options}, in_channels=in_channels)

    chosen = published(arch, weights)
    of_any_size = {key: value for key, value in options.items() if key != "image_size"}
    pretrained = _from_torchvision(arch, {"weights": chosen, **of_any_size})
    same_classes = num_classes == len(chosen.meta["categories"])
    same_size = options.get("image_size") in (None, getattr(pretrained, "image_size", None))
    if same_classes and same_size and in_channels == 3:
        return pretrained
    implied = _implied_by_weights(arch, chosen, same_classes=same_classes, in_channels=in_channels)
    model = _from_torchvision(
        arch, {"num_classes": num_classes, **defaults, **implied, **options}, in_channels=in_channels
    )
    own = model.state_dict()
    state, texts = fit_weights(model, pretrained.state_dict())
    fits = {name: value for name, value in state.items() if own[name].shape == value.shape}
    model.load_state_dict(fits, strict=False)
    if fresh := ", ".join(sorted(own.keys() - fits.keys())):
        texts.append(f"new, for other classes: {fresh}")
    log.info("weights  %s of torchvision's %s: %s", weights, arch, "; ".join(texts))
    return model


def _check_torchvision_arch(arch: str) -> None:
    import torchvision  # here: it takes a second, which other networks need not wait for

    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        hint = did_you_mean(arch, known, most=3)
        raise ValueError(
            f"model.arch={arch} is no classifier of torchvision {torchvision.__version__}{hint}; "
            "its documentation lists the names"
        )


def published(arch: str, weights: str) -> Any:
    """Return the weights of torchvision's `arch` that are called `weights`, as its enumeration has them.

    Raises:
        ValueError: there are none of that name.
    """
    import torchvision

    known = torchvision.models.get_model_weights(arch)
    if weights not in known.__members__:
        names = ", ".join(known.__members__)
        raise ValueError(
            f"model.weights={weights} is not published for torchvision's {arch}; use null or one of {names}"
        )
    return known[weights]


def without_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a network with the same layers as `settings` give, which loads no weights.

    A run that was begun with published weights is resumed and tested without them: nothing is downloaded or read.
    """
    settings = dict(settings)
    name = settings["_target_"].rpartition(".")[2]
    if name == timm_model.__name__:
        return {key: value for key, value in settings.items() if key not in ("pretrained", "checkpoint_path")}
    weights = settings.pop("weights", None) if name == torchvision_model.__name__ else None
    if weights is None:
        return settings
    _check_torchvision_arch(settings["arch"])
    chosen, arch = published(settings["arch"], weights), settings["arch"]
    same_classes = settings["num_classes"] == len(chosen.meta["categories"])
    channels = settings.get("in_channels") or 3
    return _implied_by_weights(arch, chosen, same_classes=same_classes, in_channels=channels) | settings


def _implied_by_weights(arch: str, chosen: Any, *, same_classes: bool, in_channels: int) -> dict[str, Any]:
    """Return what torchvision's constructors change with the weights."""
    implied: dict[str, Any] = {"transform_input": in_channels == 3} if arch in SCALED_INPUT else {}
    if same_classes and arch == "googlenet":
        implied["aux_logits"] = False
    if same_classes and arch.startswith("vit_"):
        implied["image_size"] = chosen.meta["min_size"][0]
    return implied


def _from_torchvision(arch: str, arguments: dict[str, Any], *, in_channels: int = 3) -> nn.Module:
    import torchvision

    network = build(torchvision.models.get_model, arch, arguments)
    if in_channels != 3:
        _take_channels(network, in_channels)
    network.unpublished = None  # type: ignore[assignment]  # its published weights fit
    if hasattr(network, "image_size"):
        network.size_option = "image_size"  # type: ignore[assignment]
    return network


def _take_channels(network: nn.Module, channels: int) -> None:
    """Let the first convolution of a fresh network take other than 3 channels: its kernels are drawn as before."""
    name = first_convolution_name(network)
    assert name is not None
    first = network.get_submodule(name.rpartition(".")[0])
    assert isinstance(first, nn.Conv2d)
    kernels = first.weight[:, torch.arange(channels, device=first.weight.device) % first.in_channels]
    first.weight, first.in_channels = nn.Parameter(kernels.detach().clone()), channels


def timm_model(
    arch: str, num_classes: int = 1000, *, in_channels: int = 3, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build the network that timm calls `arch`, such as resnet50d.

    Args:
        pretrained: start from the weights that timm publishes, which it downloads.
        options: what else timm.create_model and the network take, such as drop_path_rate or img_size.

    Raises:
        ValueError: timm is not installed, or an unknown `arch` or option.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ValueError(
            f"model.arch={arch} needs timm, which is not installed ({error}); "
            "pip install timm, or install this project as imgcls[timm]"
        ) from error
    if not timm.is_model(arch):
        hint = did_you_mean(arch, timm.list_models(), most=3)
        raise ValueError(
            f"model.arch={arch} is no network of timm {timm.__version__}{hint}; its documentation lists the names"
        )
    arguments = {"num_classes": num_classes, "in_chans": in_channels, "pretrained": pretrained, **options}
    network = build(timm.create_model, arch, arguments)
    if getattr(getattr(network, "patch_embed", None), "strict_img_size", False):
        network.size_option = "img_size"  # type: ignore[assignment]
    return network


def build(create: Callable[..., nn.Module], arch: str, arguments: dict[str, Any]) -> nn.Module:
    """Call the library's factory, and name the network `arch`.

    Raises:
        ValueError: the network does not have one of the options.
    """
    try:
        network = create(arch, **arguments)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) and "multiple values" not in str(error):
            raise
        raise ValueError(f"model.arch={arch} does not take all of {', '.join(arguments)}: {error}") from error
    network.arch = arch  # type: ignore[assignment]
    return network
