"""The networks against their papers: counts, costs, map sizes, initialisation, and what they refuse."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imgcls.config import compose
from imgcls.models import (
    COLUMNS,
    DEPTHS,
    INCEPTIONS,
    VGG,
    AlexNet,
    GoogLeNet,
    GoogLeNetOutput,
    LeNet5,
    ResNet,
    average_to,
    linear_of_averages,
    local_response_norm,
    outline_model,
    scaled_tanh,
)

Network = Callable[..., nn.Module]

# name -> (class, options, channels, the paper's image size, parameters at 1000 classes)
NETWORKS: dict[str, tuple[Network, dict, int, int, int]] = {
    "lenet5": (LeNet5, {}, 1, 32, 61_706 + 990 * 85),
    "alexnet": (AlexNet, {}, 3, 227, 62_378_344),
    "alexnet groups=2": (AlexNet, {"groups": 2}, 3, 227, 60_965_224),
    "vgg11": (VGG, {"column": "A"}, 3, 224, 132_863_336),
    "vgg11_lrn": (VGG, {"column": "A-LRN"}, 3, 224, 132_863_336),
    "vgg13": (VGG, {"column": "B"}, 3, 224, 133_047_848),
    "vgg16_1x1": (VGG, {"column": "C"}, 3, 224, 133_638_952),
    "vgg16": (VGG, {"column": "D"}, 3, 224, 138_357_544),
    "vgg19": (VGG, {"column": "E"}, 3, 224, 143_667_240),
    # torchvision's counts.
    "vgg11_bn": (VGG, {"column": "A", "batch_norm": True}, 3, 224, 132_868_840),
    "vgg13_bn": (VGG, {"column": "B", "batch_norm": True}, 3, 224, 133_053_736),
    "vgg16_bn": (VGG, {"column": "D", "batch_norm": True}, 3, 224, 138_365_992),
    "vgg19_bn": (VGG, {"column": "E", "batch_norm": True}, 3, 224, 143_678_248),
    "googlenet": (GoogLeNet, {}, 3, 224, 13_378_280),
    "googlenet without heads": (GoogLeNet, {"aux_heads": False}, 3, 224, 6_998_552),
    # A normalisation has a weight and a bias where the convolution loses its bias: 7,280, and 256 in the heads.
    "googlenet batch_norm": (GoogLeNet, {"batch_norm": True}, 3, 224, 13_378_280 + 7_280 + 256),
    "resnet18": (ResNet, {"depth": 18}, 3, 224, 11_689_512),
    "resnet34": (ResNet, {"depth": 34}, 3, 224, 21_797_672),
    "resnet50": (ResNet, {"depth": 50}, 3, 224, 25_557_032),
    "resnet101": (ResNet, {"depth": 101}, 3, 224, 44_549_160),
    "resnet152": (ResNet, {"depth": 152}, 3, 224, 60_192_808),
    "resnet50 v1.5": (ResNet, {"depth": 50, "stride_in_3x3": True}, 3, 224, 25_557_032),
}
every_network = pytest.mark.parametrize("name", NETWORKS)

# One of each kind with real numbers; the deep ones are on the meta device, which computes shapes only.
ONE_OF_EACH = [
    "lenet5",
    "alexnet",
    "alexnet groups=2",
    "vgg11_bn",
    "googlenet",
    "googlenet batch_norm",
    "resnet18",
    "resnet50",
]


def e2e(*names: str) -> list[Any]:
    """Leave these networks to `pytest -m e2e`: they take more than a second each."""
    return [pytest.param(name, marks=pytest.mark.e2e) for name in names]


one_of_each = pytest.mark.parametrize("name", ONE_OF_EACH)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def network(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    cls, defaults, channels, _, _ = NETWORKS[name]
    return cls(num_classes, in_channels=channels, **{**defaults, **options})


def on_meta(name: str, num_classes: int = 1000) -> tuple[nn.Module, Tensor]:
    """The network without its numbers, and one image of its paper's size."""
    _, _, channels, size, _ = NETWORKS[name]
    with torch.device("meta"):
        return network(name, num_classes), torch.empty(1, channels, size, size)


def images_for(name: str, size: int | None = None, *, batch: int = 2) -> Tensor:
    _, _, channels, paper_size, _ = NETWORKS[name]
    size = paper_size if size is None else size
    return torch.randn(batch, channels, size, size)


def map_sizes(model: nn.Module, images: Tensor, layers: list[str]) -> list[tuple[int, int]]:
    """(channels, side) of what each named layer gives."""
    sizes: list[tuple[int, int]] = []
    for layer in layers:
        model.get_submodule(layer).register_forward_hook(
            lambda _m, _i, maps: sizes.append((maps.shape[1], maps.shape[-1]))
        )
    model(images)
    return sizes


# Counts and costs


@every_network
def test_parameters_are_as_many_as_published(name: str) -> None:
    model, _ = on_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == NETWORKS[name][-1]


@pytest.mark.e2e
@pytest.mark.parametrize(
    "words, arch",
    [
        (["model=lenet5"], "lenet5"),
        (["model=alexnet"], "alexnet"),
        (["model=googlenet"], "googlenet"),
        (["model=vgg16_bn"], "vgg16_bn"),
        (["model=vgg16_1x1"], "vgg_C"),
        (["model=vgg11_lrn"], "vgg_A-LRN"),
        (["model=resnet101"], "resnet101"),
        (["model=torchvision", "model.arch=mobilenet_v3_small"], "mobilenet_v3_small"),
    ],
)
def test_a_network_has_the_name_that_it_is_published_under(words: list[str], arch: str) -> None:
    assert outline_model(compose([*words, "data=folder"]), num_classes=1000).arch == arch


def test_lenet5_has_61706_parameters_by_default() -> None:
    assert sum(parameter.numel() for parameter in LeNet5().parameters()) == 61_706


@pytest.mark.e2e
@pytest.mark.parametrize(
    "name, giga",
    [
        ("resnet18", 1.8),
        ("resnet34", 3.6),
        ("resnet50", 3.8),
        ("resnet101", 7.6),
        ("resnet152", 11.3),
        ("googlenet", 1.58),  # "1.5 billion multiply-adds" is the paper's budget; this is its table 1, layer by layer
        ("alexnet groups=2", 0.724),
        ("vgg16", 15.47),
        ("resnet50 v1.5", 4.09),  # torchvision's
    ],
)
def test_multiply_adds_are_the_papers(name: str, giga: float) -> None:
    model, images = on_meta(name)
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.02)


def test_alexnet_maps_are_the_papers() -> None:
    model, images = on_meta("alexnet")
    pooled: list[int] = []
    keep, max_pool2d = pooled.append, F.max_pool2d

    def recorded(maps: Tensor, *args: int, **kwargs: int) -> Tensor:
        maps = max_pool2d(maps, *args, **kwargs)
        keep(maps.shape[-1])
        return maps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "max_pool2d", recorded)
        sizes = map_sizes(model, images, ["conv1", "conv2", "conv3", "conv4", "conv5"])
    assert sizes == [(96, 55), (256, 27), (384, 13), (384, 13), (256, 13)]
    assert pooled == [27, 13, 6]


@pytest.mark.e2e
@pytest.mark.parametrize("depth", DEPTHS)
def test_resnet_maps_are_the_papers(depth: int) -> None:
    model, images = on_meta(f"resnet{depth}")
    widen = 1 if depth < 50 else 4
    sizes = map_sizes(model, images, ["conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"])
    stages = [(64 * widen, 56), (128 * widen, 28), (256 * widen, 14), (512 * widen, 7)]
    assert sizes == [(64, 112), (64, 56), *stages]


def test_resnet_halves_in_the_first_1x1_or_in_the_3x3() -> None:
    layers = ["layer2.0.conv1", "layer2.0.conv2"]
    paper, images = on_meta("resnet50")
    assert map_sizes(paper, images, layers) == [(128, 28), (128, 28)]
    later, images = on_meta("resnet50 v1.5")
    assert map_sizes(later, images, layers) == [(128, 56), (128, 28)]


def test_vgg_maps_halve_five_times() -> None:
    for column in COLUMNS:
        with torch.device("meta"):
            model, images = VGG(column=column), torch.empty(1, 3, 224, 224)
        pools = [f"features.{i}" for i, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
        assert map_sizes(model, images, pools) == [(64, 112), (128, 56), (256, 28), (512, 14), (512, 7)]


@pytest.mark.parametrize("column, layers", [("A", 11), ("A-LRN", 11), ("B", 13), ("C", 16), ("D", 16), ("E", 19)])
def test_vgg_columns_have_their_weight_layers(column: str, layers: int) -> None:
    with torch.device("meta"):
        model = VGG(column=column)
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == layers


def test_googlenet_maps_are_the_papers() -> None:
    model, images = on_meta("googlenet")
    layers = ["stem.0", "stem.1", "stem.4", "stem.6", *(f"inception{name}" for name in INCEPTIONS), "aux1.conv"]
    assert map_sizes(model, images, layers) == [
        *[(64, 112), (64, 56), (192, 56), (192, 28)],
        *[(256, 28), (480, 28)],
        *[(512, 14), (512, 14), (512, 14), (528, 14), (832, 14)],
        *[(832, 7), (1024, 7)],
        (128, 4),
    ]


def test_googlenet_has_real_5x5_branches() -> None:
    model = on_meta("googlenet")[0]
    for name in INCEPTIONS:
        assert model.get_submodule(f"inception{name}.branch5.1.0").kernel_size == (5, 5)


def test_lenet5_maps_are_the_papers() -> None:
    sizes = map_sizes(LeNet5(), torch.zeros(1, 1, 32, 32), ["conv1", "conv3", "conv5"])
    assert sizes == [(6, 28), (16, 10), (120, 1)]


# Layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 17])
def test_local_response_norm_equals_torchs(
    dtype: torch.dtype, memory_format: torch.memory_format, channels: int
) -> None:
    maps = (10 * torch.randn(2, channels, 5, 6, dtype=dtype)).to(memory_format=memory_format).requires_grad_()
    # torch multiplies the mean over 5 neighbours by alpha, the paper their sum.
    torchs = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    ours, theirs = local_response_norm(maps), torchs(maps)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=0, rtol=1e-5 if dtype == torch.float32 else 1e-12)
    weights = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad((y * weights).sum(), maps)[0] for y in (ours, theirs)))


def test_local_response_norm_by_hand() -> None:
    maps = torch.tensor([100.0, 200.0, 300.0, 400.0]).view(1, 4, 1, 1)
    energy = [1e4 * (1 + 4 + 9), 1e4 * (1 + 4 + 9 + 16), 1e4 * (1 + 4 + 9 + 16), 1e4 * (4 + 9 + 16)]
    expected = [100.0 * (i + 1) / (2 + 1e-4 * e) ** 0.75 for i, e in enumerate(energy)]
    torch.testing.assert_close(local_response_norm(maps).flatten(), torch.tensor(expected))


def test_local_response_norm_of_large_fp16_maps_is_finite() -> None:
    maps = torch.full((1, 8, 1, 1), 6e4, dtype=torch.float16)
    normed = local_response_norm(maps)
    assert normed.dtype == torch.float16
    torch.testing.assert_close(normed.float(), local_response_norm(maps.float()), rtol=1e-2, atol=0)
    assert (normed > 0).all()


@pytest.mark.parametrize("size", [0, 4, -1])
def test_local_response_norm_refuses_a_size_without_middle(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size} .*odd size"):
        local_response_norm(torch.zeros(1, 3, 1, 1), size)


def test_scaled_tanh_maps_one_to_one() -> None:
    torch.testing.assert_close(
        scaled_tanh(torch.tensor([-1.0, 0.0, 1.0])), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-4, rtol=0
    )


def test_alexnet_normalises_on_the_side_of_the_pooling_that_is_asked_for() -> None:
    maps = 100 * torch.rand(1, 8, 7, 7)
    pooled = F.max_pool2d(maps, 3, stride=2)
    with torch.device("meta"):
        lecture, paper = AlexNet(), AlexNet(norm_before_pool=True)
    torch.testing.assert_close(lecture.pool_and_norm(maps), local_response_norm(pooled))
    torch.testing.assert_close(paper.pool_and_norm(maps), F.max_pool2d(local_response_norm(maps), 3, stride=2))
    assert not torch.allclose(lecture.pool_and_norm(maps), paper.pool_and_norm(maps))


def test_batch_norm_replaces_the_local_response_norm_of_googlenet() -> None:
    def kinds(model: nn.Module) -> set[str]:
        return {type(layer).__name__ for layer in model.modules()}

    plain, normed = kinds(on_meta("googlenet")[0]), kinds(on_meta("googlenet batch_norm")[0])
    assert "LocalResponseNorm" in plain
    assert "BatchNorm2d" not in plain
    assert "LocalResponseNorm" not in normed
    assert "BatchNorm2d" in normed


# The same network as torchvision's


def same_numbers(model: nn.Module, numbers: dict[tuple[int, ...], Tensor]) -> dict[str, Tensor]:
    """A state dict for the model that keeps the signal's size; tensors of one shape are shared, to be quick."""

    def value(name: str, shape: torch.Size) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(1)
        kind = (name.endswith("running_var"), *shape)
        if kind not in numbers:
            numbers[kind] = torch.randn(shape) / math.sqrt(max(1, math.prod(shape[1:]) / 2))
            if len(shape) == 1:
                numbers[kind] = 1 + numbers[kind].abs() if kind[0] else numbers[kind]
        return numbers[kind]

    return {name: value(name, tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def numbers() -> Iterator[dict[tuple[int, ...], Tensor]]:
    shared: dict[tuple[int, ...], Tensor] = {}
    yield shared
    shared.clear()


@pytest.mark.parametrize(
    "name",
    [
        "vgg11",
        "vgg13_bn",
        *e2e("vgg11_bn", "vgg13", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
        "resnet18",
        "resnet50",
        *e2e("resnet34", "resnet101", "resnet152"),
    ],
)
def test_outputs_equal_torchvisions_with_its_state_dict(name: str, numbers: dict[tuple[int, ...], Tensor]) -> None:
    cls, options, *_ = NETWORKS[name]
    if cls is ResNet:
        options = {**options, "stride_in_3x3": True}
    with torch.device("meta"):
        ours, theirs = cls(**options), torchvision.models.get_model(name)
    state = same_numbers(theirs, numbers)
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(state, assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, logits = theirs.eval()(images), ours.eval()(images)
    scale = expected.std()
    assert scale > 0
    assert torch.isfinite(scale)
    torch.testing.assert_close(logits / scale, expected / scale, atol=1e-5, rtol=0)


def test_resnet_as_in_the_paper_differs_from_torchvisions() -> None:
    later, paper = ResNet(10, stride_in_3x3=True).eval(), ResNet(10).eval()
    paper.load_state_dict(later.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(later(images), paper(images))


# Gradients and modes


def total(output: Tensor | GoogLeNetOutput) -> Tensor:
    """A loss that sees every logit of every head."""
    outputs = output if isinstance(output, tuple) else (output,)
    return torch.stack([F.cross_entropy(logits, logits.argmin(1)) for logits in outputs]).sum()


@pytest.mark.e2e
@one_of_each
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    model = network(name)
    size = {"lenet5": 32, "alexnet": 99, "alexnet groups=2": 99}.get(name, 64)
    total(model(images_for(name, size))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key


@pytest.mark.e2e
@every_network
def test_a_gradient_has_a_way_to_every_parameter(name: str) -> None:
    model, images = on_meta(name)
    output = model(torch.cat([images, images]))
    torch.stack([logits.sum() for logits in (output if isinstance(output, tuple) else (output,))]).sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_googlenet_heads_are_for_training_only() -> None:
    model, images = network("googlenet"), images_for("googlenet", 64)
    output = model(images)
    assert isinstance(output, GoogLeNetOutput)
    assert output._fields == ("logits", "aux1", "aux2")
    assert [tuple(logits.shape) for logits in output] == [(2, 10)] * 3
    assert isinstance(model.eval()(images), Tensor)
    assert isinstance(network("googlenet", aux_heads=False)(images), Tensor)


def test_googlenet_heads_hang_on_4a_and_4d() -> None:
    model = network("googlenet")
    output = model(images_for("googlenet", 64))

    def reached(logits: Tensor) -> set[str]:
        model.zero_grad()
        logits.sum().backward(retain_graph=True)
        return {
            name
            for name in INCEPTIONS
            if any(p.grad is not None for p in model.get_submodule(f"inception{name}").parameters())
        }

    assert reached(output.aux1) == {"3a", "3b", "4a"}
    assert reached(output.aux2) == {"3a", "3b", "4a", "4b", "4c", "4d"}
    assert reached(output.logits) == set(INCEPTIONS)


@pytest.mark.parametrize("name", ["lenet5", "googlenet", "resnet18", *e2e("alexnet", "vgg11_bn")])
def test_channels_last_and_bf16_autocast_change_little(name: str) -> None:
    model = network(name).eval()
    images = images_for(name, max(64, model.min_image_size))
    with torch.no_grad():
        expected = model(images)
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            halved = model(images)
    assert halved.dtype == torch.bfloat16
    assert (halved.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["lenet5", "alexnet", "vgg11_lrn", "googlenet", "resnet18"])
def test_the_graph_has_no_break_and_exports(name: str) -> None:
    model = network(name)
    images = images_for(name, max(64, model.min_image_size))
    # "eager" traces as inductor would but generates no code, which takes minutes.
    torch.compile(model, backend="eager", fullgraph=True)(images)
    exported = torch.export.export(model.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    more = torch.cat([images, images[:1]])
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(more), model(more), atol=1e-5, rtol=1e-4)


# Sizes and channels

SMALLEST = {"lenet5": 32, "alexnet": 67, "vgg11_lrn": 32, "vgg11_bn": 32, "googlenet": 31, "googlenet batch_norm": 31}


@pytest.mark.parametrize("name", [*SMALLEST, "resnet18", "resnet50"])
def test_the_least_image_size_works_and_one_less_is_refused(name: str) -> None:
    model, image = on_meta(name, 10)
    least = model.min_image_size
    assert least == SMALLEST.get(name, 1)
    channels = image.shape[1]
    for training in (True, False):
        output = model.train(training)(image.new_empty(2, channels, least, least))
        assert (output.logits if isinstance(output, tuple) else output).shape == (2, 10)
    too_small = f"images of {least - 1}x{least - 1} pixels .* at least {least}x{least}; set image_size={least} "
    with pytest.raises(ValueError, match=too_small):
        model(image.new_empty(2, channels, least - 1, least - 1))
    with pytest.raises(ValueError, match=f"images of {least}x{least - 1} pixels"):
        model(image.new_empty(2, channels, least, least - 1))


@pytest.mark.parametrize("name", SMALLEST)
def test_the_least_image_size_is_the_layers_own(name: str) -> None:
    model, image = on_meta(name, 10)
    least = model.min_image_size
    model.min_image_size = 1  # no refusal of ours
    with pytest.raises(RuntimeError, match=r"too small|can't be greater"):
        model(image.new_empty(2, image.shape[1], least - 1, least - 1))


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["lenet5", "alexnet", "googlenet", "googlenet batch_norm", "resnet50"])
def test_the_least_image_gives_numbers(name: str) -> None:
    model = network(name)
    images = images_for(name, model.min_image_size)
    assert torch.isfinite(total(model.train()(images)))
    assert torch.isfinite(total(model.eval()(images)))


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("lenet5", [(32, 48), (61, 61)]),
        ("alexnet", [(227, 131), (256, 256)]),
        ("vgg11", [(64, 96), (257, 257)]),
        ("googlenet", [(64, 97), (225, 225)]),
        ("resnet18", [(64, 97), (8, 8)]),
    ],
)
def test_other_sizes_give_as_many_logits(name: str, sizes: list[tuple[int, int]]) -> None:
    model, images = on_meta(name, 7)
    for size in sizes:
        for training in (True, False):
            output = model.train(training)(images.new_empty(2, images.shape[1], *size))
            for logits in output if isinstance(output, tuple) else (output,):
                assert logits.shape == (2, 7)


@pytest.mark.parametrize("cls", [LeNet5, AlexNet, VGG, GoogLeNet, ResNet])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(cls: Network, channels: int) -> None:
    with torch.device("meta"):
        assert cls(5, in_channels=channels).eval()(torch.empty(1, channels, 96, 96)).shape == (1, 5)


@pytest.mark.parametrize(
    "cls, options, words",
    [
        (LeNet5, {"activation": "gelu"}, "model.activation=gelu .*tanh, relu"),
        (LeNet5, {"pool": "median"}, "model.pool=median .*average, max"),
        (AlexNet, {"groups": 3}, "model.groups=3 .*1, or 2"),
        (AlexNet, {"init": "glorot"}, "model.init=glorot .*paper, he"),
        (VGG, {"column": "F"}, "model.column=F .*A, A-LRN, B, C, D, E"),
        (VGG, {"init": "paper"}, "model.init=paper .*glorot, gaussian, he"),
        (GoogLeNet, {"init": "gaussian"}, "model.init=gaussian .*he, glorot"),
        (ResNet, {"depth": 20}, "model.depth=20 .*18, 34, 50, 101, 152"),
    ],
)
def test_an_unknown_option_is_refused_with_the_known_ones(cls: Network, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cls(10, **options)


# Initialisation


def close_to(weight: Tensor, std: float) -> bool:
    """Whether mean and standard deviation are those of N(0, std), within four standard errors."""
    error = std / math.sqrt(weight.numel())
    return abs(weight.mean().item()) < 4 * error and abs(weight.std().item() - std) < 4 * error


def fan_in(weight: Tensor) -> int:
    return math.prod(weight.shape[1:])


def test_alexnet_starts_as_the_paper_says() -> None:
    model = AlexNet()
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        layer = model.get_submodule(name)
        assert close_to(layer.weight, 0.01), name
        assert (layer.bias == (1 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0)).all(), name


def test_resnet_starts_as_he_et_al_say() -> None:
    model = ResNet(depth=18)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight.shape[0] * math.prod(layer.kernel_size)
            assert close_to(layer.weight, math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
    assert close_to(model.fc.weight, 0.01)
    assert (model.fc.bias == 0).all()


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_residual_makes_each_block_its_shortcut(depth: int) -> None:
    model = ResNet(10, depth=depth, zero_init_residual=True)
    zeros = {name for name, parameter in model.named_parameters() if name.startswith("layer") and not parameter.any()}
    last = "bn2" if depth == 18 else "bn3"
    assert {name for name in zeros if name.endswith("weight")} == {
        f"{name}.{last}.weight" for name, layer in model.named_modules() if hasattr(layer, "downsample")
    }
    block = model.layer1[1]
    maps = torch.rand(2, 64 if depth == 18 else 256, 8, 8)
    torch.testing.assert_close(block(maps), maps)


@pytest.mark.parametrize("init", ["glorot", "gaussian", "he"])
def test_vgg_starts_as_asked(init: str) -> None:
    with torch.device("meta"):
        model = VGG(10, column="A", init=init)
    model.features.to_empty(device="cpu")  # without the linear layers, which take most of the time
    model.init_weights(init)
    for layer in model.features:
        if isinstance(layer, nn.Conv2d):
            weight, area = layer.weight, math.prod(layer.kernel_size)
            if init == "glorot":
                bound = math.sqrt(6 / (area * (weight.shape[0] + weight.shape[1])))
                assert close_to(weight, bound / math.sqrt(3))
                assert weight.abs().max() <= bound
            else:
                assert close_to(weight, 0.01 if init == "gaussian" else math.sqrt(2 / fan_in(weight)))
            assert (layer.bias == 0).all()


def test_lenet5_starts_uniform_in_2_4_over_fan_in() -> None:
    for weight in (parameter for parameter in LeNet5().parameters() if parameter.ndim > 1):
        bound = 2.4 / fan_in(weight)
        assert weight.abs().max() <= bound
        assert close_to(weight, bound / math.sqrt(3))


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["lenet5", "alexnet", "googlenet", "googlenet batch_norm", "resnet18", "resnet50"])
def test_the_first_loss_is_near_that_of_a_guess(name: str) -> None:
    model = network(name)
    for layer in model.modules():
        layer.train(not isinstance(layer, nn.Dropout))
    output = model(images_for(name, max(64, model.min_image_size), batch=10))
    loss = F.cross_entropy(output.logits if isinstance(output, tuple) else output, torch.arange(10)).item()
    # The paper's AlexNet starts with unit biases before its classifier, so with logits of unit size.
    assert loss == pytest.approx(math.log(10), abs=2.0 if name == "alexnet" else 0.5)


def test_the_signal_of_googlenet_survives_he_but_not_glorot() -> None:
    spread = {}
    for init in ("he", "glorot"):
        torch.manual_seed(0)
        model = network("googlenet", init=init, aux_heads=False).eval()
        with torch.no_grad():
            spread[init] = model(images_for("googlenet", 64, batch=4)).std(0).mean().item()
    assert spread["he"] > 50 * spread["glorot"]


@pytest.mark.parametrize(("side", "size"), [(7, (1, 1)), (7, (2, 5)), (6, (1, 3)), (7, (7, 7)), (6, (9, 8))])
def test_a_linear_layer_of_averaged_maps_gives_the_same_whichever_is_averaged(side: int, size: tuple[int, int]) -> None:
    linear, maps = torch.nn.Linear(3 * side * side, 4), torch.randn(2, 3, *size, requires_grad=True)
    expected = linear(F.adaptive_avg_pool2d(maps, side).flatten(1))
    result = linear_of_averages(maps, linear, side)
    assert torch.allclose(result, expected, atol=1e-6)
    of = (linear.weight, linear.bias, maps)
    for ours, torchs in zip(
        *(torch.autograd.grad(output.square().sum(), of) for output in (result, expected)), strict=True
    ):
        assert torch.allclose(ours, torchs, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 6), (13, 9), (14, 14)])
@pytest.mark.parametrize("side", [4, 6, 7])
def test_maps_of_other_sizes_are_averaged_over_the_regions_of_torchs_own_pooling(size, side) -> None:
    maps = torch.rand(2, 3, *size, requires_grad=True)
    weights = torch.rand(2, 3, side, side)
    ours, torchs = (pool(maps, side) for pool in (average_to, F.adaptive_avg_pool2d))
    assert torch.allclose(ours, torchs, atol=1e-6)
    gradients = [torch.autograd.grad((pooled * weights).sum(), maps)[0] for pooled in (ours, torchs)]
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.e2e
@pytest.mark.parametrize("network", [AlexNet, GoogLeNet, lambda: VGG(column="A"), lambda: ResNet(depth=18)])
def test_no_gradient_is_one_that_cuda_refuses_to_compute_in_a_fixed_order(network) -> None:
    output = network().train()(torch.rand(2, 3, 96, 96))
    waiting = [head.grad_fn for head in (output if isinstance(output, tuple) else (output,))]
    seen = set()
    while waiting:
        function = waiting.pop()
        if function is not None and function not in seen:
            seen.add(function)
            waiting += [following for following, _ in function.next_functions]
    # Those of torch.use_deterministic_algorithms' documentation that pool, pad or resize.
    refused = (
        "AdaptiveAvgPool",
        "AdaptiveMaxPool",
        "AvgPool3D",
        "MaxPool3D",
        "Upsample",
        "ReflectionPad",
        "ReplicationPad",
    )
    names = {function.name() for function in seen}
    assert any(name.startswith("Convolution") for name in names)
    assert not [name for name in names if name.startswith(refused)]
