"""A tiny subset of a set of images, in any form."""

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet
import pytest

from imgcls.commands.subset import (
    Chosen,
    Numbers,
    add_image,
    choose,
    folder_names,
    main,
    subset,
    write_folders,
    write_tar,
)
from imgcls.config import compose
from imgcls.data.sets import FolderSplit, open_folder, open_image_set, open_webdataset
from imgcls.environment import CONF_DIR

SCRIPT = str(CONF_DIR.parent / "scripts/subset.py")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_a_subset_is_a_data_set_of_its_own(tiny_folder: Path, tmp_path: Path) -> None:
    for number, flags in enumerate(([], ["--link"])):
        target = tmp_path / str(number)
        done = run(tiny_folder, target, "--classes", "2", "--train", "3", "--val", "1", *flags)
        assert done.returncode == 0, done.stderr
        assert "8 images of 2 classes" in done.stdout
        images = open_folder(str(target))
        assert (images.classes, len(images.train), len(images.val)) == (["blue", "green"], 6, 2)


def test_only_what_training_takes_for_an_image_or_a_class_is_taken(tiny_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_folder, source)
    for part in ("train", "val"):
        for name in (f"{part}/blue/._00.JPEG", f"{part}/blue/.00.jpg", f"{part}/blue/0.txt", f"{part}/.a/0.jpg"):
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_bytes(b"no image")
    (source / "train/blue/0").mkdir()
    (source / "train/blue/0/deep.jpg").write_bytes(b"of its class too")
    done = run(source, tmp_path / "new", "--classes", "1", "--train", "3", "--val", "2")
    assert done.returncode == 0, done.stderr
    taken = sorted(path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*.*"))
    assert taken == [f"train/blue/{name}" for name in ("0/deep.jpg", "00.JPEG", "01.JPEG")] + [
        f"val/blue/{name}" for name in ("00.JPEG", "01.JPEG")
    ]


@pytest.mark.e2e
def test_what_is_not_there_is_refused_with_the_number_there_is(tiny_folder: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["--classes", "9"], "--classes 9, but"),
        (["--classes", "0"], "--classes 0; use 1 or more"),
        (["--classes", "2", "--train", "-1"], "--train -1; use 1 or more"),
        (["--classes", "2", "--val", "0"], "--val 0; use 1 or more"),
        (["--classes", "2", "--train", "99"], "has 20 images"),
        (["--classes", "2", "--val", "99"], "has 5 images"),
    ):
        done = run(tiny_folder, tmp_path / "new", "--train", "3", "--val", "1", *arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert not (tmp_path / "new").exists()
    assert "has no train/" in run(tmp_path, tmp_path / "new").stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "is not empty" in run(tiny_folder, tmp_path / "full").stderr


@pytest.mark.parametrize("flags", [[], ["--link"]])
def test_a_killed_subset_goes_on_with_the_same_command_alone(
    flags: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    numbers = ["--classes", "2", "--train", "3", "--val", "1", *flags]
    assert run(tiny_folder, whole, *numbers).returncode == 0
    # A kill after the third image, in the middle of the fourth.
    broken_off = (
        "import os, shutil, sys, runpy; from pathlib import Path; calls = []\n"
        "def stop(event, arguments):\n"
        "    if event in ('os.rename', 'os.symlink') and '.JPEG' in str(arguments):\n"
        "        calls.append(1)\n"
        "        if len(calls) == 4: os.kill(os.getpid(), 9)\n"
        f"sys.addaudithook(stop); sys.argv[:] = sys.argv[1:]; runpy.run_path({SCRIPT!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", broken_off, SCRIPT, str(tiny_folder), str(killed), *numbers]
    assert subprocess.run(command, timeout=60).returncode == -9
    assert len([file for file in killed.rglob("*.JPEG") if file.name[0] != "."]) == 3
    other = run(tiny_folder, killed, "--classes", "2", "--train", "2", "--val", "1", *flags)
    assert "holds an unfinished subset of other numbers" in other.stderr
    again = run(tiny_folder, killed, *numbers)
    assert again.returncode == 0, again.stderr
    names = [sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) for folder in (whole, killed)]
    assert names[0] == names[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    file = next(tiny_folder.rglob("*.JPEG"))
    image = Chosen(FolderSplit.of_files([file]), 0, b"full.JPEG")
    (tmp_path / ".full.JPEG.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        add_image(image, tmp_path / "full.JPEG", link=False)
    (tmp_path / ".full.tar.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_tar([image], tmp_path / "full.tar")
    assert not list(tmp_path.iterdir())


def as_csv(source: Path, target: Path) -> list[str]:
    files = sorted(source.glob("*/*/*"))
    rows = [f"{file},{file.parent.name},{file.parent.parent.name}" for file in files]
    target.write_text("\n".join(["path,label,split", *rows]))
    return ["data=csv", f"data.root={target}"]


def as_shards(source: Path, target: Path) -> list[str]:
    target.mkdir()
    for part in ("train", "val"):
        with tarfile.open(target / f"{part}-0.tar", "w") as archive:
            for file in sorted(source.glob(f"{part}/*/*")):
                key = f"{file.parent.name}_{file.stem}"
                archive.add(file, f"{key}.jpg")
                label = tarfile.TarInfo(f"{key}.cls")
                label.size = len(file.parent.name)
                archive.addfile(label, io.BytesIO(file.parent.name.encode()))
    return ["data=webdataset", f"data.root={target}"]


def as_parquet(source: Path, target: Path) -> list[str]:
    """Without names of files, as some tables are."""
    target.mkdir()
    for part in ("train", "val"):
        files = sorted(source.glob(f"{part}/*/*"))
        columns = {"image": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
        pyarrow.parquet.write_table(pyarrow.table(columns), target / f"{part}.parquet")
    return ["data=parquet", f"data.root={target}"]


def as_tar(source: Path, target: Path) -> list[str]:
    with tarfile.open(target, "w") as archive:
        archive.add(source, "photos")
    return ["data=webdataset", f"data.root={target}"]


def as_hub(source: Path, target: Path) -> list[str]:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    files = {part: sorted(source.glob(f"{part}/*/*")) for part in ("train", "val")}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["blue", "green", "red"])}
    )
    splits = {
        part: datasets.Dataset.from_dict(
            {"image": list(map(str, files[part])), "label": [file.parent.name for file in files[part]]},
            features=features,
        )
        for part in files
    }
    datasets.DatasetDict(splits).save_to_disk(target)
    return ["data=hf", f"data.root={target}"]


FORMS = {"csv": as_csv, "shards.d": as_shards, "parquet": as_parquet, "photos.tar": as_tar, "hub": as_hub}


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_images_as_folders_and_as_one_tar(name, tiny_folder, tmp_path):
    images = open_image_set(compose(FORMS[name](tiny_folder, tmp_path / name)))
    chosen = choose(images, Numbers(2, 3, 1))
    write_folders(chosen, tmp_path / "copy", wanted="")
    for copy in ("copy.tar", "again.tar"):
        write_tar(chosen, tmp_path / copy)
    assert (tmp_path / "copy.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    sets = open_folder(str(tmp_path / "copy")), open_webdataset(str(tmp_path / "copy.tar"))
    assert sets[0].classes == sets[1].classes
    for each in sets:
        for part, number in (("train", 3), ("val", 1)):
            split = getattr(each, part)
            found = [(each.classes[split.labels[i]], split.read(i)) for i in range(len(split))]
            files = [f for name in ("blue", "green") for f in sorted(tiny_folder.glob(f"{part}/{name}/*"))[:number]]
            assert found == [(file.parent.name, file.read_bytes()) for file in files]


def test_classes_become_folders_of_different_names_that_are_not_hidden() -> None:
    assert folder_names(["a/b", "a_b", "..", "c"]) == ["a_b 0", "a_b 1", "_", "c"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["data=csv", "data.root=CSV", "TAR"], ""),
        ([], "name the images once"),
        (["data=folder", "data.root=SOURCE", "SOURCE"], "name the images once"),
        (["data=csv", "data.root=CSV", "--link", "TAR"], "--link makes no tar"),
        (["data=webdataset", "data.root=PHOTOS", "--link"], "--link links to files, and these images have none"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_what_makes_no_subset_is_one_line_before_anything_is_written(
    words, message, tiny_folder, tmp_path, monkeypatch, capsys
):
    as_csv(tiny_folder, tmp_path / "CSV")
    as_tar(tiny_folder, tmp_path / "PHOTOS.tar")
    places = {
        "SOURCE": str(tiny_folder),
        "CSV": f"{tmp_path}/CSV",
        "PHOTOS": f"{tmp_path}/PHOTOS.tar",
        "TAR": f"{tmp_path}/x.tar",
    }
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    words = words if words[-1:] == [places["TAR"]] else [*words, f"{tmp_path}/new"]
    monkeypatch.setattr(sys, "argv", ["subset.py", *words, "--classes", "2", "--train", "1", "--val", "1"])
    if not message:  # this one is right
        subset()
        assert f"data=webdataset data.root={tmp_path}/x.tar" in capsys.readouterr().out
        message = "x.tar exists; remove it"
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
