"""The hot path of a step never waits for the device.

FakeTensorMode gives CUDA tensors without a GPU: reading a value (`.item()`, `bool(tensor)`) raises, and so does an
operation between a tensor on the device and one left on the host.
"""

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from imgcls.config import compose
from imgcls.data.on_device import Augment, RandomErasing, build_augmentations, input_statistics
from imgcls.metrics import Meter
from imgcls.models import build_model
from imgcls.training import ClassificationLoss
from imgcls.training.divergence import FiniteLossWatch

CUDA = torch.device("cuda")


def step(network: nn.Module, config: Any, *, batch_size: int = 4, classes: int = 1000) -> Meter:
    """Run what a step does besides backward and the optimizer, which have no fake kernels: they are left out."""
    size, channels = config.image_size, config.data.channels
    augment = Augment(build_augmentations(config.augment.batch), **input_statistics(config), seed=config.seed)
    for augmentation in augment.after:
        if isinstance(augmentation, RandomErasing):
            # CUDA's generator has no fake: noise of the same shape and device stands in.
            augmentation.prepare = lambda *epoch: None
            with CUDA:
                augmentation.noise = torch.zeros((64, size, size, channels))
    loss, meter, watch = ClassificationLoss(label_smoothing=0.1), Meter(CUDA), FiniteLossWatch()
    images = torch.zeros((batch_size, size, size, channels), dtype=torch.uint8, device=CUDA)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=CUDA)
    for number in (1, 2):
        pixels, targets = augment(images, labels, labels, epoch=0, num_classes=classes)
        output = loss(network(pixels), targets)
        meter.update(output.loss, output.logits, labels)
        watch.update(output.loss.detach(), step=number)
    return meter


NETWORKS = ["lenet5", "alexnet", "vgg16", "vgg16_bn", "googlenet", "resnet18", "resnet50"]


@pytest.mark.parametrize(
    "model, recipe",
    [
        ("lenet5", "own"),
        ("resnet18", "own"),
        ("resnet18", "modern"),
        ("resnet18", "by name"),
        *[
            pytest.param(model, "own", marks=pytest.mark.e2e)
            for model in NETWORKS
            if model not in ("lenet5", "resnet18")
        ],
        *[pytest.param(model, "modern", marks=pytest.mark.e2e) for model in NETWORKS if model != "resnet18"],
    ],
)
def test_a_step_never_waits_for_the_device(model: str, recipe: str) -> None:
    more = {
        "own": [],
        "modern": ["recipe=modern"],
        "by name": [
            "augment=three_augment",
            *(f"augment.batch.{name}.probability=0.5" for name in ("grayscale", "blur")),
        ],
    }
    words = [f"model={model}", "data=imagenet", *more[recipe]]
    config = compose([*words, *(["data.channels=1", "data.mean=[0.5]", "data.std=[0.5]"] * (model == "lenet5"))])
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        network = build_model(config, num_classes=1000).train()
        sums = step(network, config).sums
        assert sums.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):  # the mode does notice a read
            sums.sum().item()
