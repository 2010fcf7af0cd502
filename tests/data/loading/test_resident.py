"""A set kept on the device gives the very batches that the CPU would have copied."""

import numpy as np
import pytest
import torch

from imgcls.data.augment import Crop, Pad, PadCrop, RandomResizedCrop, Whole
from imgcls.data.decoding import only_copies
from imgcls.data.loading import Batch, Loader, Resident, make_resident, resident
from imgcls.data.sets import ArraySplit


def array_split(channels: int) -> ArraySplit:
    draws = np.random.default_rng(0)
    return ArraySplit(draws.integers(0, 256, (50, 12, 12, channels), np.uint8), np.arange(50) % 10)


def make(split: ArraySplit, crop: Crop, image_size: int, *, on_device: bool, **changes: object) -> Loader:
    settings = {"batch_size": 8, "seed": 3, "shuffle": True, "flip": 0.5, "channels": split.images.shape[3]}
    made = Loader(split, crop, image_size=image_size, num_threads=1, **(settings | changes))
    if on_device:
        assert only_copies(split.images, made.plan)
        made.resident = Resident(split.images, split.labels, made.plan, torch.device("cpu"))
    return made


def all_of(one: Loader, epoch: int, start: int = 0) -> list[Batch]:
    return [Batch(*(tensor.clone() for tensor in batch)) for batch in one.epoch(epoch, start=start)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "crop, image_size",
    [(Whole(), 12), (Pad(2), 16), (PadCrop(3), 12), (PadCrop(0), 12)],
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"balanced": True},
        {"world_size": 4, "rank": 2},
        {"shuffle": False, "flip": 0.0},
        {"shuffle": False, "world_size": 4, "rank": 3},
    ],
    ids=["alone", "balanced", "a rank", "validation", "a rank's validation"],
)
def test_batches_gathered_on_the_device_are_those_copied_on_the_cpu(crop, image_size, channels, changes):
    split = array_split(channels)
    one, other = (make(split, crop, image_size, on_device=on, **changes) for on in (True, False))
    for epoch, start in ((0, 0), (1, 2), (2, 7)):
        gathered, copied = all_of(one, epoch, start), all_of(other, epoch, start)
        assert len(gathered) == len(copied)
        for left, right in zip(gathered, copied, strict=True):
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("crop, image_size", [(RandomResizedCrop(), 12), (Whole(), 16), (Pad(1), 16), (PadCrop(), 8)])
def test_crops_that_resample_stay_on_the_cpu(crop, image_size):
    split = array_split(3)
    assert not only_copies(split.images, make(split, crop, image_size, on_device=False).plan)


def test_a_set_is_put_on_a_gpu_only_where_it_takes_little_of_the_memory(monkeypatch):
    split = array_split(3)
    plan = make(split, Whole(), 12, on_device=False).plan
    monkeypatch.setattr(resident, "Resident", lambda images, labels, plan, device: "there")
    for free, where in ((split.images.nbytes * 9, None), (split.images.nbytes * 11, "there")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert make_resident(split, plan, torch.device("cuda")) == where
    assert make_resident(split, plan, torch.device("cpu")) is None


@pytest.mark.gpu
def test_batches_of_a_small_set_on_a_gpu_are_those_on_the_cpu():
    split = array_split(3)
    on_gpu = make(split, PadCrop(3), 12, on_device=False, device="cuda")
    assert on_gpu.resident is not None
    copied = all_of(make(split, PadCrop(3), 12, on_device=False), 0)
    for left, right in zip(all_of(on_gpu, 0), copied, strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(left, right, strict=True))
