"""The views of each protocol lie where its paper puts them, and what is made of them is their mean."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from imgcls.config import ImageSize
from imgcls.data.augment import CenterCrop, Whole
from imgcls.data.loading import View, view_images
from imgcls.data.sets import ArraySplit
from imgcls.inference import Center, Dense, GoogLeNet144, TenCrop, fully_convolutional, predict_views
from imgcls.models import VGG, AlexNet, GoogLeNet, LeNet5, ResNet

CROP = CenterCrop(short_side=256, at_image_size=224)


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours, so that a pixel's value tells its place."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(rows / 17 + k) * np.cos(columns / 23 - k) for k in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


def shown(pixels: np.ndarray, views: list[View]) -> list[np.ndarray]:
    split = ArraySplit(pixels[None], np.zeros(1))
    (viewed,) = view_images(split, [0], lambda height, width: views, channels=3, num_threads=1)
    return viewed.views


class Mean(nn.Module):
    """Logits that tell colours and mirror images apart."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-1, 1, images.shape[3])
        return torch.cat([images.mean(dim=(2, 3)), (images * ramp).mean(dim=(2, 3))], dim=1) / 10


def prepare(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (256, 256)])
def test_ten_crops_are_those_of_a_hand_made_loop(size: tuple[int, int]) -> None:
    pixels = photo(*size)
    protocol = TenCrop()
    image = torchvision.transforms.functional.resize(Image.fromarray(pixels), 256)
    square = torchvision.transforms.functional.center_crop(image, [256, 256])
    by_hand = torchvision.transforms.functional.ten_crop(square, [224, 224])
    views = shown(pixels, protocol.views(*size, image_size=ImageSize.of(224), crop=CROP))
    assert len(views) == 5
    for ours, theirs in zip(views, by_hand[:5], strict=True):
        assert np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max() <= 1

    probabilities = [Mean()(prepare(torch.from_numpy(np.asarray(crop).copy()[None]))).softmax(1) for crop in by_hand]
    expected = torch.stack(probabilities).mean(dim=0).log()
    viewed = view_images(
        ArraySplit(pixels[None], np.zeros(1)),
        [0],
        lambda height, width: protocol.views(height, width, image_size=ImageSize.of(224), crop=CROP),
        channels=3,
        num_threads=1,
    )
    found = predict_views(
        Mean(), viewed, prepare=prepare, device=torch.device("cpu"), max_pixels=3 * 224 * 224, flip=protocol.flip
    )
    assert torch.allclose(found.log_probs, expected, atol=0.01)
    plain = predict_views(
        Mean(),
        view_images(ArraySplit(pixels[None], np.zeros(1)), [0], lambda *size: [View(0, 0, 256, 256, 224, 224)],
                    channels=3, num_threads=1),
        prepare=prepare, device=torch.device("cpu"), max_pixels=224 * 224,
    )  # fmt: skip
    assert not torch.allclose(plain.log_probs, expected, atol=0.01)  # the crops and the mirror images matter


def test_ten_crops_take_the_whole_image_where_asked() -> None:
    views = TenCrop(of_square=False).views(512, 1024, image_size=ImageSize.of(224), crop=CROP)
    assert views[1] == View(2 * (512 - 224), 0, 1024, 448, 224, 224)
    square = TenCrop().views(512, 1024, image_size=ImageSize.of(224), crop=CROP)
    assert square[1].right == 768


def test_144_crops_are_144_and_where_the_paper_puts_them() -> None:
    protocol = GoogLeNet144()
    views = protocol.views(512, 768, image_size=ImageSize.of(224), crop=CROP)
    assert len(views) * (1 + protocol.flip) == 144
    assert {(view.rows, view.columns) for view in views} == {(224, 224)}
    # The shorter side becomes 256: a square is 512 source pixels, a crop 448, and the squares begin at 0, 128, 256.
    first = views[:18]
    assert [view.left for view in first[5::6]] == [0, 128, 256]
    assert first[5] == View(0, 0, 512, 512, 224, 224)
    assert first[0] == View(0, 0, 448, 448, 224, 224)
    assert first[1] == View(64, 0, 512, 448, 224, 224)
    assert first[3] == View(64, 64, 512, 512, 224, 224)
    assert first[4] == View(32, 32, 480, 480, 224, 224)
    assert first[17] == View(256, 0, 768, 512, 224, 224)
    # At 352 a crop of 224 is 224/352 of the square.
    assert views[-6].right - views[-6].left == pytest.approx(512 * 224 / 352)
    portrait = protocol.views(768, 512, image_size=ImageSize.of(224), crop=CROP)
    assert [view.top for view in portrait[5:18:6]] == [0, 128, 256]
    # The square is resampled from the source in one step, so that it is the same view at all four scales.
    assert len(set(views)) == 72 - 9


def test_views_follow_the_networks_own_size_in_proportion() -> None:
    views = GoogLeNet144().views(256, 256, image_size=ImageSize.of(112), crop=CROP)
    assert views[0] == View(0, 0, 224, 224, 112, 112)
    views = TenCrop().views(256, 256, image_size=ImageSize.of(227), crop=CenterCrop(256, 227))
    assert views[0] == View(0, 0, 227, 227, 227, 227)


def test_a_network_of_rectangles_sees_them_where_the_papers_have_squares() -> None:
    size = ImageSize(224, 112)
    # A frame of 256x128 covers the image of 512x768 at half its size: 320 of 384 columns are beside it.
    views = TenCrop().views(512, 768, image_size=size, crop=CROP)
    assert views[0] == View(256, 0, 256 + 224, 448, 224, 112)
    assert views[3] == View(256 + 32, 64, 512, 512, 224, 112)
    views = GoogLeNet144().views(512, 768, image_size=size, crop=CROP)
    assert views[5:18:6] == [View(left, 0, left + 256, 512, 224, 112) for left in (0, 256, 512)]
    dense = Dense(scales=[448]).views(512, 768, image_size=size, crop=CROP)
    assert dense == [View(0, 0, 768, 512, 448, 672)]
    assert Center().views(30, 50, image_size=size, crop=Whole()) == [View(0, 0, 50, 30, 224, 112)]


def test_center_is_the_crop_of_validation() -> None:
    assert Center().views(30, 50, image_size=ImageSize.of(32), crop=Whole()) == [View(0, 0, 50, 30, 32, 32)]


@pytest.mark.parametrize(
    "build, size",
    [
        pytest.param(lambda: AlexNet(7), 227, id="AlexNet"),
        pytest.param(lambda: VGG(7, column="A"), 224, id="VGG", marks=pytest.mark.e2e),
        pytest.param(lambda: VGG(7, column="A"), 96, id="VGG at 96"),
        pytest.param(lambda: ResNet(7, depth=18), 224, id="ResNet", marks=pytest.mark.e2e),
        pytest.param(lambda: GoogLeNet(7, aux_heads=False), 224, id="GoogLeNet"),
        pytest.param(lambda: LeNet5(7, in_channels=3), 32, id="LeNet5"),
        pytest.param(
            lambda: torchvision.models.alexnet(num_classes=7), 224, id="torchvision's AlexNet", marks=pytest.mark.e2e
        ),
        pytest.param(lambda: torchvision.models.resnet18(num_classes=7), 224, id="torchvision's ResNet"),
    ],
)
@torch.inference_mode()
def test_dense_at_the_training_size_is_the_plain_forward(build: Callable[[], nn.Module], size: int) -> None:
    network = build().eval()
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    dense = fully_convolutional(network)
    assert torch.allclose(dense.eval()(images), network(images), rtol=1e-3, atol=1e-3)
    larger = torch.randn(1, 3, size + 64, size + 96, generator=torch.Generator().manual_seed(0))
    assert dense(larger).shape == (1, 7)


@torch.inference_mode()
def test_dense_is_the_mean_over_windows() -> None:
    # Without padding in its convolutions, a dense pass is the plain forward at every window, averaged.
    network = AlexNet(7).eval()
    dense = fully_convolutional(network)
    for conv in (network.conv2, network.conv3, network.conv4, network.conv5):
        conv.padding = (0, 0)
    images = torch.randn(1, 3, 355, 387)
    network_size = 355  # 6x6 maps before FC6 once nothing is padded
    windows = [network(images[..., :, left : left + network_size]) for left in (0, 32)]
    assert torch.allclose(dense(images), torch.stack(windows).mean(dim=0), atol=1e-4)


def test_dense_shows_the_whole_image_at_each_scale() -> None:
    views = Dense(scales=[256, 384]).views(375, 500, image_size=ImageSize.of(224), crop=CROP)
    assert views == [View(0, 0, 500, 375, 256, 341), View(0, 0, 500, 375, 384, 512)]


def test_dense_refuses_networks_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"VisionTransformer is not known .* protocol=center"):
        fully_convolutional(torchvision.models.vit_b_16(num_classes=2))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Dense(scales=[128]), r"protocol.scales=\[128\].*224 or more"),
        (lambda: GoogLeNet144(scales=[]), r"protocol.scales=\[\]"),
        (lambda: Center(average="softmx"), r"average=softmx is none of softmax, logits \(did you mean softmax\?\)"),
        (
            lambda: TenCrop(short_side=200).views(300, 300, image_size=ImageSize.of(224), crop=CROP),
            "short_side has 200",
        ),
    ],
)
def test_impossible_protocols_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_views_of_several_sizes_are_averaged_by_image() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    views = [View(0, 0, 24, 20, 20, 24), View(0, 0, 24, 20, 10, 12), View(2, 2, 18, 18, 16, 16)]
    split = ArraySplit(images, np.zeros(5))
    stream = view_images(split, range(5), lambda *size: views, channels=3, num_threads=2)
    for average in ("softmax", "logits"):
        stream = view_images(split, range(5), lambda *size: views, channels=3, num_threads=2)
        found = predict_views(
            Mean(), stream, prepare=prepare, device=torch.device("cpu"), max_pixels=500, average=average
        )
        assert found.indices.tolist() == [0, 1, 2, 3, 4]
        for row, image in enumerate(images):
            scores = torch.cat([Mean()(prepare(torch.from_numpy(view)[None])) for view in shown(image, views)])
            mean = scores.softmax(1).mean(0).log() if average == "softmax" else scores.mean(0).log_softmax(0)
            assert torch.allclose(found.log_probs[row], mean, atol=1e-5)


def test_a_bad_image_is_named_or_left_out(tmp_path: Path) -> None:
    from imgcls.data.decoding import BadImageError
    from imgcls.data.sets import FolderSplit

    Image.fromarray(photo(40, 40)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    split = FolderSplit.of_names(tmp_path, [b"bad.png", b"good.png"])
    plan = lambda height, width: [View(0, 0, width, height, 8, 8)]  # noqa: E731
    with pytest.raises(BadImageError, match=r"bad\.png"):
        list(view_images(split, range(2), plan, channels=3, num_threads=1))
    errors: list[BadImageError] = []
    (only,) = view_images(
        split, range(2), plan, channels=3, num_threads=1, on_bad=lambda index, error: errors.append(error)
    )
    assert only.index == 1
    assert [error.name.endswith("bad.png") for error in errors] == [True]


def test_a_loss_of_hundreds_is_a_number_not_infinite() -> None:
    # Probabilities below the smallest number: what a network just begun gives.
    class Certain(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[2000.0, 0.0]]).expand(len(images), 2)

    images = np.zeros((3, 4, 4, 3), np.uint8)
    for flip in (False, True):
        stream = view_images(
            ArraySplit(images, np.zeros(3)),
            range(3),
            lambda *size: [View(0, 0, 4, 4, 4, 4)] * 2,
            channels=3,
            num_threads=1,
        )
        found = predict_views(Certain(), stream, prepare=prepare, device=torch.device("cpu"), max_pixels=99, flip=flip)
        assert found.log_probs.tolist() == [[0, -2000]] * 3
