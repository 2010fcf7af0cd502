"""The crops' geometry, held against torchvision's transforms and the papers' numbers."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from imgcls.config import ImageSize
from imgcls.data.augment import (
    CenterCrop,
    Crop,
    Letterbox,
    Pad,
    PadCrop,
    RandomResizedCrop,
    ResizeRandomCrop,
    ScaleJitterCrop,
    Whole,
    keyed_random,
)
from imgcls.data.decoding import resample_box

SIZES = [(64, 64), (375, 500), (500, 375), (61, 400), (1, 1), (1, 1000), (1000, 1), (224, 225), (257, 256)]


def boxes_of(
    crop: Crop, sizes: list[tuple[int, int]], *, image_size: int | tuple[int, int], epoch: int = 0
) -> np.ndarray:
    draws = keyed_random.uniforms(0, epoch, np.arange(len(sizes)), crop.num_draws)
    return crop.boxes(np.array(sizes), draws, image_size=ImageSize.of(image_size))


def smooth(height: int, width: int) -> np.ndarray:
    """An image of slow waves, so that a shift of a fraction of a pixel shows as a small difference."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9.0 + y / 31.0), np.cos(y / 7.0), np.sin((x - y) / 13.0)]
    return np.stack([127.5 + 120 * wave for wave in waves], axis=2).astype(np.uint8)


def cropped(pixels: np.ndarray, box: np.ndarray, image_size: int, *, flip: bool = False) -> np.ndarray:
    out = np.empty((image_size, image_size, pixels.shape[2]), np.uint8)
    resample_box(pixels, box, out, flip=flip)
    return out


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (333, 499), (256, 256), (300, 257), (224, 900)])
@pytest.mark.parametrize("image_size", [224, 72])
def test_the_centre_crop_is_torchvisions_resize_and_centre_crop(size, image_size):
    pixels = smooth(*size)
    short = round(256 * image_size / 224)
    reference = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(image_size)])
    expected = np.asarray(reference(Image.fromarray(pixels))).astype(int)
    box = boxes_of(CenterCrop(), [size], image_size=image_size)[0]
    assert np.abs(cropped(pixels, box, image_size) - expected).max() <= 1


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (300, 900), (900, 300), (80, 61)])
@pytest.mark.parametrize("image_size", [(224, 160), (96, 224)])
def test_the_centre_crop_of_a_rectangle_is_torchvisions_resize_to_cover_and_centre_crop(size, image_size):
    pixels = smooth(*size)
    short = round(256 * min(image_size) / 224)
    scale = max(round(short * out / min(image_size)) / side for out, side in zip(image_size, size, strict=True))
    covering = [int(side * scale + 1e-6) for side in size]
    reference = transforms.Compose([transforms.Resize(covering), transforms.CenterCrop(image_size)])
    expected = np.asarray(reference(Image.fromarray(pixels))).astype(int)
    out = np.empty((*image_size, 3), np.uint8)
    box = boxes_of(CenterCrop(), [size], image_size=image_size)[0]
    resample_box(pixels, box, out, flip=False)
    assert np.abs(out - expected).max() <= 2  # of two passes, each rounded
    # The box has the proportions of the output: nothing is squashed.
    assert (box[2] - box[0]) / (box[3] - box[1]) == pytest.approx(image_size[1] / image_size[0], rel=0.01)


def test_random_crops_of_rectangles_keep_proportions_and_squashing_ones_fill_the_output():
    size, image_size = (300, 400), (224, 160)
    for crop in (ScaleJitterCrop(), ResizeRandomCrop(), ResizeRandomCrop(of_square=True), PadCrop(4)):
        for left, top, right, bottom in boxes_of(crop, [size] * 5, image_size=image_size):
            assert (right - left) / (bottom - top) == pytest.approx(160 / 224, rel=0.01)
    assert boxes_of(Whole(), [size], image_size=image_size).tolist() == [[0, 0, 400, 300]]
    # 400 columns in 160 pixels, so 560 rows in 224: 130 black ones above and below.
    assert boxes_of(Letterbox(), [size], image_size=image_size).tolist() == [[0, -130, 400, 430]]
    # 10 of the 160 columns are 10 / 140 of the 400 source pixels, 10 of the 224 rows 10 / 204 of the 300.
    assert boxes_of(Pad(10), [size], image_size=image_size)[0] == pytest.approx(
        [-400 / 14, -300 / 20.4, 400 + 400 / 14, 300 + 300 / 20.4]
    )


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (180, 181)])
def test_scale_jitter_is_a_resize_of_the_shorter_side_and_a_crop_at_whole_pixels(size):
    pixels = smooth(*size)
    crop = ScaleJitterCrop((256, 480))
    draws = keyed_random.uniforms(1, 0, np.arange(20), 3)
    boxes = crop.boxes(np.tile(size, (20, 1)), draws, image_size=ImageSize.of(224))
    for box, draw in zip(boxes, draws, strict=True):
        short = 256 + int(draw[0] * 225)
        resized = transforms.Resize(short)(Image.fromarray(pixels))
        top, left = int(draw[1] * (resized.height - 223)), int(draw[2] * (resized.width - 223))
        expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(int)
        difference = np.abs(cropped(pixels, box, 224) - expected)
        assert difference.max() <= 2  # each of the two passes rounds to whole numbers
        assert difference.mean() < 0.12


def test_scale_jitter_draws_every_length_and_place_of_its_range():
    num = 40_000
    draws = keyed_random.uniforms(0, 0, np.arange(num), 3)
    boxes = ScaleJitterCrop((256, 480)).boxes(np.full((num, 2), 480), draws, image_size=ImageSize.of(224))
    shorts = np.rint(224 * 480 / (boxes[:, 2] - boxes[:, 0])).astype(int)
    assert set(shorts) == set(range(256, 481))
    assert boxes.min() >= 0
    assert boxes.max() <= 480 + 1e-9
    at_256 = boxes[shorts == 256]
    assert set(np.rint(at_256[:, 0] * 256 / 480).astype(int)) == set(range(33))


def test_random_resized_crop_has_torchvisions_distribution():
    """Two-sample Kolmogorov-Smirnov on area, aspect and place against torchvision's own draws."""
    height, width, num = 375, 500, 4000
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(num)], float
    )
    ours = boxes_of(RandomResizedCrop(), [(height, width)] * num, image_size=224)
    ours = np.stack([ours[:, 1], ours[:, 0], ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], axis=1)
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
    ):
        a, b = np.sort(measure(theirs)), np.sort(measure(ours))
        at = np.concatenate([a, b])
        gap = np.abs(np.searchsorted(a, at, "right") - np.searchsorted(b, at, "right")).max() / num
        assert gap < 1.95 * np.sqrt(2 / num)  # one in a thousand is above


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (10, 1000), (1000, 30)])
def test_an_image_no_box_fits_gets_torchvisions_central_fallback(size):
    image = torch.empty(3, *size)
    torch.manual_seed(0)
    expected = {transforms.RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3]) for _ in range(3)}
    for left, top, right, bottom in boxes_of(RandomResizedCrop((0.9, 1.0)), [size] * 3, image_size=32):
        assert (top, left, max(bottom - top, 1), max(right - left, 1)) in {
            (i, j, max(h, 1), max(w, 1)) for i, j, h, w in expected
        }


@pytest.mark.parametrize(
    "crop",
    [RandomResizedCrop(), ScaleJitterCrop(), ResizeRandomCrop(), CenterCrop(), Whole()],
    ids=lambda crop: type(crop).__name__,
)
@pytest.mark.parametrize("image_size", [32, 224, (224, 160), (32, 96)])
def test_boxes_lie_inside_images_of_any_size_and_are_not_empty(crop, image_size):
    for epoch in range(20):
        boxes = boxes_of(crop, SIZES, image_size=image_size, epoch=epoch)
        heights, widths = np.array(SIZES, float).T
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= widths).all()
        assert (boxes[:, 3] <= heights).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_alexnets_crop_is_one_of_30_by_30_places():
    num = 20_000
    draws = keyed_random.uniforms(0, 0, np.arange(num), 2)
    boxes = ResizeRandomCrop(256, 227).boxes(np.full((num, 2), 256), draws, image_size=ImageSize.of(227))
    assert (boxes[:, 2:] - boxes[:, :2] == 227).all()
    assert set(boxes[:, 0]) == set(boxes[:, 1]) == set(range(30))


def test_alexnets_crop_of_a_wide_image_is_in_its_central_square():
    num = 20_000
    draws = keyed_random.uniforms(0, 0, np.arange(num), 2)
    sizes = np.tile([256, 300], (num, 1))
    for of_square, lefts in ((True, range(22, 52)), (False, range(74))):
        boxes = ResizeRandomCrop(256, 227, of_square=of_square).boxes(sizes, draws, image_size=ImageSize.of(227))
        assert set(boxes[:, 0]) == set(lefts)
        assert set(boxes[:, 1]) == set(range(30))


def test_digits_are_centred_in_a_black_field():
    digit = np.full((28, 28, 1), 255, np.uint8)
    box = boxes_of(Pad(2), [(28, 28)], image_size=32)[0]
    assert box.tolist() == [-2, -2, 30, 30]
    assert np.array_equal(cropped(digit, box, 32), np.pad(digit, ((2, 2), (2, 2), (0, 0))))


def test_pad_crop_is_a_window_of_the_padded_image():
    pixels = smooth(32, 32)
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
    boxes = boxes_of(PadCrop(4), [(32, 32)] * 3000, image_size=32)
    assert {tuple(box[:2]) for box in boxes} == {(x, y) for x in range(-4, 5) for y in range(-4, 5)}
    for box in boxes[:50]:
        left, top = (box[:2] + 4).astype(int)
        assert np.array_equal(cropped(pixels, box, 32), padded[top : top + 32, left : left + 32])
        mirrored = cropped(pixels, box, 32, flip=True)
        assert np.array_equal(mirrored, padded[top : top + 32, left : left + 32][:, ::-1])


def test_a_padded_crop_of_a_larger_image_is_black_outside_it():
    pixels = np.full((100, 150, 3), 200, np.uint8)
    out = cropped(pixels, boxes_of(Pad(2), [(100, 150)], image_size=32)[0], 32)
    assert (out[2:-2, 2:-2] == 200).all()
    assert out.sum() == 200 * 28 * 28 * 3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RandomResizedCrop(area=(0.5, 0.1)), "area=.*smaller first"),
        (lambda: RandomResizedCrop(area=(0.5, 1.5)), "area=.*exceeds the whole image"),
        (lambda: RandomResizedCrop(aspect=(0, 1)), "aspect=.*not a range"),
        (lambda: ScaleJitterCrop((200, 480)), "short_side=200 is shorter than the crop of 224"),
        (lambda: ResizeRandomCrop(200), "short_side=200 is shorter than the crop"),
        (lambda: CenterCrop(200), "short_side=200 is shorter than the crop"),
        (lambda: PadCrop(-1), "padding=-1 is negative"),
        (lambda: Pad(-1), "padding=-1 is negative"),
        (lambda: boxes_of(Pad(16), [(28, 28)], image_size=32), "padding=16 leaves nothing"),
    ],
)
def test_a_crop_that_cannot_be_is_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(40.0, 40.0, 140.0, 140.0), (61.25, 60.5, 85.75, 85.0)])
def test_resampling_a_box_lets_the_pixels_around_it_take_part(interpolation, box):
    image = Image.fromarray(smooth(200, 200))
    expected = np.asarray(image.resize((50, 50), Image.Resampling[interpolation.upper()], box=box))
    out = np.empty((50, 50, 3), np.uint8)
    resample_box(np.asarray(image), np.array(box), out, flip=False, interpolation=interpolation)
    assert np.array_equal(out, expected)
    how = InterpolationMode[interpolation.upper()]
    alone = transforms.functional.resize(image.crop(tuple(map(round, box))), [50, 50], how)
    assert not np.array_equal(expected, np.asarray(alone))


@pytest.mark.parametrize("size", [(30, 40), (40, 30), (40, 40), (7, 40), (1, 1)])
def test_a_letterboxed_image_is_whole_in_its_proportions_between_black_bars(size):
    height, width = size
    box = boxes_of(Letterbox(), [size], image_size=40)[0]
    shown = cropped(np.full((*size, 3), 200, np.uint8), box, 40)
    rows, columns = (shown > 0).any(axis=(1, 2)).sum(), (shown > 0).any(axis=(0, 2)).sum()
    assert max(rows, columns) == 40
    assert abs(rows * max(size) - 40 * height) <= max(size)
    assert abs(columns * max(size) - 40 * width) <= max(size)
    middle = shown[20 - rows // 2 + 1 : 20 + rows // 2 - 1, 20 - columns // 2 + 1 : 20 + columns // 2 - 1]
    assert (middle == 200).all()
    bars = (shown == 0).all(axis=2)
    assert abs(int(bars[:, :20].sum()) - int(bars[:, 20:].sum())) <= 40
    assert abs(int(bars[:20].sum()) - int(bars[20:].sum())) <= 40
