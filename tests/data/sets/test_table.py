"""CSV files of images: what is read, in which order, and which lines are refused with which words."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.config import compose
from imgcls.data.sets import FolderSplit, ImageSet, open_csv, open_image_set


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV file's path, beside images/0.png to 11.png."""
    (tmp_path / "images").mkdir()
    for number in range(12):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / f"images/{number}.png")
    return tmp_path / "labels.csv"


def open_table(table: Path, text: str, *words: str) -> ImageSet:
    table.write_text(text, encoding="utf-8")
    return open_image_set(compose(["data=csv", f"data.root={table}", *words]))


def names(split: object) -> list[str]:
    assert isinstance(split, FolderSplit)
    return [os.fsdecode(split.name(index)) for index in range(len(split))]


ROWS = [f"images/{i}.png,{'cat' if i % 2 else 'dog'},{'val' if i > 7 else 'train'}" for i in range(12)]
WHOLE = "\n".join(["path,label,split", *ROWS]) + "\n"


def test_paths_labels_and_splits_are_read(table):
    images = open_table(table, WHOLE)
    assert images.classes == ["cat", "dog"]
    assert names(images.train) == [f"images/{i}.png" for i in range(8)]
    assert images.train.labels.tolist() == [1, 0] * 4
    assert names(images.val) == ["images/10.png", "images/11.png", "images/8.png", "images/9.png"]
    assert images.val.pixels(1, 3)[0, 0].tolist() == [11, 11, 11]
    assert images.train.path(0) == str(table.parent / "images/0.png")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace("path,label,split", "File,Class,Set").replace("train", " Train"),
        lambda text: "\n".join([text.split("\n")[0], *reversed(text.split("\n")[1:])]),
        lambda text: text.replace("images/3.png", '"images/3.png"'),
        lambda text: text + "images/none.png,cow,test\n",
        lambda text: text.replace("images/", "images\\"),
        lambda text: text.replace(".png", ""),
        lambda text: "id,label,is_valid" + text[16:].replace(",train", ",0").replace(",val\n", ",1\n"),
        lambda text: "name,y,is_valid" + text[16:].replace(",train", ",False").replace(",val", ",True"),
        lambda text: text.replace("path,", "path,id,").replace(".png,", ".png,7,"),
    ],
    ids=["mark", "crlf", "semicolons", "tabs", "other names", "other order", "quotes", "test rows", "backslashes",
         "no endings", "numbers", "true and false", "another id"],
)  # fmt: skip
def test_the_way_it_is_written_changes_nothing(table, change):
    (table.parent / "images/none.png").touch()
    assert open_table(table, change(WHOLE)).identity() == open_table(table, WHOLE).identity()


def test_absolute_paths_are_the_same_images(table):
    text = WHOLE.replace("images/", f"{table.parent}/images/")
    assert open_table(table, text).identity() == open_table(table, WHOLE).identity()


def test_without_a_split_a_share_of_each_label_is_held_out(table):
    text = "\n".join(["path,label", *(row.rpartition(",")[0] for row in ROWS)])
    with pytest.raises(ValueError, match=r"no validation images; hold some .*data\.val_share=0\.1"):
        open_table(table, text)
    images = open_table(table, text, "data.val_share=0.34")
    assert np.bincount(images.val.labels).tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"data\.val_share=0\.34 would hold out .*has validation images"):
        open_table(table, WHOLE, "data.val_share=0.34")


def test_numbers_as_labels_are_classes_in_the_order_that_is_asked_for(table):
    text = "\n".join(
        ["path,label,split", *(f"images/{i}.png,{i % 11},{'val' if i > 10 else 'train'}" for i in range(12))]
    )
    images = open_table(table, text)
    assert images.classes[:3] == ["0", "1", "10"]
    assert "data.class_order=natural" in images.notes[0]
    assert open_table(table, text, "data.class_order=natural").classes == [str(i) for i in range(11)]


REFUSED = [
    (WHOLE.replace("images/3.png,cat", "images/3.png,"), r"labels\.csv, line 5: no label"),
    (WHOLE.replace("images/3.png,cat", ",cat"), r"line 5: no path"),
    (WHOLE.replace("images/3.png,cat,train", "images/3.png,cat,trian"), r"line 5: split is 'trian'; use train, val"),
    (WHOLE.replace("images/3.png", "images/2.png"), r"line 5: images/2\.png is on line 4 already"),
    (
        WHOLE.replace("images/3", "images/x3").replace("images/5", "y5"),
        r"line 5: images/x3\.png is not there \(2 of 12",
    ),
    (WHOLE.replace("path,label,split", "a,b,c"), r"no column path in its first line, which is 'a,b,c'"),
    (WHOLE.replace("label,split", "label,class"), r"several columns for the label \(label, class\)"),
    (WHOLE.replace("dog", "cat"), r"has 1 different labels"),
    (WHOLE.replace("train", "test"), r"has no training images"),
    ("", r"no column path"),
]


@pytest.mark.parametrize("text, message", REFUSED)
def test_a_line_that_cannot_be_right_is_named(table, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_table(table, text)


def test_a_column_that_is_not_there_is_named_with_the_nearest(table):
    with pytest.raises(ValueError, match=r"label_column=labl: .* no such column \(did you mean label\?\)"):
        open_table(table, WHOLE, "data.source.label_column=labl")


def test_a_table_that_is_no_utf_8_is_named_as_such(table):
    table.write_bytes("path,label\nimages/ü.png,a\n".encode("latin-1"))
    with pytest.raises(FileNotFoundError, match="is not there, for the file is no UTF-8: save it so"):
        open_csv(str(table))


def test_a_table_of_excel_in_utf_16_is_read(table):
    table.write_text(WHOLE.replace(",", "\t"), encoding="utf-16")
    images = open_image_set(compose(["data=csv", f"data.root={table}"]))
    assert (len(images.train), len(images.val), images.classes) == (8, 4, ["cat", "dog"])


def test_a_name_without_its_ending_that_two_files_have_is_refused(table):
    Image.new("RGB", (4, 4)).save(table.parent / "images/3.jpg")
    with pytest.raises(FileNotFoundError, match=r"line 5: images/3 is not there"):
        open_csv(str(write(table, WHOLE.replace(".png", ""))))


def write(table: Path, text: str) -> Path:
    table.write_text(text, encoding="utf-8")
    return table
