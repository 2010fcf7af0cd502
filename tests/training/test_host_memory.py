"""A step that the host's memory cannot hold is refused before anything is trained or written."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgcls.errors import ConfigError
from imgcls.models import kept_bytes
from imgcls.training import Trainer, build_trainer, host_memory, open_run_directory
from imgcls.training.host_memory import LEAST, MOST

from .helpers import Make, Train


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets the bytes of memory that are free."""
    return lambda num_bytes: monkeypatch.setattr(host_memory, "available_memory", lambda: num_bytes)


def lenet(config: Make, tmp_path: Path, *words: str) -> Trainer:
    with open_run_directory(config(*words), tmp_path / "run") as run_dir:
        return build_trainer(config(*words), run_dir, torch.device("cpu"))


@pytest.fixture
def image(tiny_config: Make, tmp_path: Path) -> tuple[float, float]:
    """Return the bytes of LeNet's maps of an image, and of its weights."""
    host = lenet(tiny_config, tmp_path / "other").host
    assert host is not None
    return host.of_image, host.of_weights


def test_a_batch_that_cannot_fit_is_refused_with_what_fits_and_leaves_nothing(
    tiny_config: Make, tmp_path: Path, image: tuple[float, float], free: Callable[[float], None]
) -> None:
    maps, weights = image
    free(weights + LEAST * maps * 11.9)
    with pytest.raises(ConfigError, match=r"^batch_size=12: with 12 images of 32 px .* are free; microbatch=2 fits"):
        lenet(tiny_config, tmp_path)
    with pytest.raises(ConfigError, match=r"^microbatch=12: with 12 images"):
        lenet(tiny_config, tmp_path, "microbatch=12")
    assert not (tmp_path / "run").exists()
    lenet(tiny_config, tmp_path, "microbatch=2")


def test_a_single_image_that_cannot_fit_has_another_way_out(
    tiny_config: Make, tmp_path: Path, image: tuple[float, float], free: Callable[[float], None]
) -> None:
    free(image[1])
    for microbatch in ("1", "auto"):
        with pytest.raises(ConfigError, match=r"with 1 image of .* use a smaller image_size or model$"):
            lenet(tiny_config, tmp_path, f"microbatch={microbatch}")


def test_a_batch_that_may_not_fit_is_warned_of(
    tiny_config: Make,
    tmp_path: Path,
    image: tuple[float, float],
    free: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    maps, weights = image
    for images, warned in ((12.1, False), (11.9, True)):
        free(3 * weights + MOST * maps * images)
        lenet(tiny_config, tmp_path, "overwrite=true")
        assert ("the system kills the run without a word. microbatch=8 fits" in caplog.text) is warned


def test_microbatch_auto_tries_no_more_than_fits(
    tiny_config: Make,
    train: Train,
    image: tuple[float, float],
    free: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    maps, weights = image
    free(3 * weights + MOST * maps * 5.5)
    train(tiny_config("microbatch=auto", "max_steps=1"))
    assert "microbatch=auto: 5 images at a time fit on cpu" in caplog.text


def test_compiled_networks_keep_other_tensors_which_are_not_known(
    tiny_config: Make, free: Callable[[float], None]
) -> None:
    free(0)
    config, network = tiny_config("compile=true"), nn.Linear(3, 2)
    freezing = host_memory.Freezing(tiny_config(), network)
    given = {"device": torch.device("cpu"), "dtype": None}
    assert host_memory.host_memory(config, network, freezing, **given) is None


class Keeps(nn.Module):
    """A convolution and a ReLU, which keep the image, and one map that both share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.layer(images)).mean((2, 3)))


def test_what_is_kept_of_an_image_is_its_pixels_its_maps_and_no_weights() -> None:
    image, maps, averages = 3 * 8 * 8 * 4, 4 * 8 * 8 * 4, 4 * 4
    assert kept_bytes(Keeps(), channels=3, size=(8, 8)) == image + maps + averages
    half = kept_bytes(Keeps(), channels=3, size=(8, 8), autocast=torch.bfloat16)
    assert half == image / 2 + maps / 2 + averages / 2
    frozen = Keeps().requires_grad_(False)
    frozen.head.requires_grad_(True)
    assert kept_bytes(frozen, channels=3, size=(8, 8)) == averages


@pytest.mark.parametrize("until, layer_learns", [(None, False), (1, True)])
def test_layers_that_never_learn_keep_no_maps_and_have_no_gradients(
    until: int | None, layer_learns: bool, tiny_config: Make
) -> None:
    network = Keeps()
    config = dataclasses.replace(tiny_config(), freeze=["layer"], unfreeze_after_epochs=until)
    freezing = host_memory.Freezing(config, network)
    host = host_memory.host_memory(config, network, freezing, device=torch.device("cpu"), dtype=None)
    assert host is not None
    learning = network if layer_learns else network.head
    assert host.of_weights == sum(each.numel() * 4 for each in learning.parameters())
    assert (host.of_image > 4 * 4) is layer_learns  # of the head alone: the averages
    assert all(each.requires_grad for each in network.parameters())


class LooksAtItsGradient(nn.Module):
    """A network that torch lets nobody look into: torch.func takes a gradient within it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 7)

    def forward(self, images: Tensor) -> Tensor:
        averages = images.mean((2, 3))
        return self.head(averages + torch.func.grad(lambda each: (each**2).sum())(averages.detach()))


def test_a_network_that_cannot_be_looked_into_trains_and_the_log_says_so(
    tiny_config: Make, free: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    free(1e12)
    network = LooksAtItsGradient()
    freezing = host_memory.Freezing(tiny_config(), network)
    assert host_memory.host_memory(tiny_config(), network, freezing, device=torch.device("cpu"), dtype=None) is None
    assert "memory   what a step takes is not known before it: torch.func" in caplog.text
