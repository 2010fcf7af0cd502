import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgcls.data.decoding import native

needs_native = pytest.mark.skipif(not native.available(), reason=f"native decoder: {native.why_not()}")

Box = tuple[float, float, float, float]


def photo(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """Smooth colours with edges and grain, so that every pixel and channel differs from the others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + c) + y / (9 - c) + c) + 0.5 * ((x // 11 + y // 7) % 2) for c in range(3)]
    pixels = 110 + 70 * np.stack(waves, -1) + rng.normal(0, 15, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: int) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", **{"quality": 90, **options})
    return encoded.getvalue()


def jpeg(height: int, width: int, sampling: str, *, seed: int = 0) -> bytes:
    """A JPEG of the sampling named. Pillow writes no 4:4:0: its frame header is put on the blocks of a 4:2:2."""
    if sampling == "gray":
        return encode(photo(height, width, seed=seed).convert("L"))
    if sampling != "4:4:0":
        return encode(photo(height, width, seed=seed), subsampling=["4:4:4", "4:2:2", "4:2:0"].index(sampling))
    blocks = encode(photo(-(-height // 16) * 8, -(-width // 8) * 16, seed=seed), subsampling=1)
    frame = blocks.index(b"\xff\xc0")
    assert blocks[frame + 11] == 0x21
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return blocks[: frame + 5] + size + blocks[frame + 9 : frame + 11] + b"\x12" + blocks[frame + 12 :]


SAMPLINGS = ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "gray"]


def by_pillow(
    data: bytes,
    box: Box,
    height: int,
    width: int,
    *,
    flip: bool = False,
    mode: str = "RGB",
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Pillow's crop, across before down as two calls: which it does first in one call depends on its version."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert(mode)
    left, top, right, bottom = box
    how = Image.Resampling[interpolation.upper()]
    image = image.resize((width, image.height), how, box=(left, 0, right, image.height))
    image = image.resize((width, height), how, box=(0, top, width, bottom))
    pixels = np.asarray(image).reshape(height, width, -1)
    return pixels[:, ::-1] if flip else pixels


def by_native(
    data: Sequence[bytes],
    boxes: Sequence[Box],
    height: int,
    width: int,
    *,
    flips: Sequence[bool] | None = None,
    channels: int = 3,
    allow_avx2: bool = True,
    interpolation: str = "bilinear",
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    space = native.Workspace(allow_avx2=allow_avx2)
    space.open_bytes(data)
    out = np.full((len(data), height, width, channels), 77, np.uint8)
    mirrored = np.array(flips or [False] * len(data), bool)
    return out, space.decode(np.array(boxes, float), mirrored, out, interpolation=interpolation)


def box_at(place: str, height: int, width: int) -> Box:
    """A box of about a third of the image, in a corner or the middle."""
    w, h = max(width // 3, 1), max(height // 3, 1)
    left = {"w": 0, "e": width - w}.get(place[1], (width - w) // 2)
    top = {"n": 0, "s": height - h}.get(place[0], (height - h) // 2)
    return left, top, left + w, top + h


@needs_native
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("height", "width"), [(96, 128), (97, 131), (15, 17), (200, 9), (9, 200)])
def test_pixels_equal_those_of_pillow_bit_for_bit_at_every_corner(height: int, width: int, sampling: str) -> None:
    data = jpeg(height, width, sampling)
    places = ["nw", "ne", "sw", "se", "cc", "nc", "sc", "cw", "ce"]
    boxes = [box_at(place, height, width) for place in places] + [(0, 0, width, height)]
    boxes += [(0.3, 0.7, width - 0.4, height - 0.2), (width - 1, height - 1, width, height), (0, 0, 1, 1)]
    for size in [(32, 48), (7, 5), (1, 1), (300, 211)]:
        for flip in (False, True):
            out, status = by_native([data] * len(boxes), boxes, *size, flips=[flip] * len(boxes))
            assert status.tolist() == [0] * len(boxes)
            for index, box in enumerate(boxes):
                np.testing.assert_array_equal(out[index], by_pillow(data, box, *size, flip=flip), str((box, size)))


@needs_native
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_first_column_and_row_gives_the_pixels_of_the_whole_image(sampling: str) -> None:
    """Crops start at blocks and skips at rows of blocks: each offset within them must come out alike."""
    height, width = 51, 53
    data = jpeg(height, width, sampling)
    boxes: list[Box] = [(left, 3, min(left + 5, width), 40) for left in range(width)]
    boxes += [(0, 3, right, 40) for right in range(1, width + 1)]
    boxes += [(7, top, 40, min(top + 4, height)) for top in range(height)]
    out, status = by_native([data] * len(boxes), boxes, 12, 16)
    assert not status.any()
    for index, box in enumerate(boxes):
        np.testing.assert_array_equal(out[index], by_pillow(data, box, 12, 16), str(box))


@needs_native
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 1000), (1000, 1), (2, 3), (1500, 40)])
def test_images_of_any_shape_decode(height: int, width: int) -> None:
    for sampling in ["4:4:4", "4:2:0", "gray"]:
        data = jpeg(height, width, sampling)
        out, status = by_native([data], [(0, 0, width, height)], 24, 24)
        assert status.tolist() == [0]
        np.testing.assert_array_equal(out[0], by_pillow(data, (0, 0, width, height), 24, 24))


@needs_native
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0", "gray"])
@pytest.mark.parametrize(("height", "width"), [(97, 131), (15, 17), (200, 9), (1, 1), (640, 480)])
def test_bicubic_pixels_equal_those_of_pillow_bit_for_bit(height: int, width: int, sampling: str) -> None:
    data = jpeg(height, width, sampling)
    boxes = [*many_boxes(height, width)[:11], (0.0, 0.0, 1.0, 1.0)]
    for number, size in enumerate([(32, 48), (7, 5), (1, 1), (230, 211), (height, width)]):
        flips = [number % 2 == 1] * len(boxes)
        for allow_avx2 in (True, False):
            out, status = by_native(
                [data] * len(boxes), boxes, *size, flips=flips, allow_avx2=allow_avx2, interpolation="bicubic"
            )
            assert not status.any()
            for index, box in enumerate(boxes):
                wanted = by_pillow(data, box, *size, flip=flips[0], interpolation="bicubic")
                np.testing.assert_array_equal(out[index], wanted, str((box, size)))


@needs_native
def test_bicubic_of_extremes_is_cut_at_black_and_white_in_both_paths() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, np.arange(64) // 4 % 2 == 0] = 255  # the cubic overshoots beside such edges
    data, box = encode(Image.fromarray(stripes), subsampling=0, quality=100), (3.0, 2.0, 60.0, 61.0)
    for size in [(150, 170), (40, 30)]:
        wanted = by_pillow(data, box, *size, interpolation="bicubic")
        assert {0, 255} <= set(wanted.ravel().tolist())
        for allow_avx2 in (True, False):
            out, _ = by_native([data], [box], *size, allow_avx2=allow_avx2, interpolation="bicubic")
            np.testing.assert_array_equal(out[0], wanted)
    gray = by_native([data], [box], 50, 50, channels=1, interpolation="bicubic")[0]
    np.testing.assert_array_equal(gray[0], by_pillow(data, box, 50, 50, mode="L", interpolation="bicubic"))


@needs_native
def test_a_bicubic_crop_of_a_file_with_restart_markers_has_the_same_pixels() -> None:
    for sampling in SAMPLINGS:
        data, boxes = jpeg(97, 131, sampling), many_boxes(97, 131)
        written = native.write_restarts(data, blocks=3)
        assert written is not None
        wanted = by_native([data] * len(boxes), boxes, 20, 16, interpolation="bicubic")[0]
        out, status = by_native([written] * len(boxes), boxes, 20, 16, interpolation="bicubic")
        assert not status.any()
        np.testing.assert_array_equal(out, wanted)


@needs_native
def test_one_call_of_pillow_is_at_most_one_level_away() -> None:
    data, box = jpeg(500, 333, "4:2:0"), (60.0, 100.0, 300.0, 480.0)
    out, _ = by_native([data], [box], 224, 224)
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR, box=box)).astype(int)
    difference = np.abs(pixels - out[0])
    assert difference.max() <= 1
    assert difference.mean() < 0.25


@needs_native
def test_one_channel_is_the_luma() -> None:
    gray, colour, box = jpeg(80, 90, "gray"), jpeg(80, 90, "4:2:0"), (10.0, 5.0, 70.0, 66.0)
    out, status = by_native([gray, colour], [box, box], 32, 28, channels=1, flips=[True, True])
    assert not status.any()
    np.testing.assert_array_equal(out[0], by_pillow(gray, box, 32, 28, flip=True, mode="L"))
    # Pillow goes by RGB, which rounds and clips.
    difference = np.abs(out[1].astype(int) - by_pillow(colour, box, 32, 28, flip=True, mode="L"))
    assert difference.mean() < 1


@needs_native
def test_an_rgb_coded_jpeg_keeps_its_colours() -> None:
    data = encode(photo(40, 50), keep_rgb=1)
    out, status = by_native([data], [(3, 4, 41, 39)], 20, 20)
    assert status.tolist() == [0]
    np.testing.assert_array_equal(out[0], by_pillow(data, (3, 4, 41, 39), 20, 20))


def some_files() -> tuple[list[bytes], list[Box]]:
    sizes = [(60, 70), (33, 120), (150, 20), (64, 64)]
    cases = list(itertools.product(sizes, SAMPLINGS))
    data = [jpeg(*size, sampling, seed=seed) for seed, (size, sampling) in enumerate(cases)]
    boxes = [(w * 0.1, h * 0.2, w * 0.9, h * 0.8) for (h, w), _ in cases]
    return data, boxes


@needs_native
def test_a_batch_equals_its_images_one_by_one_in_any_order() -> None:
    data, boxes = some_files()
    flips = [bool(index % 3) for index in range(len(data))]
    together, status = by_native(data, boxes, 30, 31, flips=flips)
    assert not status.any()
    for index in reversed(range(len(data))):
        alone, _ = by_native([data[index]], [boxes[index]], 30, 31, flips=[flips[index]])
        np.testing.assert_array_equal(together[index], alone[0])


@needs_native
@pytest.mark.parametrize("width", [1, 3, 4, 31, 64, 224])
def test_avx2_equals_the_portable_path(width: int) -> None:
    data, boxes = some_files()
    for channels in (1, 3):
        fast, _ = by_native(data, boxes, 29, width, channels=channels)
        portable, _ = by_native(data, boxes, 29, width, channels=channels, allow_avx2=False)
        np.testing.assert_array_equal(fast, portable)


@needs_native
def test_files_read_by_the_library_equal_bytes_given_to_it(tmp_path: Path) -> None:
    data, boxes = some_files()
    paths = [tmp_path / f"ünïcode {index}.JPEG" for index in range(len(data))]
    for path, item in zip(paths, data, strict=True):
        path.write_bytes(item)
    space = native.Workspace()
    for _ in range(2):
        found = space.open_files([paths[0], str(paths[1]), os.fsencode(paths[2]), *paths[3:]])
        np.testing.assert_array_equal(found.sizes, native.Workspace().open_bytes(data).sizes)
        out = np.empty((len(data), 16, 16, 3), np.uint8)
        assert not space.decode(np.array(boxes), np.zeros(len(data), bool), out).any()
        np.testing.assert_array_equal(out, by_native(data, boxes, 16, 16)[0])
        assert [space.contents(index) for index in range(len(data))] == data


@needs_native
def test_views_and_arrays_serve_as_bytes() -> None:
    data = jpeg(40, 50, "4:2:0")
    forms = [data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)]
    space = native.Workspace()
    assert space.open_bytes(forms).sizes.tolist() == [[40, 50]] * 4
    out = np.empty((4, 8, 8, 3), np.uint8)
    assert not space.decode(np.array([[0, 0, 50, 40]] * 4, float), np.zeros(4, bool), out).any()
    assert (out == out[0]).all()


@needs_native
def test_sizes_and_statuses_say_what_goes_to_pillow(tmp_path: Path) -> None:
    good = jpeg(40, 50, "4:2:0")
    png = io.BytesIO()
    photo(5, 6).save(png, "PNG")
    cases = {
        "good": (good, 0, (40, 50)),
        "progressive": (encode(photo(40, 50), progressive=1), native.Status.UNSUPPORTED, (40, 50)),
        "cmyk": (encode(photo(40, 50).convert("CMYK")), native.Status.UNSUPPORTED, (40, 50)),
        "png": (png.getvalue(), native.Status.HEADER, (0, 0)),
        "empty": (b"", native.Status.HEADER, (0, 0)),
        "start": (good[:3], native.Status.HEADER, (0, 0)),
        "half a header": (good[:200], native.Status.HEADER, (0, 0)),
        "half": (good[: len(good) // 2], native.Status.TRUNCATED, (40, 50)),
    }
    for case in native.Status:
        assert case.words
    found = native.Workspace().open_bytes([data for data, _, _ in cases.values()])
    for index, (name, (_, status, size)) in enumerate(cases.items()):
        assert (found.status[index], *found.sizes[index]) == (status, *size), name
    (tmp_path / "good").write_bytes(good)
    os.mkfifo(tmp_path / "pipe")
    found = native.Workspace().open_files([tmp_path / "none", tmp_path, tmp_path / "pipe", tmp_path / "good"])
    assert found.status.tolist() == [native.Status.UNREADABLE] * 3 + [native.Status.OK]
    assert native.Workspace().open_bytes([None, good]).status.tolist() == [native.Status.UNREADABLE, native.Status.OK]


@needs_native
@pytest.mark.skipif(not hasattr(os, "pread"), reason="no pread here")
def test_ranges_of_open_files_are_read_as_files_of_their_own_are(tmp_path):
    files = [jpeg(40, 50, "4:2:0"), jpeg(31, 20, "4:4:4"), b"no image"]
    (tmp_path / "one").write_bytes(b"head" + files[0] + files[1])
    (tmp_path / "two").write_bytes(files[2])
    space = native.Workspace()
    with (tmp_path / "one").open("rb") as one, (tmp_path / "two").open("rb") as two:
        starts = [4 + len(files[0]), 4, 0, 9, 4]
        lengths = np.array([len(files[1]), len(files[0]), len(files[2]), 1 << 20, -1])
        handles = [one.fileno(), one.fileno(), two.fileno(), one.fileno(), one.fileno()]
        found = space.open_ranges(handles, starts, lengths)
        assert found.sizes[:2].tolist() == [[31, 20], [40, 50]]
        unreadable = native.Status.UNREADABLE
        assert found.status.tolist() == [native.Status.OK] * 2 + [native.Status.HEADER, unreadable, unreadable]
        assert [space.contents(place) for place in range(4)] == [files[1], files[0], files[2], b""]
        assert space.open_ranges([one.fileno(), 9999], [4, 4], [len(files[0])] * 2).status.tolist() == [0, unreadable]
        with pytest.raises(ValueError, match="differ in length"):
            space.open_ranges([one.fileno()], [0, 1], [1, 1])


def test_a_file_that_is_not_decoded_does_not_disturb_its_neighbours() -> None:
    good = jpeg(40, 50, "4:2:0")
    out, status = by_native([good, good[:-600], b"", good], [(0, 0, 50, 40)] * 4, 16, 16)
    assert status.tolist() == [0, native.Status.TRUNCATED, native.Status.HEADER, 0]
    np.testing.assert_array_equal(out[0], out[3])
    assert (out[1:3] == 77).all()


@needs_native
def test_damage_that_libjpeg_warns_of_gets_a_status() -> None:
    good = jpeg(200, 200, "4:4:4")
    scan = good.index(b"\xff\xda") + 14
    holed = good[: scan + 500] + b"\xff\xd9" + good[scan + 500 :]
    filled = good[: scan + 500] + b"\xff\xfe\x00\x02" * 20 + good[scan + 600 :]
    _, status = by_native([holed, filled, good], [(0, 0, 200, 200)] * 3, 16, 16)
    assert status.tolist() == [native.Status.CORRUPT, native.Status.UNSUPPORTED, 0]  # a segment within the scan


@needs_native
def test_a_jpeg_without_its_tables_does_not_use_those_of_the_file_before() -> None:
    good = jpeg(40, 50, "4:4:4")
    table = good.index(b"\xff\xdb")
    length = int.from_bytes(good[table + 2 : table + 4], "big")
    without = good[:table] + good[table + 2 + length :]
    alone = by_native([without], [(0, 0, 50, 40)], 16, 16)[1]
    after = by_native([good, without], [(0, 0, 50, 40)] * 2, 16, 16)[1]
    assert alone[0] == after[1] != 0


@needs_native
@pytest.mark.parametrize(
    "box",
    [
        *[(-1, 0, 10, 10), (0, -0.5, 10, 10), (0, 0, 50.5, 10), (0, 0, 10, 41), (5, 5, 5, 10), (5, 9, 10, 5)],
        *[(np.nan, 0, 10, 10), (0, 0, np.inf, 10), (1e300, 0, 2e300, 10)],
    ],
)
def test_boxes_outside_the_image_get_a_status(box: Box) -> None:
    _, status = by_native([jpeg(40, 50, "4:2:0")], [box], 16, 16)
    assert status.tolist() == [native.Status.BOX]


@needs_native
def test_images_above_the_pixel_limit_are_left_to_pillow() -> None:
    data = jpeg(40, 50, "4:2:0")
    assert native.Workspace().open_bytes([data], max_pixels=2000).status.tolist() == [0]
    found = native.Workspace().open_bytes([data], max_pixels=1999)
    assert found.status.tolist() == [native.Status.TOO_LARGE]
    assert found.sizes.tolist() == [[40, 50]]
    frame = data.index(b"\xff\xc0")
    bomb = data[: frame + 5] + b"\xff\xdc\xff\xdc" + data[frame + 9 :]
    assert native.Workspace().open_bytes([bomb]).status.tolist() == [native.Status.TOO_LARGE]


@needs_native
def test_wrong_arguments_are_refused_with_the_shapes_wanted() -> None:
    space = native.Workspace()
    space.open_bytes([jpeg(40, 50, "4:2:0")] * 2)
    boxes, flips, out = np.array([[0, 0, 50, 40]] * 2, float), np.zeros(2, bool), np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"pass \(2, 4\) and \(2,\)"):
        space.decode(boxes[:1], flips, out)
    with pytest.raises(ValueError, match=r"pass \(2, 4\) and \(2,\)"):
        space.decode(boxes, flips[:1], out)
    for wrong in [out[:1], out.astype(np.int8), out[:, :, ::2], out[0]]:
        with pytest.raises(ValueError, match="C-contiguous uint8"):
            space.decode(boxes, flips, wrong)
    for shape in [(2, 8, 8, 2), (2, 0, 8, 3), (2, 1, 16385, 1)]:
        with pytest.raises(ValueError, match="1 or 3 channels"):
            space.decode(boxes, flips, np.zeros(shape, np.uint8))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        space.decode(boxes, flips, out)
    with pytest.raises(ValueError, match="not one of the 2 open files"):
        space.contents(2)
    with pytest.raises(ValueError, match="NUL"):
        space.open_files(["a\0b"])
    with pytest.raises(ValueError, match="positive"):
        space.skim(np.array([0, 1], np.int32))


@needs_native
def test_a_skim_stops_at_the_row_asked_for() -> None:
    space = native.Workspace()
    data = jpeg(64, 64, "4:2:0")
    middle = data.index(b"\xff\xda") + (len(data) - data.index(b"\xff\xda")) * 3 // 4
    damaged = data[:middle] + b"\xff\xd9"
    space.open_bytes([damaged, damaged, data[:100]])
    status = space.skim(np.array([16, 64, 5], np.int32)).tolist()
    assert status == [native.Status.OK, native.Status.CORRUPT, native.Status.HEADER]


@needs_native
def test_other_threads_run_during_a_call() -> None:
    data = [jpeg(200, 200, "4:4:4")] * 8
    began, enough = threading.Event(), threading.Event()

    def work() -> None:
        space = native.Workspace()
        space.open_bytes(data)
        out = np.empty((8, 64, 64, 3), np.uint8)
        began.set()
        for _ in range(500):
            if enough.is_set():
                break
            space.decode(np.array([[0, 0, 200, 200]] * 8, float), np.zeros(8, bool), out)

    # Python takes the GIL from no thread within so long a turn: only calls that give it up let this one run.
    interval = sys.getswitchinterval()
    thread = threading.Thread(target=work)
    turns = 0
    try:
        sys.setswitchinterval(1000)
        thread.start()
        began.wait()
        while thread.is_alive():
            turns += 1
            if turns == 3:
                enough.set()
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert enough.is_set(), turns


@needs_native
def test_threads_with_their_own_workspaces_agree() -> None:
    data, boxes = some_files()
    wanted = by_native(data, boxes, 20, 20)[0]
    results: list[np.ndarray] = []

    def work() -> None:
        space = native.Workspace()
        for _ in range(5):
            out = np.empty_like(wanted)
            space.open_bytes(data)
            space.decode(np.array(boxes), np.zeros(len(data), bool), out)
            results.append(out)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert all((result == wanted).all() for result in results)


def many_boxes(height: int, width: int) -> list[Box]:
    places = ["nw", "ne", "sw", "se", "cc", "nc", "sc", "cw", "ce"]
    boxes = [box_at(place, height, width) for place in places] + [
        (0, 0, width, height),
        (0.3, 0.7, width - 0.4, height),
    ]
    boxes += [(left, 3, min(left + 5.0, width), height - 9) for left in range(0, width, 7)]
    return boxes + [(7, top, width - 10, min(top + 4.0, height)) for top in range(0, height, 7)]


@needs_native
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("blocks", [1, 3, 8, 500])
def test_with_restart_markers_every_box_has_the_same_pixels(sampling: str, blocks: int) -> None:
    for height, width in [(97, 131), (64, 200), (200, 23)]:
        data = jpeg(height, width, sampling)
        written = native.write_restarts(data, blocks=blocks)
        assert written is not None
        boxes = many_boxes(height, width)
        for channels, allow_avx2 in [(3, True), (1, True), (3, False)]:
            how = {"channels": channels, "allow_avx2": allow_avx2}
            wanted = by_native([data] * len(boxes), boxes, 20, 16, **how)[0]
            out, status = by_native([written] * len(boxes), boxes, 20, 16, **how)
            assert not status.any()
            np.testing.assert_array_equal(out, wanted)
        whole = (0, 0, width, height)
        np.testing.assert_array_equal(by_pillow(written, whole, height, width), by_pillow(data, whole, height, width))


@needs_native
def test_with_restart_markers_fine_grain_in_rare_codes_has_the_same_pixels() -> None:
    """Codes of up to 16 bits, and values of up to 10 that follow them: noise at quality 100."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    noise[:, 40:80] = 7
    data = encode(Image.fromarray(noise), quality=100, subsampling=0)
    written = native.write_restarts(data)
    assert written is not None
    boxes = many_boxes(90, 120)
    wanted, out = (by_native([one] * len(boxes), boxes, 30, 40)[0] for one in (data, written))
    np.testing.assert_array_equal(out, wanted)


@needs_native
def test_restart_markers_are_written_into_what_the_decoder_takes_and_nothing_else() -> None:
    good = jpeg(80, 90, "4:2:0")
    scan = good.index(b"\xff\xda") + 14
    for other in [
        *[b"", b"no image", good[: len(good) // 2], good[: scan + 500] + b"\xff\xd9" + good[scan + 500 :]],
        *[encode(photo(40, 50), progressive=1), encode(photo(40, 50).convert("CMYK"))],
    ]:
        assert native.write_restarts(other) is None
    assert native.write_restarts(good, max_pixels=7199) is None
    written = native.write_restarts(good + b"more behind the image")
    assert written == native.write_restarts(good)
    assert native.write_restarts(written or b"") == written


@needs_native
def test_a_file_with_damaged_restart_markers_is_refused_or_as_libjpeg_sees_it() -> None:
    written = native.write_restarts(jpeg(120, 150, "4:4:4"), blocks=2)
    assert written is not None
    box: list[Box] = [(75, 60, 150, 120)]
    wanted = by_native([written], box, 24, 24)[0]
    groups = 2 + 4 + 8 + 7
    marker = written.index(b"\xff\xd3", written.index(b"\xff\xda"))
    for at, value in [(groups - 6, 0x7F), (groups - 7, 121), (groups - 2, 3), (groups, 0xFF), (groups + 5, 9)]:
        changed = written[:at] + bytes([value]) + written[at + 1 :]
        assert by_native([changed], box, 24, 24)[1][0] != native.Status.OK, at
    # In the first interval of group 8, where blocks 128 and 129 of the 19 in a row are.
    shifted = [written[:at] + bytes([written[at] + 1]) + written[at + 1 :] for at in range(groups + 1, groups + 17, 2)]
    assert set(by_native(shifted, [(115, 51, 116, 52)] * 8, 1, 1)[1]) == {native.Status.CORRUPT}
    renamed = written[: marker + 1] + b"\xd4" + written[marker + 2 :]
    assert by_native([renamed], [(0, 0, 150, 120)], 24, 24)[1].tolist() == [native.Status.CORRUPT]
    assert by_native([written[:-2]], box, 24, 24)[1].tolist() == [native.Status.TRUNCATED]
    unnamed = written.replace(b"imgcls", b"elsecl")
    np.testing.assert_array_equal(by_native([unnamed], box, 24, 24)[0], wanted)


@needs_native
def test_any_byte_of_a_file_with_restart_markers_may_be_wrong() -> None:
    written = native.write_restarts(jpeg(40, 60, "4:2:0"), blocks=2)
    assert written is not None
    draws = np.random.default_rng(0)
    changed = []
    for at in range(len(written)):
        changed.append(written[:at] + draws.bytes(1) + written[at + 1 :])
    out, status = by_native(changed, [(5, 8, 55, 38)] * len(changed), 8, 8)
    assert (status == 0).any()
    assert (status == native.Status.CORRUPT).any()
    assert (out[status == 0] != 77).any()


@needs_native
def test_odd_and_broken_files_get_a_status_or_the_pixels_of_pillow() -> None:
    root = os.environ.get("IMGCLS_REAL_DATA")
    if not root:
        pytest.skip("IMGCLS_REAL_DATA is not set: no odd and broken JPEGs to try")
    names = sorted(path for path in (Path(root) / "jpeg-corner-cases").iterdir() if path.suffix != ".tsv")
    data = [path.read_bytes() for path in names]
    found = native.Workspace().open_bytes(data)
    boxes = [(w * 0.2, h * 0.1, w * 0.9, float(h)) if h else (0.0, 0.0, 1.0, 1.0) for h, w in found.sizes.tolist()]
    out, status = by_native(data, boxes, 48, 64)
    taken = {path.name for path, code in zip(names, status, strict=True) if code == 0}
    for index, path in enumerate(names):
        if path.name in taken:
            np.testing.assert_array_equal(out[index], by_pillow(data[index], boxes[index], 48, 64), path.name)
    assert {
        "hopper_gray.jpg",
        "african_elephants_bw.jpg",
        "exif_orient_6_portrait_large.jpg",
        "invalid-exif.jpg",
    } <= taken
    left = "truncated.jpg african_elephants_truncated_file.jpg ultrahdr.jpg truncated_jpeg.jpg monkey12.jpg cymk.jpg"
    assert not taken & {*left.split(), "pil_sample_cmyk.jpg", "icc_profile_big.jpg", "png_named_JPEG.JPEG"}


@needs_native
def test_the_difference_from_one_call_of_pillow_is_small_and_without_bias_by_position() -> None:
    rng = np.random.default_rng(0)
    total, absolute = np.zeros((32, 32)), 0.0
    for seed in range(60):
        height, width = (int(side) for side in rng.integers(40, 160, 2))
        data = jpeg(height, width, SAMPLINGS[seed % 4], seed=seed)
        left, top = rng.uniform(0, width * 0.6), rng.uniform(0, height * 0.6)
        box = (left, top, rng.uniform(left + 8, width), rng.uniform(top + 8, height))
        out, _ = by_native([data], [box], 32, 32)
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box=box)).astype(int)
        assert np.abs(pixels - out[0]).max() <= 1
        absolute += np.abs(pixels - out[0]).mean() / 60
        total += (out[0] - pixels).mean(-1)
    assert absolute < 0.25
    assert np.abs(total / 60).max() < 0.25


def test_the_environment_switches_the_native_decoder_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLS_NATIVE", "0")
    assert not native.available()
    assert "IMGCLS_NATIVE=0" in native.why_not()
    with pytest.raises(RuntimeError, match="IMGCLS_NATIVE=0"):
        native.Workspace()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the module and its source, with nothing built."""
    source = Path(native.__file__)
    for path in (source, source.with_name("_native.c"), source.with_name("_intervals.h")):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / source.name


def run(module: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(module), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"IMGCLS_NATIVE": "1"} | environment,
    )


def test_without_a_library_the_reason_says_what_to_install(checkout: Path) -> None:
    done = run(checkout)
    assert done.returncode == 1
    assert "not built" in done.stdout
    assert "libjpeg-turbo" in done.stdout
    assert "python -m imgcls.data.decoding.native build" in done.stdout


def test_a_build_without_a_compiler_says_what_to_install(checkout: Path) -> None:
    done = run(checkout, "build", CC="no-such-compiler")
    assert done.returncode == 1
    assert "no C compiler 'no-such-compiler'" in done.stderr
    assert "apt-get install" in done.stderr


def test_a_build_that_fails_shows_the_words_of_the_compiler(checkout: Path) -> None:
    compiler = checkout.with_name("cc-without-headers")
    compiler.write_text("#!/bin/sh\necho 'jpeglib.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = run(checkout, "build", CC=str(compiler))
    assert done.returncode == 1
    assert "jpeglib.h: No such file" in done.stderr
    assert "headers of libjpeg-turbo" in done.stderr
    assert not list(checkout.parent.glob("*.so*"))


def test_a_build_without_its_source_says_where_to_run_it(checkout: Path) -> None:
    checkout.with_name("_native.c").unlink()
    done = run(checkout, "build")
    assert done.returncode == 1
    assert "in a checkout of the source" in done.stderr


def test_an_unknown_word_shows_the_usage(checkout: Path) -> None:
    done = run(checkout, "bild")
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.e2e
@needs_native
@pytest.mark.parametrize(
    ("pattern", "other", "said"),
    [
        (r"(#define IMGCLS_NATIVE_VERSION) \d+", r"\1 99", "is of version 99"),
        (r"jpeg_create_decompress\((.*?)\)", r"jpeg_CreateDecompress(\1, 1, 1)", "built for another libjpeg"),
    ],
)
def test_a_library_of_another_version_is_refused(checkout: Path, pattern: str, other: str, said: str) -> None:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    source = checkout.with_name("_native.c")
    source.write_text(re.sub(pattern, other, source.read_text()))
    done = run(checkout, "build")
    assert done.returncode == 1
    assert said in done.stdout
    assert "build it again" in done.stdout


def test_a_file_that_is_no_library_is_named(checkout: Path) -> None:
    checkout.with_name("_native.so").write_bytes(b"not a library")
    done = run(checkout)
    assert done.returncode == 1
    assert "does not load" in done.stdout
