"""Sets as people have them: files of any kind, no val/, classes without images, numbers for names."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from imgcls.config import Config, compose
from imgcls.data.decoding import BadImageError, decode_whole, describe_left_out, formats, is_image
from imgcls.data.sets import FolderSplit, Holdout, ImageSet, open_folder, open_image_set
from imgcls.errors import ConfigError

pytestmark = pytest.mark.usefixtures("cache")
Draw = Callable[..., Path]


def draw(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of four training and two validation images."""
    for name in "ab":
        for part, count in (("train", 4), ("val", 2)):
            for number in range(count):
                draw(tmp_path / "set" / part / name / f"{number}.jpg")
    return tmp_path / "set"


def names(split: object) -> list[str]:
    assert isinstance(split, FolderSplit)
    return [os.fsdecode(split.name(index)) for index in range(len(split))]


KINDS = {".jfif": "JPEG", ".jpe": "JPEG", ".AVIF": "AVIF", ".ppm": "PPM", ".pgm": "PPM", ".jp2": "JPEG2000"}
KINDS |= {".apng": "PNG", ".heic": "HEIF", "": "PNG", ".dat": "JPEG"}


@pytest.mark.parametrize("ending, format", KINDS.items())
def test_what_pillow_opens_is_an_image_by_its_ending_or_by_its_content(photos, ending, format):
    file = draw(photos / "train/b" / f"more{ending}", format=format)
    images = open_folder(str(photos))
    assert f"b/more{ending}" in names(images.train)
    assert images.notes == images.warnings == ()
    assert decode_whole(file.read_bytes(), 3, file.name).shape == (12, 16, 3)


def test_what_is_no_image_is_counted_by_its_ending(photos):
    for name in ("x.txt", "y.TXT", "Thumbs.db", "LICENSE"):
        (photos / "train/a" / name).write_text("no image")
    (photos / "train/.hidden.txt").write_text("")
    (photos / "val/readme.md").write_text("")
    os.mkfifo(photos / "train/a/pipe")
    images = open_folder(str(photos))
    assert len(images.train) == 8
    assert images.notes == (
        f"{photos}/train: left out, as no images: without an ending: 2 files; .db: 1 file; .txt: 2 files",
        f"{photos}/val: left out, as no images: .md: 1 file",
    )
    assert open_folder(str(photos)).notes == images.notes  # from the kept list as well


def test_an_image_that_something_more_would_read_is_a_warning_that_names_it(photos, monkeypatch):
    (photos / "train/a/x.NEF").write_bytes(b"II*\0")
    images = open_folder(str(photos))
    assert images.warnings == (
        f"{photos}/train: left out, as no images: .nef: 1 file, a camera's raw file; save it as TIFF or JPEG",
    )


def test_a_link_to_nothing_is_named_as_such(photos):
    (photos / "train/a/z.jpg").symlink_to("/nowhere/x.jpg")
    train = open_folder(str(photos)).train
    assert isinstance(train, FolderSplit)
    with pytest.raises(BadImageError, match=r"a/z\.jpg: is a link to nothing"):
        train.read(4)


@pytest.mark.parametrize("emptied", [True, False], ids=["an empty folder", "no folder"])
def test_a_class_without_validation_images_is_trained_on_and_shifts_no_label(photos, emptied):
    for number in range(3):
        draw(photos / "train/aa" / f"{number}.jpg")
    if emptied:
        (photos / "val/aa").mkdir()
    images = open_folder(str(photos))
    assert images.classes == ["a", "aa", "b"]
    assert images.val.labels.tolist() == [0, 0, 2, 2]
    assert images.warnings == ("no validation images of 1 class ('aa'): they are trained on, and count in no score",)


def test_an_empty_training_folder_keeps_its_label(photos):
    (photos / "train/aa").mkdir()
    images = open_folder(str(photos))
    assert images.train.labels.tolist() == [0] * 4 + [2] * 4
    assert [warning.partition(":")[0] for warning in images.warnings] == [
        "no training images of 1 class ('aa')",
        "no validation images of 1 class ('aa')",
    ]


@pytest.fixture
def unsplit(tmp_path: Path) -> Path:
    """Class folders alone: 20 and 5 images."""
    for name, count in (("a", 20), ("b", 5)):
        for number in range(count):
            draw(tmp_path / "unsplit" / name / f"{number}.jpg")
    return tmp_path / "unsplit"


def split(root: Path, *words: str) -> ImageSet:
    return open_image_set(compose(["data=folder", f"data.root={root}", *words]))


@pytest.mark.parametrize("below", ["", "train"], ids=["classes alone", "train/ alone"])
def test_a_share_of_each_class_is_held_out_the_same_each_time_and_wherever_the_set_is(unsplit, tmp_path, below):
    root = unsplit
    if below:
        root = tmp_path / "elsewhere"
        root.mkdir()
        unsplit.rename(root / below)
    images = split(root, "data.val_share=0.2")
    assert np.bincount(images.val.labels).tolist() == [4, 1]
    assert np.bincount(images.train.labels).tolist() == [16, 4]
    assert names(images.val) == ["a/1.jpg", "a/13.jpg", "a/15.jpg", "a/2.jpg", "b/2.jpg"]  # whatever the machine
    assert set(names(images.val)).isdisjoint(names(images.train))
    assert images.notes == ("data.val_share=0.2: 5 of 25 images are held out for validation",)
    other = split(root, "data.val_share=0.2", "data.split_seed=1")
    assert names(other.val) != names(images.val)


def test_added_images_move_at_most_as_many_others_across_the_split(unsplit):
    before = set(names(split(unsplit, "data.val_share=0.2").val))
    moved = []
    for number in range(20, 40):
        draw(unsplit / "a" / f"{number}.jpg")
        after = split(unsplit, "data.val_share=0.2")
        old = {f"a/{other}.jpg" for other in range(number)} | {f"b/{other}.jpg" for other in range(5)}
        moved.append(len((set(names(after.val)) & old) ^ before))
        before = set(names(after.val))
    assert max(moved) == 1
    assert sum(moved) < 10


def test_folds_share_the_images_out(unsplit):
    folds = [split(unsplit, f"data.fold={fold}", "data.num_folds=5") for fold in range(5)]
    assert all(np.bincount(images.val.labels).tolist() == [4, 1] for images in folds)
    assert sorted(name for images in folds for name in names(images.val)) == sorted(
        names(folds[0].train) + names(folds[0].val)
    )


def test_a_class_of_one_image_is_trained_on():
    labels = np.array([0, 1, 1])
    assert Holdout(share=0.9).choose([b"a/1", b"b/1", b"b/2"], labels).tolist()[0] is False
    assert Holdout(share=0.1).choose([b"a/1", b"b/1", b"b/2"], labels).sum() == 1


REFUSED = [
    (["data.fold=1"], r"data\.fold=1 needs data\.num_folds"),
    (["data.fold=5", "data.num_folds=5"], r"data\.fold=5 is none of 0 to 4"),
    (["data.fold=1", "data.num_folds=5", "data.val_share=0.1"], r"val_share=0\.1 and data\.fold=1 both choose"),
    (["data.val_share=1.5"], r"data\.val_share=1\.5 must be above 0 and below 1"),
]


@pytest.mark.parametrize("words, message", REFUSED)
def test_a_split_that_makes_no_sense_is_refused(unsplit, words, message):
    with pytest.raises(ValueError, match=message):
        split(unsplit, *words)


def test_a_set_with_validation_images_is_not_split_again(photos):
    with pytest.raises(ValueError, match=r"data\.val_share=0\.1 would hold out .*set/val has validation images"):
        split(photos, "data.val_share=0.1")
    assert len(split(photos, "data.val_share=0.25", "data.source.val=none").val) == 2
    with pytest.raises(ValueError, match=r"data\.val_share=0\.1: data=digits has fixed"):
        open_image_set(compose(["data=digits", "data.val_share=0.1"]))


@pytest.fixture
def numbered(tmp_path: Path) -> Callable[..., Config]:
    for number in range(12):
        for part in ("train", "val"):
            draw(tmp_path / part / str(number) / "0.jpg")
    return lambda *words: compose(["data=folder", f"data.root={tmp_path}", *words])


def test_numbered_classes_say_their_order_and_come_as_numbers_on_request(numbered):
    as_text = open_image_set(numbered())
    assert as_text.classes[:4] == ["0", "1", "10", "11"]
    assert as_text.notes == (
        "classes are numbers, sorted as text (0, 1, 10, 11, ...); data.class_order=natural sorts them as numbers "
        "(0, 1, 2, 3, ...)",
    )
    natural = open_image_set(numbered("data.class_order=natural"))
    assert natural.classes == [str(number) for number in range(12)]
    assert natural.notes == ("classes are numbers, sorted as numbers (0, 1, 2, 3, ...)",)
    for part in (natural.train, natural.val):
        assert [int(name.split("/")[0]) for name in names(part)] == part.labels.tolist()


def test_without_pillow_heif_its_files_are_left_out_by_name(monkeypatch):
    assert formats._missing() == {}
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert formats._missing() == {"HEIF": "pillow-heif"}
    monkeypatch.setattr(formats, "NEEDS", {".heic": "needs pillow-heif"})
    assert describe_left_out({".heic": 12, ".txt": 1}) == ".heic: 12 files, needs pillow-heif; .txt: 1 file"


def test_a_folder_that_may_not_be_read_is_named_with_the_way_out(photos, monkeypatch):
    root = photos
    refused = os.fsencode(root / "train/b")
    scandir = os.scandir

    def guarded(path: bytes) -> object:  # for the user of this test may be root, who may read everything
        if path == refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(ValueError, match=r"train/b cannot be read: Permission denied; let this user read it"):
        open_folder(str(root))


def test_a_class_that_is_a_link_to_nothing_is_refused_and_one_inside_a_class_is_counted(photos, tmp_path):
    root = photos
    (root / "train/a/more").symlink_to(tmp_path / "nowhere")
    assert any("links to nothing: 1 file" in note for note in open_folder(str(root)).notes)
    (root / "train/c").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="train/c is a link to nothing; restore what it links to"):
        open_folder(str(root))


def test_the_folder_of_a_mac_archive_is_no_class(photos, tmp_path):
    draw(photos / "train/__MACOSX/0.jpg")
    assert open_folder(str(photos)).classes == ["a", "b"]


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [("train", "Train", "or set data.source.train=Train;"), ("val", "Valid", "data.source.val=Valid")],
)
def test_parts_of_other_names_are_offered(photos, part, name, words):
    (photos / part).rename(photos / name)
    with pytest.raises(FileNotFoundError) as raised:
        open_folder(str(photos))
    assert words in str(raised.value)


@pytest.mark.parametrize("ending", ["tga", "ico", "icns", "pcx", "dds", "qoi", "sgi", "dib", "xbm"])
def test_what_pillow_opens_is_an_image_by_its_ending(ending: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    for part, name in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")):
        (tmp_path / part / name).mkdir(parents=True)
        picture.convert("1" if ending == "xbm" else "RGB").save(tmp_path / part / name / f"0.{ending}")
    images = open_image_set(compose(["data=folder", f"data.root={tmp_path}"]))
    assert len(images.train) == len(images.val) == 2
    assert images.train.pixels(0, 3).std() > 30


@pytest.mark.parametrize("ending", ["sgi", "qoi", "ico", "dds"])
def test_what_begins_as_an_image_needs_no_ending_and_what_may_be_anything_is_left_out(
    ending: str, tmp_path: Path
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / f"0.{ending}")
    (tmp_path / f"0.{ending}").rename(tmp_path / "0")
    Image.new("RGB", (32, 32)).save(tmp_path / "1.tga")
    (tmp_path / "1.tga").rename(tmp_path / "1")
    (tmp_path / "labels.yaml").write_text("a: b\nc: d\n")
    assert [is_image(os.fsencode(tmp_path / name)) for name in ("0", "1", "labels.yaml")] == [True, False, False]


def test_lab_is_shown_as_rgb(tmp_path: Path) -> None:
    colours = Image.fromarray(np.uint8([[[200, 30, 40], [10, 180, 60]], [[250, 250, 250], [5, 5, 5]]]))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(colours, to_lab)
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    shown = decode_whole((tmp_path / "lab.tif").read_bytes(), 3, "lab.tif")
    assert np.abs(shown.astype(int) - np.asarray(colours)).max() < 20  # of 8-bit LAB


def test_folders_by_other_names_are_named_together(tmp_path: Path) -> None:
    for part in ("Train", "valid"):
        (tmp_path / part / "a").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"set data\.source\.train=Train data\.source\.val=valid; a folder"):
        open_image_set(compose(["data=folder", f"data.root={tmp_path}"]))
