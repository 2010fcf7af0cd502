"""AugMix: chains of the paper's operations, mixed with the image by the paper's weights, drawn by key."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from imgcls.data.augment import AugMix, augmix, keyed_random, make_policy

THEIRS = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "posterize": "Posterize",
    "rotate": "Rotate",
    "solarize": "Solarize",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
}


def photo(channels: int = 3, side: int = 32) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BILINEAR))[..., :channels].copy()


def draws(num: int, policy: AugMix) -> np.ndarray:
    return keyed_random.uniforms(0, 0, np.arange(num), policy.num_draws, stream=keyed_random.POLICY)


def test_the_operations_are_torchvisions_without_those_of_the_corruptions():
    assert {THEIRS[name] for name in augmix.OPERATIONS} == set(v2.AugMix._PARTIAL_AUGMENTATION_SPACE)
    signed = {name for name, (_, signed) in v2.AugMix._PARTIAL_AUGMENTATION_SPACE.items() if signed}
    assert {THEIRS[name] for name in augmix.SIGNED} == signed


@pytest.mark.parametrize("name", augmix.OPERATIONS)
def test_strengths_of_the_whole_range_are_torchvisions_but_for_whole_numbers(name):
    magnitudes, _ = v2.AugMix._PARTIAL_AUGMENTATION_SPACE[THEIRS[name]]
    table = magnitudes(10, 96, 96)
    for step in (0, 9):
        theirs = 0.0 if table is None else float(table[step])
        assert augmix._amount(name, step / 9, 96, 96) == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_mixed_with_its_chains_as_the_draws_say(channels):
    policy, before, shown = AugMix(ops=2, magnitude=8), photo(channels), set()
    for numbers in draws(30, policy):
        one, two = before.copy(), before.copy()
        policy(one, numbers)
        policy(two, numbers)
        assert np.array_equal(one, two)
        shown.add(one.tobytes())
        chains = numbers[1:].reshape(2, -1)
        shares = np.log(1 - chains[:, 0]) / np.log(1 - chains[:, 0]).sum() * (1 - numbers[0])
        image = Image.fromarray(before[..., 0] if channels == 1 else before)
        parts = [np.asarray(policy.run_chain(image, chain[1:]), float).reshape(before.shape) for chain in chains]
        expected = numbers[0] * before + shares[0] * parts[0] + shares[1] * parts[1]
        assert np.abs(one - expected).max() <= 0.51  # rounded once
    assert len(shown) == 30


def test_chains_have_one_to_three_operations_of_all_kinds_and_both_signs(monkeypatch):
    seen: list[tuple[str, float]] = []
    monkeypatch.setattr(augmix, "operate", lambda image, name, amount: seen.append((name, amount)) or image)
    policy = AugMix()
    lengths = []
    for numbers in draws(3000, policy):
        before = len(seen)
        policy.run_chain(Image.new("RGB", (96, 96)), numbers[2:12])
        lengths.append(len(seen) - before)
    assert np.abs(np.bincount(lengths)[1:] - 1000).max() < 120
    names = [name for name, _ in seen]
    assert np.abs(np.array([names.count(name) for name in augmix.OPERATIONS]) - 6000 / 9).max() < 100
    turns = np.array([amount for name, amount in seen if name == "rotate"])
    assert np.abs(turns).max() == 8  # 30 degrees times 0.3, cut to a whole number
    assert abs((turns < 0).mean() - (turns > 0).mean()) < 0.1


def test_the_weights_of_three_chains_are_dirichlet_and_the_images_share_even():
    policy = AugMix()
    numbers = draws(20_000, policy)
    chains = -np.log(1 - numbers[:, 1:].reshape(len(numbers), 3, -1)[:, :, 0])
    weights = chains / chains.sum(axis=1, keepdims=True)
    assert np.abs(weights.mean(axis=0) - 1 / 3).max() < 0.01
    assert np.abs(weights.var(axis=0) - 1 / 18).max() < 0.002  # of Dirichlet(1, 1, 1)
    assert numbers[:, 0].mean() == pytest.approx(0.5, abs=0.01)


def test_augmix_is_made_by_its_name_with_its_papers_numbers():
    assert make_policy("augmix") == AugMix(ops=3, magnitude=3)
    assert make_policy("augmix", ops=1, magnitude=10) == AugMix(1, 10)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AugMix(0), r"augment\.policy_ops=0; use 1 or more chains"),
        (lambda: AugMix(3, 11), r"augment\.policy_magnitude=11 is out of range; use 1 to 10 for augmix"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()
