"""Every file read: what is damaged, odd, or there twice; and the checksums that are kept."""

import contextlib
import copy
import dataclasses
import functools
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from imgcls.commands import pack, verify_data
from imgcls.commands.verify_data import write_list
from imgcls.config import Config, compose
from imgcls.data.decoding import decode_whole, native
from imgcls.data.sets import ImageSet, known_odd_files, open_image_set, verification, verify
from imgcls.data.sets.verification import Odd, odd_of_imagenet
from imgcls.doctor.images import look_at_images
from imgcls.runs import CONTENT, check_same_run


@pytest.fixture
def root(tiny_folder: Path, tmp_path: Path, cache: Path) -> Path:
    del cache
    return Path(shutil.copytree(tiny_folder, tmp_path / "set"))


@functools.cache
def a_folder() -> Config:
    return compose(["data=folder"])


def opened(root: Path, **settings: object) -> ImageSet:
    config = copy.deepcopy(a_folder())
    config.data = dataclasses.replace(config.data, root=str(root), **settings)
    return open_image_set(config)


def verified(root: Path) -> verification.Verification:
    return verify(opened(root), channels=3, num_threads=1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_what_is_damaged_odd_or_twice_is_found(root: Path) -> None:
    cut(root / "train/blue/03.JPEG")
    (root / "val/red/00.JPEG").write_bytes(b"no image")
    shutil.copy(root / "train/green/05.JPEG", root / "val/green/05.JPEG")
    shutil.copy(root / "train/green/06.JPEG", root / "train/red/copy.JPEG")
    photo = Image.open(root / "train/red/01.JPEG")
    photo.convert("CMYK").save(root / "train/red/cmyk.JPEG")
    photo.save(root / "train/red/png.JPEG", format="PNG")
    Image.new("RGB", (4, 9)).save(root / "train/red/tiny.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(root / "train/red/turned.JPEG", exif=exif)
    photo.convert("RGBA").save(root / "train/red/clear.png")
    found = verified(root)
    assert found.num_images == found.num_read == 82
    assert [place.path.removeprefix(f"{root}/") for place, _ in found.bad] == ["train/blue/03.JPEG", "val/red/00.JPEG"]
    odd = {flag: [Path(place.path).name for place in places] for flag, places in found.odd.items() if places}
    assert odd == {
        Odd.CMYK: ["cmyk.JPEG"],
        Odd.OTHER_KIND: ["png.JPEG"],
        Odd.TINY: ["tiny.png"],
        Odd.TURNED: ["turned.JPEG"],
        Odd.TRANSPARENT: ["clear.png"],
    }
    assert [[Path(place.path).name for place in group] for group in found.in_both_parts()] == [["05.JPEG", "05.JPEG"]]
    assert [[Path(place.path).name for place in group] for group in found.of_two_classes()] == [
        ["06.JPEG", "copy.JPEG"]
    ]
    assert not found.within_a_class()


def test_a_call_that_was_broken_off_goes_on_and_a_changed_file_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "AT_A_TIME", 8)
    looked_at = 0

    def stop_after_24(num: int) -> None:
        nonlocal looked_at
        looked_at += num
        if looked_at == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(opened(root), channels=3, num_threads=1, progress=stop_after_24)
    assert verified(root).num_read == 75 - 24
    assert verified(root).num_read == 0
    os.utime(root / "val/red/00.JPEG", ns=(1, 1))
    cut(root / "train/red/00.JPEG")
    found = verified(root)
    assert (found.num_read, len(found.bad)) == (2, 1)
    # A damaged file is looked at each time: what decodes it may be another version.
    found = verified(root)
    assert (found.num_read, len(found.bad)) == (1, 1)


def test_two_sets_of_the_same_names_and_other_bytes_are_two_sets_once_both_are_verified(
    root: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(root, tmp_path / "other"))
    image = other / "train/red/00.JPEG"
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    before, changed = opened(root).identity(), opened(other).identity()
    assert CONTENT not in before
    check_same_run(tmp_path, "data set", before, changed)
    verified(root)
    after = opened(root).identity()
    assert CONTENT in after
    assert "checksums of all files are known" in opened(root).notes[-1]
    check_same_run(tmp_path, "data set", after, opened(other).identity())  # nothing is known of the other
    verified(other)
    with pytest.raises(ValueError, match=r"another data set .checksum of the files"):
        check_same_run(tmp_path, "data set", after, opened(other).identity())
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    verified(copy)
    check_same_run(tmp_path, "data set", after, opened(copy).identity())


def test_checksums_are_those_of_the_files_that_are_left_whatever_the_split(root: Path, tmp_path: Path) -> None:
    cut(root / "train/red/00.JPEG")
    verified(root)
    (root / "train/red/01.JPEG").chmod(0o644)
    assert CONTENT in opened(root).identity()
    (tmp_path / "list").write_text("train/red/00.JPEG\n")
    without = opened(root, exclude=str(tmp_path / "list")).identity()
    assert without[CONTENT] != opened(root).identity()[CONTENT]
    shutil.rmtree(root / "val")
    parts = [opened(root, val_share=0.2, split_seed=seed).identity() for seed in (0, 1)]
    assert parts[0][CONTENT] != parts[1][CONTENT]
    os.utime(root / "train/red/03.JPEG", ns=(1, 1))
    assert CONTENT not in opened(root, val_share=0.2).identity()
    assert "of 60 files are known" in opened(root, val_share=0.2).notes[-1]


def test_imagenets_odd_files_are_known_by_name_and_a_converted_copy_is_told(root: Path) -> None:
    kinds = list(known_odd_files().values())
    assert (kinds.count("CMYK"), kinds.count("PNG")) == (22, 1)
    photo = Image.open(root / "train/red/01.JPEG")
    photo.convert("CMYK").save(root / "train/red/n01739381_1309.JPEG")
    photo.save(root / "train/red/n02105855_2933.JPEG")
    found = {Path(place.path).name: (kind, same) for place, kind, same in odd_of_imagenet(verified(root))}
    assert found == {"n01739381_1309.JPEG": ("CMYK", True), "n02105855_2933.JPEG": ("PNG", False)}


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["verify_data", *words])
    with pytest.raises(SystemExit) as ended:
        verify_data.main()
    return int(ended.value.code or 0)


def test_the_command_writes_a_list_that_training_takes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data=folder", f"data.root={root}", "data.num_threads=1"]
    assert run(monkeypatch, *words) == 0
    assert len(opened(root, exclude="exclude.txt").train) == 60
    cut(root / "train/blue/03.JPEG")
    assert run(monkeypatch, *words, "out=bad.txt") == 1
    assert "74 of 75 images can be decoded; 1 files were read now" in capsys.readouterr().out
    assert len(opened(root, exclude="bad.txt").train) == 59
    assert run(monkeypatch, *words, "data.exclude=bad.txt", "checksums=sums") == 0
    assert run(monkeypatch, *words, "data.exclude=bad.txt", "checksums=sums") == 0
    assert "all 74 files are those of sums" in capsys.readouterr().out
    shutil.copy(root / "train/blue/04.JPEG", root / "train/blue/05.JPEG")
    assert run(monkeypatch, *words, "--data.exclude", "bad.txt", "--checksums", "sums") == 1
    assert "1 differ from sums:\n    train/blue/05.JPEG" in capsys.readouterr().out
    Path("mine.txt").write_text("mine")
    assert run(monkeypatch, *words, "out=mine.txt") == 2
    assert "out=mine.txt exists, and is no list" in capsys.readouterr().err
    assert run(monkeypatch, *words, "checksms=sums") == 2
    assert not Path("runs").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken EXIF data
@pytest.mark.skipif("IMGCLS_REAL_DATA" not in os.environ, reason="IMGCLS_REAL_DATA names no folder of real images")
def test_real_odd_and_broken_files_are_told_apart(tmp_path: Path, cache: Path) -> None:
    del cache
    source = Path(os.environ["IMGCLS_REAL_DATA"]) / "jpeg-corner-cases"
    files = sorted(path for path in source.iterdir() if path.suffix.lower() not in (".tsv", ".md"))
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / name).mkdir(parents=True)
        for file in files if name == "train/a" else files[:1]:
            shutil.copy(file, tmp_path / name / file.name)
    found = verified(tmp_path)
    bad = {Path(place.path).name for place, _ in found.bad if place.path.startswith(f"{tmp_path}/train/a/")}

    def decodes(file: Path) -> bool:
        try:
            decode_whole(file.read_bytes(), 3, file.name)
        except ValueError:
            return False
        return True

    assert bad == {file.name for file in files if not decodes(file)}
    named = [Path(place.path).name for place in found.odd[Odd.OTHER_KIND] if "train/a" in place.path]
    assert {"png_named_JPEG.JPEG", "gif_named_JPEG.JPEG", "bmp_named_JPEG.JPEG"} <= set(named)
    assert {Path(place.path).name for place in found.odd[Odd.CMYK]} >= {"cymk.jpg", "pil_sample_cmyk.jpg"}


def tar(target: Path, files: list[Path], *, classes: list[str], name: Callable[[int, Path], str]) -> None:
    """Write a shard, in which a class is its number."""
    with tarfile.open(target, "w") as archive:
        for number, file in enumerate(files):
            archive.add(file, f"{name(number, file)}.jpg")
            label = tarfile.TarInfo(f"{name(number, file)}.cls")
            text = str(classes.index(file.parent.name)).encode()
            label.size = len(text)
            archive.addfile(label, io.BytesIO(text))


def shards(root: Path, target: Path) -> list[str]:
    """Shards whose members are called alike in each: 0.jpg, 1.jpg, ..."""
    target.mkdir()
    classes = sorted(path.name for path in (root / "train").iterdir())
    for part, number in (("train", 0), ("train", 1), ("val", 0)):
        files = sorted(root.glob(f"{part}/*/*"))[number :: 2 if part == "train" else 1]
        tar(target / f"{part}-{number}.tar", files, classes=classes, name=lambda place, file: str(place))
    return ["data=webdataset", f"data.root={target}"]


def one_tar(root: Path, target: Path) -> list[str]:
    with tarfile.open(target.with_suffix(".tar"), "w") as archive:
        archive.add(root, "photos")
    return ["data=webdataset", f"data.root={target.with_suffix('.tar')}"]


def parquet(root: Path, target: Path) -> list[str]:
    target.mkdir()
    for part, number in (("train", 0), ("train", 1), ("val", 0)):
        files = sorted(root.glob(f"{part}/*/*"))[number :: 2 if part == "train" else 1]
        images = [{"bytes": file.read_bytes(), "path": f"{file.parent.name}/{file.name}"} for file in files]
        table = pyarrow.table({"image": images, "label": [file.parent.name for file in files]})
        pyarrow.parquet.write_table(table, target / f"{part}-{number}.parquet")
    return ["data=parquet", f"data.root={target}"]


def table(root: Path, target: Path) -> list[str]:
    lines = [f"{file},{file.parent.name},{file.parent.parent.name}" for file in sorted(root.glob("*/*/*"))]
    target.with_suffix(".csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    return ["data=csv", f"data.root={target.with_suffix('.csv')}"]


def packed(root: Path, target: Path) -> list[str]:
    if not native.available():
        pytest.skip(native.why_not() or "no native decoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pack.py", str(root), str(target), "--threads=1"])
        with contextlib.suppress(SystemExit):
            pack.main()
    return ["data=pack", f"data.root={target}"]


def folders(root: Path, target: Path) -> list[str]:
    del target
    return ["data=folder", f"data.root={root}"]


FORMS = [folders, shards, one_tar, parquet, table, packed]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_of_a_set_is_verified_and_looked_at_alike(
    form: Callable[[Path, Path], list[str]], root: Path, tmp_path: Path
) -> None:
    if form is not packed:  # a pack does not take it
        cut(root / "train/blue/03.JPEG")
    shutil.copy(root / "train/green/05.JPEG", root / "val/green/05.JPEG")
    Image.open(root / "train/red/01.JPEG").convert("CMYK").save(root / "train/red/02.JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "train/red/03.JPEG").save(root / "train/red/03.JPEG", exif=exif)
    words = [*form(root, tmp_path / "form"), "data.num_threads=1"]
    before = {finding.topic: finding.text for finding in look_at_images(compose(words), open_image_set(compose(words)))}
    found = verify(open_image_set(compose(words)), channels=3, num_threads=1)
    assert (len(found.bad), len(found.odd[Odd.CMYK]), len(found.in_both_parts())) == (form is not packed, 1, 1)
    assert (found.num_images, len(found.checksums)) == (76, 76 - len(found.bad))
    assert "of 16 validation images, among 60 training images, 1 are training images too" in before["leak"]
    assert (
        "1 of 60 sampled training images have an EXIF orientation" in before["pixels"] or "1 of 59" in before["pixels"]
    )
    assert re.match(r"about \d.* of files", before["files"])
    again = verify(open_image_set(compose(words)), channels=3, num_threads=1)
    assert (again.num_read, len(again.bad)) == (len(found.bad), len(found.bad))  # a damaged one is read again
    if found.bad:
        out = tmp_path / "exclude.txt"
        write_list(out, found, compose(words))
        rest = open_image_set(compose([*words, f"data.exclude={out}"]))
        assert (len(rest.train), len(rest.val)) == (59, 16)


def test_a_shard_that_changes_is_read_again_and_no_other(root: Path, tmp_path: Path) -> None:
    words = [*shards(root, tmp_path / "form"), "data.num_threads=1"]
    verify(open_image_set(compose(words)), channels=3, num_threads=1)
    os.utime(tmp_path / "form/train-1.tar", (1, 1))
    assert verify(open_image_set(compose(words)), channels=3, num_threads=1).num_read == 30
