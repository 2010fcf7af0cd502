"""A network as the rows of a table: its layers with their shapes, weights and cost, read off it as images pass."""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from imgcls.config import compose
from imgcls.models.factory import outline_model

# Layers and blocks that are rows of a table; what is inside a block is in its description.
UNITS = ("Conv2d", "Linear", "MaxPool2d", "LocalResponseNorm", "BasicBlock", "Bottleneck", "Inception", "AuxHead")


@dataclass(frozen=True)
class Layer:
    """A layer or block of a network, or several alike in a row.

    Args:
        kind: Conv2d, Linear, BasicBlock, ..., or Pooling where a function pools between two layers.
        inside: lines that describe it: the kernel and channels, or the branches of a block.
        shape: of its output, (C, H, W) or (features,).
        projection: a residual block whose shortcut is a convolution.
        training_only: an auxiliary head.
    """

    name: str
    kind: str
    inside: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int = 0
    multiply_adds: int = 0
    repeats: int = 1
    projection: bool = False
    training_only: bool = False

    @property
    def shape_text(self) -> str:
        if len(self.shape) == 1:
            return f"{self.shape[0]:,}"
        channels, height, width = self.shape
        return f"{height}×{width}×{channels}"


@dataclass(frozen=True)
class NetworkSummary:
    """A network of conf/model with its layers, at the classes and image size of its paper."""

    words: tuple[str, ...]
    arch: str
    num_classes: int
    image_size: int
    channels: int
    parameters: int
    multiply_adds: int
    least_image_size: int
    layers: tuple[Layer, ...]

    @property
    def title(self) -> str:
        name, *more = self.words
        return " ".join([f"`model={name}`", *(f"`{word}`" for word in more)])


@functools.cache
def summarize_network(words: str) -> NetworkSummary:
    """Return the network that `words` choose, such as `alexnet model.groups=2`."""
    from torch.utils.flop_counter import FlopCounterMode  # here: a training counts nothing

    name, *more = words.split()
    data, num_classes = ("mnist", 10) if name == "lenet5" else ("imagenet", 1000)
    config = compose([f"model={name}", *more, f"data={data}"])
    network = outline_model(config, num_classes=num_classes)
    images = torch.zeros(2, config.data.channels, *config.input_size, device="meta")
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(images)
    layers = tuple(_pooled(_units(network, images)))
    in_heads = sum(layer.parameters for layer in layers if layer.training_only)
    return NetworkSummary(
        words=(name, *more),
        arch=str(network.arch),
        num_classes=num_classes,
        image_size=config.image_size,
        channels=config.data.channels,
        parameters=sum(parameter.numel() for parameter in network.parameters()) - in_heads,
        multiply_adds=counter.get_total_flops() // 2 // len(images),
        least_image_size=int(getattr(network, "min_image_size", 1)),
        layers=layers,
    )


def _units(network: nn.Module, images: torch.Tensor) -> list[tuple[Layer, tuple[int, ...]]]:
    """Run `network` in training on `images`, and return each unit in the order of use with the shape of its input."""
    from torch.utils.flop_counter import FlopCounterMode

    seen: list[tuple[Layer, tuple[int, ...]]] = []
    counts: dict[str, int] = {}

    def add(path: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen.append((_layer(path, module, tuple(output.shape[1:])), tuple(inputs[0].shape[1:])))

        return module.register_forward_hook(hook)

    hooks = [add(path, module) for path, module in _find_units(network)]
    network.train()
    with FlopCounterMode(display=False) as counter:
        network(images)
    for hook in hooks:
        hook.remove()
    for path, flops in counter.get_flop_counts().items():
        counts[path.partition(".")[2]] = sum(flops.values()) // 2 // len(images)
    return [(replace(layer, multiply_adds=counts.get(layer.name, 0)), shape) for layer, shape in seen]


def _find_units(module: nn.Module, path: str = "") -> Iterable[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        if type(child).__name__ in UNITS:
            yield here, child
        else:
            yield from _find_units(child, here)


def _layer(path: str, module: nn.Module, shape: tuple[int, ...]) -> Layer:
    kind = type(module).__name__
    parameters = sum(parameter.numel() for parameter in module.parameters())
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    projection = False
    if isinstance(module, nn.Conv2d):
        inside = [_convolution(module)]
    elif isinstance(module, nn.Linear):
        inside = [f"{module.in_features:,} → {module.out_features:,}"]
    elif isinstance(module, nn.MaxPool2d):
        inside = [f"{module.kernel_size}×{module.kernel_size} max /{module.stride}"]
    elif kind in ("BasicBlock", "Bottleneck"):
        projection = not isinstance(module.downsample, nn.Identity)
        main = convolutions[: -1 if projection else None]
        inside = [" → ".join(map(_convolution, main))]
    elif kind == "Inception":
        one, reduce3, three, reduce5, five, pooled = convolutions
        inside = [
            f"1×1 {one.out_channels}",
            f"1×1 {reduce3.out_channels} → 3×3 {three.out_channels}",
            f"1×1 {reduce5.out_channels} → 5×5 {five.out_channels}",
            f"pool → 1×1 {pooled.out_channels}",
        ]
    elif kind == "AuxHead":
        inside = ["5×5 mean /3 → 1×1 128 → 1,024 → classes"]
    else:
        inside = ["5 channels"]
    return Layer(path, kind, tuple(inside), shape, parameters, projection=projection, training_only=kind == "AuxHead")


def _convolution(layer: nn.Conv2d) -> str:
    stride = f" /{layer.stride[0]}" if layer.stride[0] > 1 else ""
    groups = f" in {layer.groups} groups" if layer.groups > 1 else ""
    return f"{layer.kernel_size[0]}×{layer.kernel_size[1]} {layer.out_channels}{stride}{groups}"


def _pooled(units: list[tuple[Layer, tuple[int, ...]]]) -> Iterable[Layer]:
    """Add a row wherever a layer takes smaller maps than the one before it gave: there a function pooled."""
    before: tuple[int, ...] | None = None
    for layer, shape in units:
        if layer.training_only:
            yield layer
            continue
        if before is not None and len(before) == 3 and math.prod(before) != math.prod(shape):
            channels, side = before[0], before[1]
            pooled = shape[1] if len(shape) == 3 else math.isqrt(shape[0] // channels)
            what = f"mean of {side}×{side}" if pooled == 1 and len(shape) == 1 else f"{side} → {pooled}"
            yield Layer("pooling", "Pooling", (what,), (channels, pooled, pooled))
        yield layer
        before = layer.shape


def _alike(one: Layer, other: Layer) -> bool:
    return (one.kind, one.inside, one.shape, one.parameters) == (
        other.kind,
        other.inside,
        other.shape,
        other.parameters,
    )


def folded(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with runs of equal ones as one, which has `repeats`."""
    rows: list[Layer] = []
    for layer in layers:
        last = rows[-1] if rows else None
        if last and _alike(last, layer):
            first = last.name.partition(" to ")[0]
            rows[-1] = replace(last, name=f"{first} to {layer.name}", repeats=last.repeats + 1)
        else:
            rows.append(layer)
    return rows
