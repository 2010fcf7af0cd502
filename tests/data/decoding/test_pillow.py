"""Decoding one box: Pillow's own pixels, every odd kind of file, and broken ones named with the reason."""

import ast
import csv
import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.data.decoding import (
    EXTENSIONS,
    FORMATS,
    BadImageError,
    decode_box,
    decode_whole,
    jpeg,
    native,
    pillow,
    read_size,
)
from imgcls.data.decoding.pillow import _set_up
from imgcls.environment import CONF_DIR

ROOT = CONF_DIR.parent


def waves(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 19.0 + y / 31.0), np.cos(y / 17.0), np.sin((x - y) / 23.0)]
    return Image.fromarray(np.stack([127.5 + 110 * wave for wave in channels], axis=2).astype(np.uint8))


def sources() -> list[Path]:
    files = [*(ROOT / "imgcls").rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), ROOT / "train.py"]
    return [file for file in files if "Image" in file.read_text()]


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(
    data: bytes, box: tuple[float, ...], size: int = 24, *, channels: int = 3, flip: bool = False, draft: bool = False
) -> np.ndarray:
    out = np.full((size, size, channels), 77, np.uint8)
    decode_box(data, np.array(box, float), out, flip=flip, name="a.jpg", draft=draft)
    return out


@pytest.mark.parametrize("box", [(0, 0, 60, 50), (3.25, 7.5, 40.75, 31), (59, 49, 60, 50), (0, 0, 1, 50)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_box_is_pillows_resize_of_that_box(kind, box):
    data = encoded(waves(50, 60), kind)
    image = Image.open(io.BytesIO(data))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR, box=box))
    assert np.array_equal(decoded(data, box, 64), expected)
    assert np.array_equal(decoded(data, box, 64, flip=True), expected[:, ::-1])


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("size", [(801, 643), (640, 801)])
def test_a_draft_is_taken_in_the_right_place_and_never_below_the_outputs_resolution(monkeypatch, shrink, size):
    data = encoded(waves(*size), quality=95)
    taken = []
    honest = _set_up
    monkeypatch.setattr(pillow, "_set_up", lambda *args, draft: taken.append(honest(*args, draft=draft)) or taken[-1])
    span = 48.0 * shrink
    box = (101.5, 77.25, 101.5 + span, 77.25 + span)
    fast = decoded(data, box, 48, draft=True).astype(int)
    assert taken == [shrink]
    full = Image.open(io.BytesIO(data)).resize((48, 48), Image.Resampling.BILINEAR, box=box)
    difference = fast - np.asarray(full).astype(int)
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference.mean(axis=(1, 2))).max() < 1.5  # a shift would show as a slope from edge to edge
    decoded(data, (0, 0, span - 1, span - 1), 48, draft=True)
    assert taken[-1] < shrink
    decoded(data, box, 48)
    assert taken[-1] == 1


@pytest.mark.skipif(not native.available(), reason="the native decoder is not built")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_without_the_native_decoder_the_pixels_are_its_own_however_much_the_crop_shrinks(subsampling, channels):
    draws = np.random.default_rng(0)
    data = encoded(waves(500, 641), quality=90, subsampling=subsampling)
    space = native.Workspace()
    space.open_bytes([data])
    for shrink in (0.7, 1.5, 2, 4, 8):
        side = 48 * shrink
        left, top = draws.uniform(0, 641 - side), draws.uniform(0, 500 - side)
        box = (left, top, left + side, top + side)
        out = np.empty((1, 48, 48, channels), np.uint8)
        assert space.decode(np.array([box]), np.zeros(1, bool), out)[0] == 0
        assert np.abs(out[0].astype(int) - decoded(data, box, 48, channels=channels)).max() <= 1


def lossless(pixels: np.ndarray) -> bytes:
    """A grayscale JPEG without loss (ITU T.81, annex H): each pixel as its difference from the one before it."""
    values = pixels.astype(int)
    predicted = np.empty_like(values)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = values[:, :-1], values[:-1, 0], 128
    bits = ""
    for difference in (values - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        bits += f"{size:04b}"  # nine codes of four bits, in the order of the sizes
        if size:
            bits += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    height, width = pixels.shape
    frame = struct.pack(">HBHHBBBB", 11, 8, height, width, 1, 1, 0x11, 0)
    table = struct.pack(">HB", 28, 0) + bytes([0, 0, 0, 9, *[0] * 12]) + bytes(range(9))
    start = struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + table + b"\xff\xda" + start + scan + b"\xff\xd9"


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_lossless_jpeg_is_decoded_whatever_the_crop_and_the_channels(channels, draft):
    pixels = np.asarray(waves(200, 210).convert("L"))
    data = lossless(pixels)
    assert np.array_equal(decode_whole(data, channels, "a")[..., 0], pixels)
    for size in (10, 24, 100, 200):
        expected = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=(0, 0, 200, 200))
        box = (0, 0, 200, 200)
        assert np.array_equal(decoded(data, box, size, channels=channels, draft=draft)[..., 0], np.asarray(expected))


def test_one_channel_is_the_luma_of_a_colour_file():
    data = encoded(waves(80, 70), quality=95)
    grey = decoded(data, (0, 0, 70, 80), 64, channels=1)[..., 0].astype(int)
    expected = Image.open(io.BytesIO(data)).convert("L").resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(grey - np.asarray(expected)).max() <= 2


def sixteen_bits() -> bytes:
    image = Image.fromarray((np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8))
    return encoded(image, "PNG")


KINDS = {
    "grey": encoded(waves(8, 8).convert("L")),
    "cmyk": encoded(waves(8, 8).convert("CMYK")),
    "progressive": encoded(waves(8, 8), progressive=True),
    "palette": encoded(waves(8, 8).convert("P"), "PNG"),
    "palette with transparency": encoded(waves(8, 8).convert("P"), "PNG", transparency=bytes(range(200))),
    "alpha": encoded(waves(8, 8).convert("RGBA"), "PNG"),
    "grey and alpha": encoded(waves(8, 8).convert("LA"), "PNG"),
    "one bit": encoded(waves(8, 8).convert("1"), "PNG"),
    "gif": encoded(waves(8, 8), "GIF"),
    "bmp": encoded(waves(8, 8), "BMP"),
    "webp": encoded(waves(8, 8), "WEBP"),
    "tiff": encoded(waves(8, 8), "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_becomes_what_imagefolder_shows(kind):
    expected = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))
    assert np.abs(decoded(KINDS[kind], (0, 0, 8, 8), 8).astype(int) - expected).max() <= 1
    assert np.array_equal(decode_whole(KINDS[kind], 3, "a"), expected)
    assert read_size(KINDS[kind], "a") == (8, 8)


def test_sixteen_bits_are_scaled_to_eight_and_not_clipped():
    expected = (np.arange(64) * 1024 >> 8).reshape(8, 8)
    assert np.array_equal(decode_whole(sixteen_bits(), 1, "a")[..., 0], expected)
    assert np.array_equal(decoded(sixteen_bits(), (0, 0, 8, 8), 8)[..., 2], expected)


def test_exif_orientation_is_not_applied():
    image = waves(20, 40)
    exif = image.getexif()
    exif[0x0112] = 6
    assert read_size(encoded(image, exif=exif), "a") == (20, 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1)])
def test_images_of_one_pixel_or_one_row_are_decoded(size):
    data = encoded(waves(*size))
    assert decoded(data, (0, 0, size[1], size[0])).shape == (24, 24, 3)


def test_an_image_of_33_megapixels_is_decoded():
    data = encoded(Image.new("L", (7680, 4320), 100))
    assert (decoded(data, (0, 0, 7680, 4320)) == 100).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG header that claims a huge image."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def tiff_with_an_offset_that_is_no_integer() -> bytes:
    """A TIFF whose pixels are said to begin at a fraction."""
    data = bytearray(encoded(waves(8, 8), "TIFF"))
    entry = data.index(struct.pack("<HH", 273, 4))  # StripOffsets, of type LONG
    data[entry + 2 : entry + 4] = struct.pack("<H", 11)  # FLOAT
    return bytes(data)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
WMF = struct.pack("<LHhhhhHLH", 0x9AC6CDD7, 0, 0, 0, 4, 4, 72, 0, 0) + b"\1\0\t\0" + bytes(40)


@pytest.mark.parametrize("data, kind", [(EPS, "EPS"), (WMF, "WMF")], ids=["eps", "wmf"])
def test_a_file_that_pillow_would_run_a_program_for_is_no_image_whatever_its_name(data, kind):
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind
    for read in (lambda: read_size(data, "a.jpg"), lambda: decode_whole(data, 3, "a.jpg")):
        with pytest.raises(BadImageError, match=r"^a\.jpg: is not an image of a kind that is read: JPEG, PNG"):
            read()


def test_every_ending_that_is_listed_as_an_image_is_of_a_format_that_is_opened():
    assert {Image.registered_extensions()[os.fsdecode(ending)] for ending in EXTENSIONS} == set(FORMATS)


@pytest.mark.parametrize("file", sources(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_source_opens_an_image_of_any_format(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    opens = [call for call in calls if re.fullmatch(r"(PIL\.)?Image\.open", ast.unparse(call.func))]
    assert [ast.unparse(call) for call in opens if "formats=FORMATS" not in ast.unparse(call)] == []


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "is empty"),
        (b"hello" * 100, "is not an image"),
        (encoded(waves(300, 300))[:3000], "cannot be decoded: .*truncated"),
        (encoded(waves(300, 300), "PNG")[:3000], "cannot be decoded"),
        (encoded(waves(9, 9))[:30], "is not an image|cannot be opened"),
        (bomb(10_000, 10_000), "has 10000x10000 pixels, over the limit of 89478485"),
        (bomb(60_000, 60_000), "is too large to be an honest image"),
        (encoded(Image.new("F", (4, 4), -1), "TIFF"), "floating-point pixels are negative"),
        (tiff_with_an_offset_that_is_no_integer(), "cannot be decoded: 'float' object cannot be"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "header only", "large", "bomb", "float", "broken tiff"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_decoded_is_named_with_the_reason(data, reason):
    with pytest.raises(BadImageError, match=f"^a.jpg: .*({reason})"):
        decoded(data, (0, 0, 4, 4))
    with pytest.raises(BadImageError, match=r"^a\.jpg: "):
        decode_whole(data, 3, "a.jpg")


def of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is written again and again."""
    data = encoded(waves(400, 400), progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:last] + data[last:end] * (count - data.count(b"\xff\xda") + 1) + data[end:]


def test_a_jpeg_of_a_thousand_scans_is_refused_from_its_markers_and_one_of_ten_decoded():
    assert jpeg.num_scans(of_scans(1000)) == 1000
    for read in (lambda: read_size(of_scans(1000), "a.jpg"), lambda: decode_whole(of_scans(1000), 3, "a.jpg")):
        with pytest.raises(BadImageError, match=r"^a\.jpg: has 1000 scans, over the limit of 100"):
            read()
    assert jpeg.num_scans(of_scans(10)) == 10
    assert decoded(of_scans(10), (0, 0, 400, 400)).shape == (24, 24, 3)
    if native.available():
        assert native.Workspace().open_bytes([of_scans(1000)]).status[0] == native.Status.UNSUPPORTED


def test_what_follows_the_image_counts_for_no_scan():
    video = b"\xff\xda" * 200
    assert decode_whole(encoded(waves(8, 8), progressive=True) + video, 3, "a.jpg").shape == (8, 8, 3)
    comment = encoded(waves(8, 8), progressive=True, comment=video)
    assert decode_whole(comment, 3, "a.jpg").shape == (8, 8, 3)


def test_running_out_of_memory_is_not_the_images_fault(monkeypatch):
    def no_memory(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pillow, "_plain", no_memory)
    with pytest.raises(MemoryError):
        decoded(KINDS["bmp"], (0, 0, 4, 4))
    with pytest.raises(MemoryError):
        decode_whole(KINDS["bmp"], 3, "a.jpg")


def corner_cases() -> list[dict[str, str]]:
    if not (named := os.environ.get("IMGCLS_REAL_DATA")):
        return []
    with open(Path(named) / "jpeg-corner-cases" / "MANIFEST.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def pillow_loads(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not corner_cases(), reason="IMGCLS_REAL_DATA names no folder of real images")
@pytest.mark.parametrize("row", corner_cases(), ids=lambda row: row["file"])
def test_real_odd_files_are_decoded_or_named_as_their_manifest_says(row):
    data = (Path(os.environ["IMGCLS_REAL_DATA"]) / "jpeg-corner-cases" / row["file"]).read_bytes()
    if row["file"] == "broken_data_stream.png" and not pillow_loads(data):
        row = row | {"pillow_opens": "no"}  # the manifest's Pillow shows it in part, later ones refuse it
    if row["pillow_opens"] != "yes":
        with pytest.raises(BadImageError, match=r"^a\.jpg: "):
            decoded(data, (0, 0, 1, 1))
        return
    height, width = read_size(data, "a.jpg")
    assert f" {width}x{height}" in row["pillow_format_mode_size"]
    out = decoded(data, (0, 0, width, height), 64)
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):
            return  # Pillow's own conversion clips 16 bits; ours is compared with the numbers above
        expected = image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(out.astype(int) - np.asarray(expected)).mean() < 1
