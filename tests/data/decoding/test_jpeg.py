"""A JPEG cut to its upper rows: the same pixels in them, and no file cut that another would read otherwise."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgcls.data.decoding import BadImageError, FileReader, Plan, decode_box, jpeg, native
from imgcls.data.sets import FolderSplit


def noise(height: int, width: int, mode: str = "RGB") -> Image.Image:
    draws = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(draws).convert(mode)


def encoded(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("restart", [0, 1, 3])
@pytest.mark.parametrize("height", [1, 16, 50, 97])
def test_the_upper_rows_are_those_of_the_whole_to_the_bit(subsampling, restart, height):
    data = encoded(noise(height, 40), subsampling=subsampling, restart_marker_rows=restart)
    frame, whole = jpeg.read_frame(data), opened(data)
    assert frame is not None
    assert (frame.height, frame.width) == (height, 40)
    for rows in range(1, height + 1):
        cut = opened(jpeg.upper_rows(data, frame, rows))
        assert len(cut) <= rows + 2 + frame.block_rows
        assert np.array_equal(cut[:rows], whole[:rows])


def test_a_grayscale_file_is_cut_at_its_blocks_of_eight_rows():
    data = encoded(noise(90, 30, "L"))
    frame = jpeg.read_frame(data)
    assert frame is not None
    cut = opened(jpeg.upper_rows(data, frame, 20))
    assert cut.shape == (24, 30)
    assert np.array_equal(cut, opened(data)[:24])


def in_separate_scans(data: bytes) -> bytes:
    """The same header, as if only one of three components came in the first scan."""
    at = data.index(b"\xff\xda")
    return data[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + data[at + 14 :]


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise(90, 30), progressive=True),
        encoded(noise(90, 30, "CMYK")),
        in_separate_scans(encoded(noise(90, 30))),
        b"",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
    ],
    ids=["progressive", "cmyk", "several scans", "empty", "start only", "png"],
)
def test_other_files_are_not_to_be_cut(data):
    assert jpeg.read_frame(data) is None


def test_a_header_cut_off_anywhere_is_no_frame():
    data = encoded(noise(16, 16))
    frame = jpeg.read_frame(data)
    assert frame is not None
    for length in range(len(data)):
        assert jpeg.read_frame(data[:length]) is None


def test_a_file_without_an_end_is_refused_though_the_box_is_above_what_is_missing():
    data = encoded(noise(200, 200))[:-2000]
    with pytest.raises(BadImageError, match="truncated"):
        decode_box(data, np.array([0, 0, 10, 10]), np.empty((8, 8, 3), np.uint8), flip=False, name="a.jpg")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [1, 2, 4, 8, 40])  # 40: far more than libjpeg shrinks by
@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_box_is_resampled_as_if_the_whole_file_had_been_decoded(monkeypatch, factor, channels, draft, interpolation):
    data = encoded(noise(500, 400))
    draws = np.random.default_rng(0)
    how = {"flip": True, "name": "", "draft": draft, "interpolation": interpolation}
    size = 24 if factor < 40 else 4
    for _ in range(20):
        side = size * factor * draws.uniform(1, 1.9)
        left, top = draws.uniform(0, 400 - side), draws.uniform(0, 500 - side)
        box = np.array([left, top, left + side, top + side])
        fast, slow = (np.empty((size, size, channels), np.uint8) for _ in range(2))
        decode_box(data, box, fast, **how)
        with monkeypatch.context() as patched:
            patched.setattr(jpeg, "upper_rows", lambda data, frame, rows: data)
            decode_box(data, box, slow, **how)
        assert np.abs(fast.astype(int) - slow).max() <= (0 if draft else 1)


class Rows:
    """A crop of the full width between two rows, which are parts of the height."""

    num_draws = 1

    def __init__(self, top: float, bottom: float) -> None:
        self.edges = top, bottom

    def boxes(self, sizes: np.ndarray, draws: np.ndarray, *, image_size: int) -> np.ndarray:
        heights, widths = sizes[:, 0], sizes[:, 1]
        return np.stack([0 * widths, self.edges[0] * heights, widths, self.edges[1] * heights], axis=1).astype(float)


def damaged() -> list[bytes]:
    """Files of 4:2:0 with a wrong byte or two in the coded data, and with a broken segment in the middle of them."""
    draws = np.random.default_rng(0)
    settings: dict[str, Any] = {"subsampling": "4:2:0", "quality": 50}
    plain, data = encoded(noise(160, 120), **settings), encoded(noise(160, 120), **settings, restart_marker_rows=1)
    files = [plain, data]
    for number in range(300):
        odd = bytearray((plain, data)[number % 2])
        begin = odd.index(b"\xff\xda") + 20
        at = int(draws.integers(begin, len(odd) - 4))
        odd[at] = 0xFF if draws.random() < 0.5 else int(draws.integers(256))
        odd[at + 1] = int(draws.integers(256))
        files.append(bytes(odd))
    for part in (0.2, 0.5, 0.9):
        at = data.index(b"\xff\xda") + 20 + int(part * 4000)
        files += [data[:at] + segment + data[at:] for segment in (b"\xff\xc4\x00\x04\x00\x00", b"\xff\xc0\x00\x05abc")]
    return files


@pytest.mark.parametrize("decoder", ["native", "pillow"])
def test_whether_a_damaged_file_is_taken_does_not_depend_on_the_crop(tmp_path, monkeypatch, decoder):
    if decoder == "pillow":
        monkeypatch.setenv("IMGCLS_NATIVE", "0")
    elif not native.available():
        pytest.skip("the native decoder is not built")
    names = []
    for number, data in enumerate(damaged()):
        names.append(f"{number}.jpg".encode())
        (tmp_path / f"{number}.jpg").write_bytes(data)
    reader = FileReader(FolderSplit.of_names(tmp_path, names))
    indices = np.arange(len(names))
    refused = []
    for edges in ((0, 0.05), (0, 0.5), (0.4, 0.6), (0.9, 1), (0, 1)):
        plan = Plan(Rows(*edges), image_size=8, flip=0, seed=0)
        failures = reader.fill(plan, 0, indices, np.empty((len(names), 8, 8, 3), np.uint8))
        refused.append({position for position, _ in failures})
    assert all(one == refused[0] for one in refused), [sorted(one ^ refused[0]) for one in refused]
    assert 0 not in refused[0]
    assert 5 < len(refused[0]) < len(names)
