"""The keyed random numbers: uniform, independent, and the same everywhere."""

import numpy as np
import pytest
import torch

from imgcls.data.augment import keyed_random
from imgcls.data.on_device import epoch_numbers, uniforms_on_device

INDICES = np.arange(40_000)
PINNED = [0.3046399402371276, 0.2932267858453438]
PINNED_ORDER = [7, 2, 0, 4, 5, 3, 1, 6]


def test_numbers_are_uniform_in_the_unit_interval():
    draws = keyed_random.uniforms(3, 1, INDICES, 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.stack([np.histogram(column, bins=64, range=(0, 1))[0] for column in draws.T])
    chi2 = ((counts - 625) ** 2 / 625).sum(axis=1)
    assert (chi2 < 120).all()  # 63 degrees of freedom: one in 50,000 is above


@pytest.mark.parametrize("other", [(4, 1, 0), (3, 2, 0), (3, 1, 5)], ids=["seed", "epoch", "stream"])
def test_numbers_of_another_key_are_independent(other):
    seed, epoch, stream = other
    one = keyed_random.uniforms(3, 1, INDICES, 3)
    two = keyed_random.uniforms(seed, epoch, INDICES, 3, stream=stream)
    both = np.corrcoef(np.hstack([one, two]).T)
    assert np.abs(both - np.eye(6)).max() < 0.025  # five standard errors


def test_neighbouring_samples_are_independent():
    draws = keyed_random.uniforms(0, 0, INDICES, 2)
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(draws[lag:, 0], draws[:-lag, 0])[0, 1]) < 0.025
        assert abs(np.corrcoef(draws[lag:, 0], draws[:-lag, 1])[0, 1]) < 0.025


def test_a_sample_gets_its_numbers_in_any_batch():
    together = keyed_random.uniforms(7, 2, INDICES[:100], 5, stream=1)
    alone = keyed_random.uniforms(7, 2, np.array([42]), 3, stream=1)
    assert np.array_equal(together[42, :3], alone[0])


def test_torch_gives_numpys_numbers():
    indices = np.array([0, 1, 1_281_166, 2**40])
    for seed in (0, -1, 2**63 + 5):
        ours = keyed_random.uniforms(seed, 9, indices, 6, stream=2)
        numbers = epoch_numbers(seed, 9, torch.device("cpu"))
        assert np.array_equal(uniforms_on_device(numbers, torch.from_numpy(indices), 6, stream=2).numpy(), ours)


def test_the_numbers_never_change_between_versions():
    # A run that is resumed by a later version must go on with the same numbers.
    assert keyed_random.uniforms(1, 2, np.array([3]), 2, stream=4)[0].tolist() == PINNED
    assert keyed_random.permutation(8, 1, 2).tolist() == PINNED_ORDER


def test_each_epoch_is_another_permutation():
    orders = [keyed_random.permutation(1000, 5, epoch) for epoch in range(3)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[2], keyed_random.permutation(1000, 5, 2))
