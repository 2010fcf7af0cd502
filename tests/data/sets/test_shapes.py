"""The embedded set: the same everywhere, whole or not there, varied, of ten figures and ten hues."""

import colorsys
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.data.sets import CLASSES, VERSION, draw_image, draw_set, open_shapes

shapes = importlib.import_module("imgcls.data.sets.shapes")


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(shapes, "NUM_TRAIN", 3)
    monkeypatch.setattr(shapes, "NUM_VAL", 2)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.JPEG")}


def test_the_set_has_ten_classes_in_imagenets_layout(few, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path))
    images = open_shapes()
    assert images.classes == sorted(CLASSES)
    assert (len(images.train), len(images.val), images.channels) == (30, 20, 3)
    assert (tmp_path / VERSION / "train/star/star_0000.JPEG").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_it_is_drawn_once_and_wherever_it_is_asked_for(few, tmp_path, monkeypatch):
    open_shapes(str(tmp_path))
    monkeypatch.setattr(shapes, "draw_set", None)
    assert len(open_shapes(str(tmp_path)).train) == 30


def test_every_drawing_is_the_same_and_no_two_are(few, tmp_path):
    for name in ("one", "two"):
        draw_set(tmp_path / name)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert len(set(files_of(tmp_path / "one").values())) == 50


def test_a_drawing_that_is_broken_off_leaves_nothing(few, tmp_path, monkeypatch):
    def broken(label: int, number: int) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "draw_image", broken)
    with pytest.raises(KeyboardInterrupt):
        draw_set(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("IMGCLS_CACHE", str(blocked))
    with pytest.raises(FileNotFoundError, match=r"cannot be written to \(File exists\); set IMGCLS_CACHE to a folder"):
        open_shapes()


def test_two_processes_at_once_end_with_one_whole_set(tmp_path):
    code = (
        "from imgcls.data.sets import shapes; import sys\n"
        "shapes.NUM_TRAIN, shapes.NUM_VAL = 6, 3\n"
        "print(len(shapes.open_shapes(sys.argv[1]).train))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"IMGCLS_CACHE": str(tmp_path / "cache")}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == ["60"] * 3
    assert len(files_of(tmp_path / VERSION)) == 90
    assert {path.name for path in tmp_path.iterdir()} <= {VERSION, "cache"}


def test_images_vary_in_size_shape_and_colour():
    images = [Image.open(io.BytesIO(draw_image(label, number))) for label in range(10) for number in range(12)]
    assert len({image.size for image in images}) > 100
    assert min(min(image.size) for image in images) >= 72
    assert {image.mode for image in images} == {"RGB", "L"}


def test_figures_tell_the_classes_apart_where_colours_do_not():
    def pixels(first: int, last: int) -> np.ndarray:
        files = [draw_image(label, number) for label in range(10) for number in range(first, last)]
        small = [Image.open(io.BytesIO(file)).convert("L").resize((16, 16), Image.Resampling.BOX) for file in files]
        flat = np.stack([np.asarray(image, np.float64).ravel() / 255 for image in small])
        return np.hstack([flat, np.ones((len(flat), 1))])

    train, val = pixels(0, 40), pixels(200, 215)
    targets = np.repeat(np.eye(10), 40, axis=0)
    weights = np.linalg.solve(train.T @ train + 10 * np.eye(train.shape[1]), train.T @ targets)
    right = (val @ weights).argmax(axis=1) == np.repeat(np.arange(10), 15)
    assert 0.2 < right.mean() < 0.5


def test_a_class_has_a_hue():
    for label in range(10):
        colours = [shapes._bright(label, np.random.default_rng(number)) for number in range(20)]
        hues = [colorsys.rgb_to_hsv(*(level / 255 for level in colour))[0] for colour in colours]
        turns = [(hue - label / 10 + 0.5) % 1 - 0.5 for hue in hues]
        assert 0.02 < max(turns) - min(turns) < 0.055
        assert max(map(abs, turns)) < 0.03
