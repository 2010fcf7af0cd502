"""Gray, blur and 3-Augment change what they say, as torchvision does, image by image, and nothing by default."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from imgcls.config import compose
from imgcls.data.augment import keyed_random
from imgcls.data.on_device import (
    Augment,
    BatchAugmentation,
    GaussianBlur,
    RandomGrayscale,
    ThreeAugment,
    blur,
    build_augmentations,
)
from imgcls.errors import ConfigError


def pixels(num: int = 24, height: int = 20, width: int = 26, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, height, width, channels), dtype=torch.uint8, generator=generator)


def scaled(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def applied(images: Tensor, *augmentations: BatchAugmentation, first: int = 0) -> Tensor:
    channels = images.shape[3]
    one = Augment(augmentations, mean=[0.0] * channels, std=[1.0] * channels, seed=5)
    indices = torch.arange(len(images)) + first
    return one(images, torch.zeros(len(images)).long(), indices, epoch=2, num_classes=10).images


@pytest.mark.parametrize("sigma", [0.1, 0.6, 2.0])
@pytest.mark.parametrize("shape", [(40, 51), (9, 33)], ids=["larger than the kernel", "hardly larger"])
def test_blur_is_torchvisions_with_a_kernel_of_four_sigma(sigma, shape):
    images = scaled(pixels(3, *shape))
    reach = min(max(1, int(4 * sigma)), min(shape) - 1)
    expected = reference.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)
    out = blur(images, torch.full((3,), sigma))
    assert torch.allclose(out, expected, atol=2e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_each_image_has_a_blur_of_its_own_and_a_plain_image_stays_plain():
    sigma = torch.tensor([0.1, 1.0, 2.0])
    images = scaled(pixels(3))
    for number in range(3):
        alone = blur(images[number : number + 1], sigma[number : number + 1])
        assert torch.allclose(blur(images, sigma)[number : number + 1], alone, atol=1e-6)
    plain = torch.full((3, 3, 12, 12), 0.3)
    assert torch.allclose(blur(plain, sigma), plain, atol=1e-6)


def test_blur_is_drawn_by_key_in_its_range_for_the_share_of_images_that_probability_says():
    images = pixels(600, 12, 12)
    out = applied(images, GaussianBlur(0.4, (0.5, 1.5)))
    draws = keyed_random.uniforms(5, 2, torch.arange(600).numpy(), 2, stream=keyed_random.BLUR)
    changed = (out != scaled(images)).flatten(1).any(dim=1)
    assert changed.tolist() == (draws[:, 0] < 0.4).tolist()
    assert 0.33 < changed.float().mean() < 0.47
    expected = blur(scaled(images), torch.tensor(0.5 + draws[:, 1]).float())
    assert torch.allclose(out[changed], expected[changed], atol=1e-6)


def test_gray_is_torchvisions_for_the_share_of_images_that_probability_says():
    images = pixels(600, 6, 6)
    out = applied(images, RandomGrayscale(0.2))
    gray = (out == out[:, :1]).flatten(1).all(dim=1)
    assert 0.14 < gray.float().mean() < 0.26
    assert torch.equal(out[~gray], scaled(images)[~gray])
    expected = reference.rgb_to_grayscale(scaled(images), num_output_channels=3)
    assert torch.allclose(out[gray], expected[gray], atol=2e-3)  # torchvision rounds its weights


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_three_augment_makes_a_third_gray_a_third_solarised_and_a_third_blurred(probability):
    num = 900
    images = pixels(num, 12, 12)
    out, before = applied(images, ThreeAugment(probability)), scaled(images)
    solarised = reference.solarize(images.permute(0, 3, 1, 2), 128).float() / 255
    kinds = {
        "gray": (out == out[:, :1]).flatten(1).all(dim=1),
        "solarised": torch.isclose(out, solarised, atol=1e-6).flatten(1).all(dim=1),
        "unchanged": (out == before).flatten(1).all(dim=1),
    }
    counts = {name: int(kind.sum()) for name, kind in kinds.items()}
    assert abs(counts["gray"] - probability * num / 3) < 60
    assert abs(counts["solarised"] - probability * num / 3) < 60
    assert counts["unchanged"] >= num * (0.43 if probability < 1 else 0)
    blurred = ~(kinds["gray"] | kinds["solarised"] | kinds["unchanged"])
    sigma = 0.1 + 1.9 * keyed_random.uniforms(5, 2, torch.arange(num).numpy(), 3, stream=keyed_random.THREE_AUGMENT)
    expected = blur(before, torch.tensor(sigma[:, 2]).float())
    assert torch.allclose(out[blurred], expected[blurred], atol=1e-6)
    assert blurred.sum() > probability * num / 4


@pytest.mark.parametrize(
    "one", [RandomGrayscale(0.5), GaussianBlur(0.5), ThreeAugment(0.7)], ids=lambda one: type(one).__name__
)
def test_an_image_gets_the_same_changes_in_any_batch_and_others_in_another_epoch(one):
    images = pixels()
    together = applied(images, one)
    assert torch.allclose(applied(images[8:20], one, first=8), together[8:20], atol=1e-6)
    assert not torch.allclose(applied(images, one, first=1), together, atol=0.01)
    assert together.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("one", [GaussianBlur(1.0), ThreeAugment(1.0)], ids=lambda one: type(one).__name__)
def test_gray_images_are_blurred_and_solarised(one):
    images = pixels(channels=1)
    out = applied(images, one)
    assert out.shape == (24, 1, 20, 26)
    assert (out != scaled(images)).flatten(1).any(dim=1).sum() >= 10
    assert torch.equal(applied(images, RandomGrayscale(1.0)), scaled(images))


def test_all_are_off_unless_switched_on_and_come_in_the_papers_order():
    images = pixels()
    assert torch.equal(applied(images, *build_augmentations(compose(["augment=none"]).augment.batch)), scaled(images))
    built = build_augmentations(compose(["augment=three_augment"]).augment.batch)
    names = [type(one).__name__ for one in built]
    assert names[:4] == ["ThreeAugment", "ColourJitter", "RandomGrayscale", "GaussianBlur"]
    assert (built[0].probability, built[1].brightness, built[1].hue) == (1.0, 0.3, 0.0)


@pytest.mark.parametrize(
    "word, message",
    [
        ("augment.batch.blur.sigma=[2,1]", r"augment\.batch\.blur: sigma=\[2, 1\] is not a range; give two numbers"),
        ("augment.batch.blur.sigma=[0,1]", r"augment\.batch\.blur: sigma=\[0, 1\] is not a range"),
        ("augment.batch.blur.sigma=1", r"augment\.batch\.blur\.sigma=1: .*GaussianBlur takes a list, each a number"),
        ("augment.batch.blur.probability=2", r"augment\.batch\.blur: probability=2 is out of range"),
        ("augment.batch.grayscale.probability=-1", r"augment\.batch\.grayscale: probability=-1 is out of range"),
        (
            "augment.batch.blur=0.5",
            r"blur=0\.5 has no _target_; write augment\.batch\.blur\.probability=\.\.\., of which 0",
        ),
        (
            "augment.batch.mix=null",
            r"augment\.batch\.mix=null has no _target_; write augment\.batch\.mix\.mixup=\.\.\.",
        ),
        ("augment.batch.three_augment.probability=3", r"three_augment: probability=3 is out of range"),
    ],
)
def test_settings_out_of_range_are_refused_by_their_key(word, message):
    with pytest.raises(ConfigError, match=message):
        build_augmentations(compose([word]).augment.batch)
