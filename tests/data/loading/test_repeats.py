"""Repeated augmentation: the same images several times in a batch, each time in another way, in exact counts."""

import numpy as np
import pytest
import torch

from imgcls.config import compose
from imgcls.data.augment import Whole
from imgcls.data.augment.keyed_random import balanced_order, permutation, repeated_order
from imgcls.data.loading import Loader
from imgcls.data.sets import ArraySplit
from imgcls.errors import ConfigError

NUM = 50
LABELS = np.array([0] * 40 + [1] * 10)


def make_loader(**settings: object) -> Loader:
    images = np.random.default_rng(0).integers(0, 255, (NUM, 8, 8, 3), np.uint8)
    common = {"image_size": 8, "batch_size": 8, "seed": 0, "shuffle": True, "repeats": 3}
    return Loader(ArraySplit(images, LABELS), Whole(), **(common | settings))  # type: ignore[arg-type]


def orders(loader: Loader, epoch: int = 3, start: int = 0) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader.epoch(epoch, start=start)]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("batch_size, repeats", [(8, 3), (8, 8), (9, 3), (12, 2), (5, 4)])
def test_a_batch_has_as_few_images_as_the_repeats_allow_each_as_often(batch_size, repeats, balanced):
    batches = orders(make_loader(batch_size=batch_size, repeats=repeats, balanced=balanced))
    assert len(batches) == NUM // batch_size
    different = -(-batch_size // repeats)
    for batch in batches:
        first = [index % NUM for index in batch[:different]]
        assert [index % NUM for index in batch] == (first * repeats)[:batch_size]  # in turn: never beside itself
    everything = [index for batch in batches for index in batch]
    assert len(set(everything)) == len(everything)  # each time drawn by another key
    if not balanced:
        assert len({index % NUM for index in everything}) == len(batches) * different


def test_once_is_the_order_without_repeats():
    order = permutation(NUM, 0, 3)[:48]
    assert np.array_equal(repeated_order(order, 1, num=NUM, batch_size=8), order)
    assert orders(make_loader(repeats=1)) == order.reshape(-1, 8).tolist()


def test_a_balanced_epoch_stays_balanced():
    order = repeated_order(balanced_order(LABELS, 24, 0, 1), 2, num=NUM, batch_size=8)
    assert np.bincount(LABELS[order % NUM]).tolist() == [24, 24]
    assert len(set(order.tolist())) == 48


def test_ranks_share_the_batches_and_a_resumed_epoch_goes_on_in_it():
    whole = orders(make_loader())
    assert orders(make_loader(), start=2) == whole[2:]
    ranks = [orders(make_loader(rank=rank, world_size=2)) for rank in range(2)]
    assert [one + other for one, other in zip(*ranks, strict=True)] == whole


def test_each_time_is_augmented_in_another_way():
    loader = make_loader(flip=0.5)
    (batch, *_) = [[tensor.clone() for tensor in batch] for batch in loader.epoch(0)]
    images, _, indices = batch
    ways = {}
    for image, index in zip(images, (indices % NUM).tolist(), strict=True):
        ways.setdefault(index, set()).add(image.numpy().tobytes())
    assert max(len(each) for each in ways.values()) == 2
    assert torch.equal(batch[1], torch.from_numpy(LABELS)[indices % NUM])


def test_more_repeats_than_images_of_a_batch_are_refused():
    with pytest.raises(ConfigError, match=r"augment\.repeats=9 is more than batch_size=8"):
        compose(["augment.repeats=9", "batch_size=8"])
    with pytest.raises(ConfigError, match=r"augment\.repeats=0 is too small; use at least 1"):
        compose(["augment.repeats=0"])
