"""The doctor: what it says of a run before it begins is what training does."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.commands import doctor
from imgcls.config import compose_run, consequential
from imgcls.data.sets import draw_noise, open_image_set, verify
from imgcls.doctor import Finding, Status, as_line, images, training
from imgcls.doctor.findings import bytes_text
from imgcls.doctor.training import Speed
from imgcls.runs import RunDirectory

Run = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture
def root(tiny_folder: Path, tmp_path: Path, cache: Path) -> Path:
    del cache
    return Path(shutil.copytree(tiny_folder, tmp_path / "set"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, root: Path) -> Run:
    """Run the command; return its exit code, and of each topic the last line, with its status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "SECONDS_TO_LOAD", 0.05)
    monkeypatch.setattr(training, "SECONDS_TO_STEP", 0.05)

    def call(*words: str) -> tuple[int, dict[str, str]]:
        base = ["model=lenet5", "data=folder", f"data.root={root}", "image_size=32", "data.num_threads=1", "device=cpu"]
        monkeypatch.setattr("sys.argv", ["doctor", *base, *words])
        with pytest.raises(SystemExit) as ended:
            doctor.main()
        printed = capsys.readouterr()
        lines = [line.split(maxsplit=2) for line in printed.out.splitlines()[:-1]]
        return int(ended.value.code or 0), {topic: f"{status} {text}" for status, topic, text in lines} | {
            "error": printed.err
        }

    return call


def test_a_run_that_works_is_looked_at_whole_and_nothing_is_left(run: Run, root: Path) -> None:
    before = sorted(path.name for path in Path().iterdir())
    code, said = run("batch_size=12", "epochs=3", "max_steps=7")
    assert code == 0, said
    assert said["data"] == "ok folder: 3 classes, 60 training and 15 validation images"
    assert said["decode"].startswith("ok a sample of 75 images decodes, shorter side 41 px")
    assert said["leak"] == "ok none of 15 validation images, among 60 training images, is a training image too"
    assert said["model"] == "ok lenet5, 61,411 parameters, 0.000651 GMACs an image of 32 px"
    assert re.search(r"1.4 epochs of 5 steps \(7 in all\), batch 12: about 0:0", said["time"])
    assert set(said) >= {"files", "torch", "device", "decoder", "speed", "disk"}
    assert sorted(path.name for path in Path().iterdir()) == before


@pytest.mark.parametrize(
    ("words", "topic", "text"),
    [
        (["data.root=none"], "data", "data.root=none is not a folder"),
        (["batch_size=61"], "training", "batch_size=61 is more than the 60 training images"),
        (["device=cuda:99"], "device", "device=cuda:99"),
        (["data.mean=[0.5,0.5]"], "error", "data.mean=[0.5, 0.5] has 2 values"),
        (["augment.crop=pad", "image_size=3"], "training", "image_size=3 is too small"),
        (["-m"], "error", "-m: this looks at one run"),
    ],
)
def test_what_would_fail_is_said_with_the_remedy(words: list[str], topic: str, text: str, run: Run) -> None:
    code, said = run(*words)
    assert text in said[topic]
    assert code == (2 if topic == "error" else 1)
    assert topic == "error" or said[topic].startswith("FAIL")


def test_a_damaged_image_fails_unless_it_is_skipped_or_left_out(run: Run, root: Path, tmp_path: Path) -> None:
    (root / "val/red/00.JPEG").write_bytes(b"no image")
    code, said = run("max_steps=1")
    assert code == 1
    assert said["decode"].startswith("FAIL 1 of a sample of 75 images cannot be decoded")
    assert "verify_data" in said["decode"]
    code, said = run("max_steps=1", "data.on_bad_image=skip")
    assert (code, said["decode"][:4]) == (0, "note")
    (tmp_path / "list.txt").write_text("val/red/00.JPEG\n")
    assert run("max_steps=1", "data.exclude=list.txt")[0] == 0


def test_the_directory_of_another_run_is_said_and_the_rest_is_looked_at(run: Run, root: Path) -> None:
    config, path = compose_run(["model=lenet5", "data=folder", f"data.root={root}", "epochs=3", "name=mine"])
    with RunDirectory(path, consequential(config)) as directory:
        directory.claim()
        (path / "last.pt").touch()
    code, said = run("batch_size=12", "epochs=4", "name=mine")
    assert code == 1
    assert said["run"].startswith("FAIL")
    assert "holds a run of another config" in said["run"]
    assert said["model"].startswith("ok")


@pytest.mark.parametrize("known", [False, True])
def test_validation_images_that_are_training_images_are_found(known: bool, root: Path) -> None:
    shutil.copy(root / "train/red/03.JPEG", root / "val/red/03.JPEG")
    config, _ = compose_run(["data=folder", f"data.root={root}"])
    if known:
        verify(open_image_set(config), channels=3, num_threads=1)
    (leak,) = (each for each in images.look_at_images(config, open_image_set(config)) if each.topic == "leak")
    assert leak.status is Status.NOTE
    assert f"validation images{'' if known else ', among 60 training images,'} 1 are training images too" in leak.text
    assert f"{root}/val/red/03.JPEG" in leak.text
    assert ("all 15" in leak.text) is known


def test_images_in_memory_are_compared_too() -> None:
    config, _ = compose_run(["data=digits"])
    noise = draw_noise(num_images=6, image_size=4)
    (leak,) = images._shared(noise)
    assert "6 are training images too" in leak.text
    noise.val.images = 255 - noise.val.images  # type: ignore[attr-defined]
    (leak,) = images._shared(noise)
    assert leak.status is Status.OK
    assert not [each for each in images.look_at_images(config, noise) if each.topic == "files"]


def test_the_number_of_images_is_compared_with_the_published_one(root: Path) -> None:
    names = ("n01440764", "n01443537", "n01484850")
    for part in ("train", "val"):
        for old, new in zip(("blue", "green", "red"), names, strict=True):
            (root / part / old).rename(root / part / new)
    words = ["data=imagenet", f"data.root={root}", "data.num_classes=null"]
    config, _ = compose_run(words)
    first = next(iter(images.look_at_images(config, open_image_set(config))))
    assert first.status is Status.NOTE
    assert "60 training and 15 validation images; the whole set has 1,281,167 and 50,000" in first.text
    config.data.published_images = [60, 15]
    first = next(iter(images.look_at_images(config, open_image_set(config))))
    assert "15 validation images, as published" in first.text


def test_a_large_set_does_not_fit_the_page_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(root / "val/red/big.png")
    config, _ = compose_run(["data=folder", f"data.root={root}"])
    for free, status in ((1e9, Status.OK), (1e5, Status.NOTE)):
        monkeypatch.setattr(images, "available_memory", lambda free=free: free)
        (found,) = (each for each in images.look_at_images(config, open_image_set(config)) if each.topic == "files")
        assert found.status is status


def test_speeds_add_up_where_loader_and_steps_share_the_cores() -> None:
    assert Speed(300, 150, shared=True).images_per_second() == pytest.approx(100)
    assert Speed(300, 150, shared=False).images_per_second() == 150
    assert training._compare(Speed(100, 150, shared=False)).status is Status.NOTE
    assert training._compare(Speed(300, 150, shared=False)).status is Status.OK


def test_a_line_of_the_table_is_one_line() -> None:
    assert as_line(Finding("data", "two\n lines", Status.FAIL)) == "FAIL  data      two lines"
    assert [bytes_text(number) for number in (1.3e9, 2.5e8, 1e13, 12e3)] == ["1.3 GB", "250 MB", "10 TB", "12 kB"]
