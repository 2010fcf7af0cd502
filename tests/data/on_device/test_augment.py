"""Batches on the device are changed as by torchvision and by the papers' formulae, and alike in any batch."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from imgcls.config import compose
from imgcls.data.augment import keyed_random
from imgcls.data.on_device import (
    PCA_AXES,
    PCA_SCALES,
    Augment,
    AugmentedBatch,
    BatchAugmentation,
    ColourJitter,
    GaussianBlur,
    Mix,
    Normalise,
    PcaShift,
    RandomErasing,
    RandomGrayscale,
    ThreeAugment,
    build_augmentations,
    turn_hue,
)
from imgcls.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def batch(num: int = 16, size: int = 20, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, size, size, 3), dtype=torch.uint8, generator=generator)
    return images, torch.arange(num) % 10, torch.arange(num) + 100


def applied(
    images: Tensor, labels: Tensor, indices: Tensor, *augmentations: BatchAugmentation, epoch: int = 0, **settings
) -> AugmentedBatch:
    one = Augment(augmentations, **({"mean": MEAN, "std": STD, "seed": 5} | settings))
    return one(images, labels, indices, epoch=epoch, num_classes=10)


def scaled(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def test_normalising_is_torchvisions():
    images, *_ = batch()
    expected = reference.normalize(scaled(images), list(MEAN), list(STD))
    out = Normalise(MEAN, STD)(images)
    assert torch.allclose(out, expected, atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_without_settings_augmenting_is_normalising():
    images, labels, indices = batch()
    out = applied(images, labels, indices)
    assert torch.equal(out.images, Normalise(MEAN, STD)(images))
    assert torch.equal(out.targets, labels)


EVERYTHING = (
    ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    PcaShift(0.1),
    RandomErasing(0.5),
)


def test_an_image_gets_the_same_changes_in_any_batch():
    images, labels, indices = batch()
    together = applied(images, labels, indices, *EVERYTHING, epoch=3).images
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))[:5]
    alone = applied(images[order], labels[order], indices[order], *EVERYTHING, epoch=3).images
    assert torch.allclose(alone, together[order], atol=1e-6)
    assert not torch.allclose(applied(images, labels, indices, *EVERYTHING, epoch=4).images, together, atol=0.01)
    assert not torch.allclose(
        applied(images, labels, indices, *EVERYTHING, epoch=3, seed=6).images, together, atol=0.01
    )


def test_global_random_state_is_neither_used_nor_touched():
    augmentations = (*EVERYTHING, Mix(mixup=0.2, cutmix=1.0))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = applied(*batch(), *augmentations)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    two = applied(*batch(), *augmentations)
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.targets, two.targets)


@pytest.mark.parametrize(
    "name, operation, column",
    [
        ("brightness", reference.adjust_brightness, 0),
        ("contrast", reference.adjust_contrast, 1),
        ("saturation", reference.adjust_saturation, 2),
    ],
)
def test_a_colour_factor_does_what_torchvisions_does(name, operation, column):
    images, labels, indices = batch()
    out = applied(images, labels, indices, ColourJitter(**{name: 0.5}), **PLAIN).images
    draws = keyed_random.uniforms(5, 0, indices.numpy(), 8, stream=keyed_random.COLOUR)[:, column]
    factors = 1 + 0.5 * (2 * draws - 1)
    assert factors.min() < 0.7
    assert factors.max() > 1.3
    for image, changed, factor in zip(scaled(images), out, factors, strict=True):
        assert torch.allclose(changed, operation(image, float(factor)), atol=2e-3)  # torchvision rounds its weights


@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.0, 0.1, 0.5])
def test_turning_the_hue_is_torchvisions(turn):
    images = torch.cat([scaled(batch()[0]), torch.full((1, 3, 20, 20), 0.4)])  # a grey image has no hue to turn
    out = turn_hue(images, torch.full((17, 1, 1), turn))
    assert torch.allclose(out, reference.adjust_hue(images, turn), atol=1e-5)


def test_the_colour_shift_has_the_papers_covariance():
    """Krizhevsky et al. 2012, section 4.1: the shift's covariance is that of the pixels, times the strength squared."""
    num = 20_000
    images = torch.full((num, 1, 1, 3), 128, dtype=torch.uint8)
    out = applied(images, torch.zeros(num).long(), torch.arange(num), PcaShift(0.1), **PLAIN).images
    shift = (out - 128 / 255).flatten(1).numpy()
    axes, scales = np.array(PCA_AXES), np.array(PCA_SCALES)
    expected = axes @ np.diag(scales**2) @ axes.T * 0.01
    assert np.allclose(axes.T @ axes, np.eye(3), atol=2e-3)
    assert np.abs(np.cov(shift.T) - expected).max() < 0.05 * expected.max()
    assert np.abs(shift.mean(axis=0)).max() < 5 * np.sqrt(expected.max() / num)


def test_the_colour_shift_is_one_for_all_pixels_of_an_image():
    images, labels, indices = batch()
    shift = applied(images, labels, indices, PcaShift(0.5), **PLAIN).images - scaled(images)
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-6)
    assert (shift[:, :, 0, 0].abs().sum(dim=1) > 0).all()


def test_erasing_puts_noise_into_a_box_of_the_papers_size_in_the_share_of_images_that_probability_says():
    num = 2000
    images = torch.zeros((num, 32, 32, 3), dtype=torch.uint8)
    out = applied(images, torch.zeros(num).long(), torch.arange(num), RandomErasing(0.25), **PLAIN).images
    erased = (out != 0).all(dim=1)
    hit = erased.flatten(1).any(dim=1)
    assert abs(hit.float().mean() - 0.25) < 0.05
    boxes = erased[hit]
    areas = boxes.flatten(1).float().mean(dim=1)
    assert areas.min() > 0.01
    assert areas.max() < 0.37
    assert 0.13 < areas.mean() < 0.20
    rows, columns = boxes.any(dim=2), boxes.any(dim=1)
    assert torch.equal(rows.sum(dim=1) * columns.sum(dim=1), boxes.flatten(1).sum(dim=1))  # rectangles
    noise = out.permute(0, 2, 3, 1)[erased]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 2.0])
def test_mixing_shares_are_beta(alpha):
    num = 40_000
    draws = torch.linspace(0, 1, num + 2)[1:-1]
    ours = np.sort(Mix(mixup=alpha).beta(alpha, draws).numpy())
    theirs = np.sort(np.random.default_rng(0).beta(alpha, alpha, num))
    at = np.linspace(0.001, 0.999, 999)
    gap = np.abs(np.searchsorted(ours, at) - np.searchsorted(theirs, at)).max() / num
    assert gap < 1.95 / np.sqrt(num)  # Kolmogorov-Smirnov: one in a thousand is above


def test_mixup_blends_images_and_targets_alike():
    images, labels, indices = batch()
    out = applied(images, labels, indices, Mix(mixup=1.0), **PLAIN)
    assert torch.allclose(out.targets.sum(dim=1), torch.ones(16))
    for i in range(16):
        share = out.targets[i, labels[i]]
        expected = share * scaled(images)[i] + (1 - share) * scaled(images)[i - 1]
        assert torch.allclose(out.images[i], expected, atol=1e-5)
    assert out.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.2, 1, 3, 8])
def test_shares_have_the_moments_of_their_beta_distribution(alpha):
    draws = (torch.arange(100_000) + 0.5) / 100_000
    shares = Mix(mixup=alpha).beta(alpha, draws).double()
    assert shares.mean().item() == pytest.approx(0.5, abs=1e-4)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=2e-3)
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    assert ((shares - 0.5) ** 4).mean().item() == pytest.approx(fourth, rel=1e-2)


def test_cutmix_pastes_a_box_and_the_target_follows_its_area():
    images, labels, indices = batch(size=30)
    out = applied(images, labels, indices, Mix(cutmix=1.0), **PLAIN)
    shares = []
    for i in range(16):
        own = (out.images[i] == scaled(images)[i]).all(dim=0)
        other = (out.images[i] == scaled(images)[i - 1]).all(dim=0)
        assert (own | other).all()
        box = ~own
        assert box.any(dim=0).sum() * box.any(dim=1).sum() == box.sum()
        shares.append(own.float().mean().item())
        assert out.targets[i, labels[i]].item() == pytest.approx(shares[-1], abs=1e-5)
        assert out.targets[i, labels[i - 1]].item() == pytest.approx(1 - shares[-1], abs=1e-5)
    assert min(shares) < 0.5
    assert max(shares) > 0.9


def test_with_both_half_of_the_images_are_mixed_and_half_cut():
    num = 400
    images = torch.zeros((num, 8, 8, 3), dtype=torch.uint8)
    images[1::2] = 255
    out = applied(images, torch.arange(num) % 2, torch.arange(num), Mix(mixup=1.0, cutmix=1.0), **PLAIN)
    blended = ((out.images > 0.001) & (out.images < 0.999)).flatten(1).any(dim=1)
    assert 0.35 < blended.float().mean() < 0.65


def test_grey_images_skip_colour_and_are_mixed():
    images = torch.randint(0, 256, (8, 12, 12, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = Augment([PcaShift(0.1), ColourJitter(hue=0.1), Mix(mixup=0.2)], mean=[0.1307], std=[0.3081], seed=0)
    out = one(images, torch.arange(8), torch.arange(8), epoch=0, num_classes=10)
    assert out.images.shape == (8, 1, 12, 12)
    assert out.targets.shape == (8, 10)


@pytest.mark.parametrize(
    "override, message",
    [
        ("augment.batch.colour.brightness=1.5", r"colour: brightness=1\.5 is out of range; use 0 \(off\) to 1"),
        ("augment.batch.colour.hue=0.7", r"augment\.batch\.colour: hue=0\.7 is out of range; use 0 \(off\) to 0\.5"),
        ("augment.batch.pca.std=-1", r"augment\.batch\.pca: std=-1 is out of range; use 0 \(off\) to inf"),
        ("augment.batch.mix.mixup=-1.0", r"augment\.batch\.mix: mixup=-1\.0 is out of range"),
        ("augment.batch.mix.mixup=11.0", r"mixup=11\.0 is out of range; use 0 \(off\) to 8"),
        ("augment.batch.mix.cutmix=11.0", r"cutmix=11\.0 is out of range; use 0 \(off\) to 8"),
        ("augment.batch.erasing.probability=2.0", r"augment\.batch\.erasing: probability=2\.0 is out of range"),
        ("+augment.batch.mix.alpha=1", r"augment\.batch\.mix\.alpha=1: .*Mix takes no alpha"),
        ("augment.batch.mix._target_=os.system", r"augment\.batch\.mix\._target_=os\.system is not allowed"),
        ("+augment.batch.own.sigma=1", r"augment\.batch\.own=.* has no _target_"),
    ],
)
def test_settings_out_of_range_are_refused_by_their_key(override, message):
    with pytest.raises(ConfigError, match=message):
        build_augmentations(compose([override]).augment.batch)


def test_the_config_builds_the_augmentations_in_the_order_they_are_applied():
    built = build_augmentations(compose(["augment=modern", "augment.batch.pca.std=0.2"]).augment.batch)
    later = [ColourJitter, RandomGrayscale, GaussianBlur, PcaShift, RandomErasing, Mix]
    assert [type(one) for one in built] == [ThreeAugment, *later]
    assert [built[4].std, built[5].probability, built[6].mixup, built[6].cutmix] == [0.2, 0.1, 0.2, 1.0]


def test_an_erased_image_gets_other_noise_in_each_epoch_and_the_same_if_asked_again():
    images, labels, indices = batch(num=64)
    one = Augment([RandomErasing(1.0)], **PLAIN, seed=0)
    epochs = [one(images, labels, indices, epoch=epoch, num_classes=10).images for epoch in (0, 1, 0)]
    assert torch.equal(epochs[0], epochs[2])
    noise = epochs[0][(epochs[0] < 0) | (epochs[0] > 1)]
    assert len(noise.unique()) > 0.4 * len(noise)  # 64 images share some of 64 images of noise
    erased_twice = (epochs[0] != scaled(images)) & (epochs[1] != scaled(images))
    assert erased_twice.any()
    assert (epochs[0] != epochs[1])[erased_twice].float().mean() > 0.999


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"std": (0.1, 0.0, 0.1)}, r"data\.std=.*std above 0"),
        ({"mean": (0.1,)}, r"data\.mean=\[0\.1\].*one number for each channel"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_with_the_way_out(settings, message):
    with pytest.raises(ValueError, match=message):
        applied(*batch(), **settings)


def test_another_number_of_channels_than_the_mean_has_is_refused():
    with pytest.raises(ValueError, match=r"data\.mean has 1 values but images have 3 channels"):
        Normalise([0.1], [0.2])(batch()[0])
