"""TrivialAugment and RandAugment: torchvision's operations and strengths, drawn by key."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from imgcls.data.augment import (
    OPERATIONS,
    STEPS,
    RandAugment,
    TrivialAugment,
    keyed_random,
    make_policy,
    operate,
    policies,
)
from imgcls.data.augment.policies import _narrow, _sign, _wide

THEIR_NAMES = dict(
    zip(
        OPERATIONS,
        ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
         "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"],
        strict=True,
    )
)  # fmt: skip
WIDE = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)
NARROW = v2.RandAugment(interpolation=InterpolationMode.BILINEAR)


def photo(width: int = 96, height: int = 64) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


def strength(space: v2.Transform, name: str, step: int) -> tuple[float, bool]:
    magnitudes, signed = space._AUGMENTATION_SPACE[THEIR_NAMES[name]]
    table = magnitudes(STEPS + 1, 64, 96)
    return (0.0 if table is None else float(table[step])), signed


def test_there_are_as_many_operations_as_in_torchvision():
    assert set(THEIR_NAMES.values()) == set(WIDE._AUGMENTATION_SPACE) == set(NARROW._AUGMENTATION_SPACE)


@pytest.mark.parametrize("step", [0, 9, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_strengths_are_torchvisions(name, step):
    wide, signed = strength(WIDE, name, step)
    assert _wide(name, step / STEPS) == pytest.approx(wide, abs=1e-4)
    assert (_sign(name, 0.1) == -1) == signed
    assert _narrow(name, step / STEPS, 96, 64) == pytest.approx(strength(NARROW, name, step)[0], abs=1e-4)


@pytest.mark.parametrize("step", [0, 9, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_torchvisions(name, step):
    amount, signed = strength(WIDE, name, step)
    for sign in (1, -1) if signed else (1,):
        expected = WIDE._apply_image_or_video_transform(
            photo(), THEIR_NAMES[name], sign * amount, WIDE.interpolation, WIDE._fill
        )
        ours = operate(photo(), name, sign * _wide(name, step / STEPS))
        difference = np.abs(np.asarray(ours).astype(int) - np.asarray(expected))
        assert difference.max() <= 1  # the shear's tangent of an arc tangent rounds
        assert difference.mean() < 0.02


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", [TrivialAugment(), RandAugment(3, 15)])
def test_a_policy_changes_pixels_in_place_as_the_draws_say(policy, channels):
    before = np.asarray(photo(32, 32))[..., :channels].copy()
    results = []
    for draws in keyed_random.uniforms(0, 0, np.arange(60), policy.num_draws):
        one, two = before.copy(), before.copy()
        policy(one, draws)
        policy(two, draws)
        assert np.array_equal(one, two)
        results.append(one.tobytes())
    assert len(set(results)) > 20


def test_every_operation_and_strength_is_drawn_equally_often(monkeypatch):
    seen: list[tuple[str, float]] = []
    monkeypatch.setattr(policies, "operate", lambda image, name, amount: seen.append((name, amount)) or image)
    pixels = np.zeros((4, 4, 3), np.uint8)
    for draws in keyed_random.uniforms(0, 0, np.arange(14_000), 3):
        TrivialAugment()(pixels, draws)
    counts = np.array([sum(name == one for one, _ in seen) for name in OPERATIONS])
    assert np.abs(counts - 1000).max() < 150
    turns = [amount for name, amount in seen if name == "rotate"]
    assert len(set(turns)) == 61
    assert abs(np.mean(turns)) < 12


def test_policies_are_made_by_name():
    assert make_policy(None) is None
    assert make_policy("trivialaugment") == TrivialAugment()
    assert make_policy("randaugment", ops=3, magnitude=12) == RandAugment(3, 12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: make_policy("autoaugment"), r"augment\.policy='autoaugment' is not known; use trivialaugment"),
        (lambda: RandAugment(0, 9), r"augment\.policy_ops=0; use 1 or more"),
        (lambda: RandAugment(2, 31), r"augment\.policy_magnitude=31 is out of range; use 0 to 30"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()
