"""Pixels of more than 8 bits, transparent ones and turned ones: each by its one rule, in every way they are read."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.data.augment import CenterCrop, Whole
from imgcls.data.decoding import PixelRules, Plan, decode_box, decode_whole, native, read_size
from imgcls.data.sets import FolderSplit, describe_sample

RAMP = np.linspace(0, 1, 32 * 32).reshape(32, 32)


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel: gray, gray and alpha, RGB or RGBA."""
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tiff16(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values.astype(np.uint16)), "TIFF")


def levels(data: bytes, **rules: object) -> np.ndarray:
    return decode_whole(data, 1, "a.png", PixelRules(**rules))[..., 0]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("write", [png16, tiff16, lambda values: png16(np.stack([values] * 3, axis=2))],
                         ids=["png", "tiff", "colour png"])  # fmt: skip
def test_every_depth_in_16_bits_is_shown_whole(bits, write):
    values = np.rint(RAMP * ((1 << bits) - 1)).astype(np.int64)
    shown = levels(write(values))
    assert np.abs(shown - (values >> (bits - 8))).max() <= 1  # luma rounds
    assert len(np.unique(shown)) > 250


def test_the_bits_that_the_config_names_are_those_of_every_image():
    dark = png16(np.rint(RAMP * 1000))
    assert levels(dark).max() == 250  # 10 bits hold it
    assert levels(dark, bits=12).max() == 62
    assert levels(dark, bits=16).max() == 3
    assert levels(png16(np.rint(RAMP * 4095)), bits=10).max() == 255  # brighter than that is white


def test_deep_colours_are_each_channels_own():
    colours = np.zeros((4, 4, 3), np.int64)
    colours[...] = [4095, 2048, 16]
    assert decode_whole(png16(colours), 3, "a.png")[0, 0].tolist() == [255, 128, 1]
    with_alpha = np.concatenate([colours, np.full((4, 4, 1), 32768)], axis=2)
    assert decode_whole(png16(with_alpha), 3, "a.png")[0, 0].tolist() == [255, 128, 1]
    on_white = decode_whole(png16(with_alpha), 3, "a.png", PixelRules(alpha="white"))[0, 0]
    assert np.abs(on_white - np.array([255, 191, 128])).max() <= 1
    gray_alpha = np.stack([np.full((4, 4), 2048), np.full((4, 4), 65535)], axis=2)
    assert decode_whole(png16(gray_alpha), 3, "a.png")[0, 0].tolist() == [128, 128, 128]


def test_floats_of_0_to_1_are_shares_of_white_and_larger_ones_whole_numbers():
    assert np.abs(levels(saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF")) - RAMP * 255).max() <= 0.5001
    assert np.abs(levels(saved(Image.fromarray((RAMP * 4095).astype(np.float32)), "TIFF")) - RAMP * 255).max() <= 1


@pytest.fixture
def cutout() -> Image.Image:
    """A red square on transparent green."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 1] = 200
    pixels[2:6, 2:6] = [255, 0, 0, 255]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("alpha, corner", [("drop", [0, 200, 0]), ("white", [255] * 3), ("black", [0] * 3)])
@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_transparent_pixels_show_what_is_asked_for(cutout, mode, alpha, corner):
    data = saved(cutout.quantize() if mode == "P" else cutout.convert(mode), "PNG")
    shown = decode_whole(data, 3, "a.png", PixelRules(alpha=alpha))
    if alpha != "drop" or mode == "RGBA":
        assert shown[0, 0].tolist() == corner
    assert shown[4, 4].tolist() == ([76] * 3 if mode == "LA" else [255, 0, 0])


def turned(orientation: int, format: str = "JPEG") -> bytes:
    """A photo of one bright corner, that of its first pixel, with a size of 40 x 24."""
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[274] = orientation
    return saved(Image.fromarray(pixels), format, exif=exif.tobytes(), **({"quality": 95} if format == "JPEG" else {}))


CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}


@pytest.mark.parametrize("orientation, corner", CORNERS.items())
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_photo_is_turned_on_request_and_otherwise_shown_as_stored(orientation, corner, format):
    data, apply = turned(orientation, format), PixelRules(orientation="apply")
    stored, shown = decode_whole(data, 1, "a"), decode_whole(data, 1, "a", apply)
    assert stored.shape == (24, 40, 1)
    assert stored[0, 0] > 200
    assert shown.shape[:2] == read_size(data, "a", apply) == ((24, 40) if orientation < 5 else (40, 24))
    assert shown[corner] > 200
    assert (shown > 128).sum() == (stored > 128).sum()


@pytest.fixture
def album(tmp_path: Path) -> Callable[..., FolderSplit]:
    """Photos of every orientation, in a split."""

    def make(**rules: object) -> FolderSplit:
        files = [tmp_path / f"{orientation}.jpg" for orientation in CORNERS]
        for orientation, file in zip(CORNERS, files, strict=True):
            file.write_bytes(turned(orientation))
        split = FolderSplit.of_files(files)
        split.rules = PixelRules(**rules)
        return split

    return make


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
@pytest.mark.parametrize("decoder", ["native", "pillow"])
def test_every_reader_turns_what_is_to_be_turned(album, monkeypatch, decoder, cache_gb):
    if decoder == "pillow":
        monkeypatch.setenv("IMGCLS_NATIVE", "0")
    elif not native.available():
        pytest.skip("the native decoder is not built")
    plan = Plan(Whole(), image_size=16, flip=0.5, seed=0)
    split = album(orientation="apply")
    indices = np.arange(len(split))
    out = np.empty((len(split), 16, 16, 3), np.uint8)
    assert split.make_reader(plan, 3, cache_gb=cache_gb).fill(plan, 0, indices, out) == []
    for image, flip, corner in zip(out, plan.flips(0, indices), CORNERS.values(), strict=True):
        assert (image[:, ::-1] if flip else image)[corner].min() > 200
    assert sorted(int(image.max(axis=2).argmax()) for image in out) != [0] * len(out)


def test_a_crop_of_a_turned_photo_is_that_of_the_upright_one(album):
    plan = Plan(CenterCrop(16, 8), image_size=8, flip=0, seed=0)
    split = album(orientation="apply")
    out = np.empty((len(split), 8, 8, 3), np.uint8)
    split.make_reader(plan, 3, cache_gb=0).fill(plan, 0, np.arange(len(split)), out)
    for position in range(len(split)):
        upright = decode_whole(split.read(position), 3, "a", split.rules)
        own = np.empty((8, 8, 3), np.uint8)
        box = plan.boxes(0, np.array([position]), np.array([upright.shape[:2]]))[0]
        decode_box(saved(Image.fromarray(upright), "PNG"), box, own, flip=False, name="a")
        assert np.abs(own.astype(int) - out[position]).max() <= 1


def test_a_sample_says_what_a_setting_decides_on(album, tmp_path, cutout):
    assert describe_sample(album()) == [
        "7 of 8 sampled training images have an EXIF orientation: shown as stored; data.orientation=apply turns"
    ]
    assert describe_sample(album(orientation="apply"))[0].endswith(": turned by it")
    (tmp_path / "deep.png").write_bytes(png16(np.rint(RAMP * 4095)))
    cutout.save(tmp_path / "cutout.png")
    split = FolderSplit.of_files([tmp_path / "deep.png", tmp_path / "cutout.png"])
    clear, deep = describe_sample(split)
    assert clear.startswith("1 of 2 sampled training images are transparent")
    assert deep.endswith("(1 use 12): each is shown by the bits of its brightest pixel; data.bits=12 shows all alike")
    split.rules = PixelRules(alpha="white", bits=12)
    assert describe_sample(split) == []
