"""Images that a file leaves out of a set: data.exclude."""

import copy
import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.config import Config, compose
from imgcls.data.sets import ImageSet, as_line, draw_noise, exclude, name_in_list, open_image_set


@functools.cache
def a_folder() -> Config:
    return compose(["data=folder"])


def opened(root: Path, file: Path | None = None) -> ImageSet:
    config = copy.deepcopy(a_folder())
    config.data = dataclasses.replace(config.data, root=str(root), exclude=None if file is None else str(file))
    return open_image_set(config)


def listed(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "my list.txt"
    file.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    return file


def names(images: ImageSet) -> tuple[list[str], list[str]]:
    train, val = ([split.path(index) for index in range(len(split))] for split in (images.train, images.val))
    return train, val


def test_what_a_list_names_is_left_out_and_all_else_keeps_its_order(tiny_folder: Path, tmp_path: Path) -> None:
    whole = names(opened(tiny_folder))
    file = listed(
        tmp_path,
        "# a comment",
        "train/green/03.JPEG",
        f"{tiny_folder}/train/red/00.JPEG",
        '"val/blue/04.JPEG"',
        "./train/blue/19.JPEG",
        "train/green/99.JPEG",
    )
    images = opened(tiny_folder, file)
    gone = {"train/green/03.JPEG", "train/red/00.JPEG", "val/blue/04.JPEG", "train/blue/19.JPEG"}
    paths = {f"{tiny_folder}/{name}" for name in gone}
    assert names(images) == tuple([path for path in part if path not in paths] for part in whole)
    assert "left out 3 training and 1 validation images; 1 of its 5 lines name no image here" in images.notes[-1]
    assert images.identity() != opened(tiny_folder, listed(tmp_path, "val/blue/04.JPEG")).identity()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["03.JPEG"], "'03.JPEG' is the end of 6 paths"),
        (["blue/01.JPEG"], "'blue/01.JPEG' is the end of 2 paths"),
        (["train/blue/99.JPEG", "x"], "none of its 2 lines names an image here"),
        (["ue/01.JPEG"], "none of its 1 lines"),
        (['"train'], "line 1: a name in quotes is JSON"),
        ([f"val/{name}/0{k}.JPEG" for name in ("blue", "green", "red") for k in range(5)], "leaves out all 15 images"),
    ],
)
def test_a_list_that_cannot_be_right_is_refused(
    lines: list[str], words: str, tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"data\.exclude=") as raised:
        opened(tiny_folder, listed(tmp_path, *lines))
    assert words in str(raised.value)


def test_a_list_that_is_not_there_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        opened(tiny_folder, tmp_path / "none.txt")


def test_a_class_that_a_list_empties_is_warned_of_and_keeps_its_label(tiny_folder: Path, tmp_path: Path) -> None:
    images = opened(tiny_folder, listed(tmp_path, *(f"train/blue/{k:02}.JPEG" for k in range(20))))
    assert images.classes == ["blue", "green", "red"]
    assert set(images.train.labels.tolist()) == {1, 2}
    assert "leaves no training images of blue" in images.warnings[-1]


def test_a_name_with_any_bytes_can_be_listed(tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(tiny_folder, root)
    odd = [
        b"two\nlines.jpg",
        b" space at both ends.jpg ",
        b"#hash.jpg",
        b'"quote".jpg',
        b"\xff.jpg",
        "é ü.jpg".encode(),
    ]
    for name in odd:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "train/blue/x.jpg")
        (root / "train/blue/x.jpg").rename(root / "train/blue" / name.decode(errors="surrogateescape"))
    whole = opened(root)
    paths = [whole.train.path(index) for index in range(len(whole.train)) if ".JPEG" not in whole.train.path(index)]
    assert len(paths) == len(odd)
    images = opened(root, listed(tmp_path, *(as_line(name_in_list(path, str(root))) for path in paths)))
    assert not [path for path in names(images)[0] if ".JPEG" not in path]
    assert len(images.train) == 60


def test_a_list_of_imagenet_names_its_files_in_every_form() -> None:
    assert name_in_list("/d/ILSVRC2012_img_train.tar:n02105855/n02105855_2933.JPEG", "/d") == "n02105855_2933.JPEG"
    assert name_in_list("/d/val/n02105855/ILSVRC2012_val_00000001.JPEG", "/d") == "ILSVRC2012_val_00000001.JPEG"
    assert name_in_list("/d/train/cat/1.jpg", "/d/") == "train/cat/1.jpg"


def test_images_in_memory_can_be_left_out(tmp_path: Path) -> None:
    images = exclude(draw_noise(num_images=8, image_size=4), listed(tmp_path, "noise/train[3]"))
    assert (len(images.train), len(images.val)) == (7, 8)
    assert images.train.path(3) == "noise/train[4]"
