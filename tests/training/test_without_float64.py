"""A device that has no float64, as Apple's mps: nothing of a step or a test makes a tensor of it there.

FakeTensorMode gives tensors of a GPU without one; they have shapes and dtypes, but no values. It has no fakes of mps:
CUDA stands for it, as a device that refuses float64.
"""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imgcls.config import compose
from imgcls.data.augment import keyed_random
from imgcls.data.loading import Batch
from imgcls.data.on_device import Augment, RandomErasing, build_augmentations, epoch_numbers, input_statistics
from imgcls.data.on_device.keyed_random import uniforms_on_device
from imgcls.device import float64_device
from imgcls.inference.predictor import predict
from imgcls.metrics import Meter
from imgcls.models import build_model
from imgcls.training import ClassificationLoss
from imgcls.training.divergence import FiniteLossWatch
from imgcls.training.validation import validate

GPU = torch.device("cuda")


class NoFloat64(TorchDispatchMode):
    """Raise where an operation on the GPU makes float64, as mps does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, result)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cuda" and leaf.dtype == torch.float64:
                raise TypeError(f"{func} makes float64 on the GPU")
        return result


@pytest.fixture
def _without_float64(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("imgcls.device._has_float64", lambda device: device.type == "cpu")
    with FakeTensorMode(allow_non_fake_inputs=True), NoFloat64():
        yield


@pytest.mark.usefixtures("_without_float64")
def test_the_mode_notices_float64() -> None:
    with pytest.raises(TypeError, match="makes float64 on the GPU"):
        torch.zeros(1, device=GPU).double()


@pytest.mark.usefixtures("_without_float64")
def test_steps_and_validation_make_no_float64_there() -> None:
    config = compose(["model=lenet5", "recipe=modern", "data=cifar10", "augment.batch.colour.hue=0.1"])
    augment = Augment(build_augmentations(config.augment.batch), **input_statistics(config), seed=config.seed)
    for augmentation in augment.after:
        if isinstance(augmentation, RandomErasing):
            # A GPU's generator has no fake: noise of the same shape and device stands in.
            augmentation.prepare = lambda *epoch: None
            with GPU:
                augmentation.noise = torch.zeros((64, 32, 32, 3))
    with GPU:
        network = build_model(config, num_classes=10).train()
        images = torch.zeros((4, 32, 32, 3), dtype=torch.uint8)
        labels = torch.zeros(4, dtype=torch.int64)
    loss, meter, watch = ClassificationLoss(label_smoothing=0.1), Meter(float64_device(GPU)), FiniteLossWatch()
    for step in (1, 2):
        pixels, targets = augment(images, labels, labels, epoch=0, num_classes=10)
        output = loss(network(pixels), targets)
        meter.update(output.loss.detach(), output.logits.detach(), labels)
        watch.update(output.loss.detach(), step=step)
    assert output.loss.device.type == "cuda"
    assert meter.sums.device.type == "cpu"
    batch, prepare = Batch(images, labels, labels), lambda part: part.permute(0, 3, 1, 2).float()
    with pytest.raises(DataDependentOutputException):  # all but the last read, as there are no values
        validate(network, [batch], prepare=prepare, num_classes=10, device=GPU)


@pytest.mark.usefixtures("_without_float64")
def test_a_test_makes_no_float64_there() -> None:
    config = compose(["model=lenet5", "data=mnist"])
    with GPU:
        network = build_model(config, num_classes=10)
        images, labels = torch.zeros((2, 28, 28, 1), dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)

    def prepare(pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(pixels.permute(0, 3, 1, 2).float(), (2, 2, 2, 2))

    predictions = predict(network, [Batch(images, labels, labels)], prepare=prepare, device=GPU, flip=True)
    assert predictions.log_probs.shape == (2, 10)


def test_draws_of_24_bits_are_those_of_53_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = torch.arange(1000)
    exact = uniforms_on_device(epoch_numbers(3, 1, indices.device), indices, 4)
    assert exact.numpy() == pytest.approx(keyed_random.uniforms(3, 1, indices.numpy(), 4), abs=0)
    monkeypatch.setattr("imgcls.data.on_device.keyed_random.float64_device", lambda device: GPU)
    short = uniforms_on_device(epoch_numbers(3, 1, indices.device), indices, 4)
    assert short.dtype == torch.float32
    assert short.max() < 1
    assert ((exact - short.double()) >= 0).all()
    assert ((exact - short.double()) < 2.0**-24).all()
