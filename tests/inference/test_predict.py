"""scripts/predict.py as a user runs it: any files, any format, and odd files named and passed over."""

import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgcls import inference
from imgcls.checkpoints import load_checkpoint, save_checkpoint
from imgcls.config import ImageSize, compose, compose_network, protocol_names, run_script
from imgcls.data.decoding import BadImageError
from imgcls.data.sets import readable_names
from imgcls.environment import CONF_DIR
from imgcls.inference import (
    Center,
    ClassProbability,
    Prediction,
    TenCrop,
    as_csv,
    as_json,
    as_table,
    describe_orientation,
    find_images,
    known_classes,
    num_outputs,
    open_checkpoint,
    open_member,
    open_weights,
    plot_gradcam,
    predict_files,
)
from imgcls.models import find_heads

CPU = torch.device("cpu")
SEEN = [
    Prediction("a,b.png", [ClassProbability("n01", "tench", 0.75), ClassProbability("n02", "goldfish", 0.25)]),
    Prediction("long/name.png", [ClassProbability("n02", "goldfish", 1.0), ClassProbability("n01", "tench", 0.0)]),
]


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained LeNet-5 for three classes, as a run saves it."""
    from imgcls.config import consequential
    from imgcls.models import build_model

    config = compose(["model=lenet5", "augment=none", "data=folder", "image_size=32"])
    network = build_model(config, num_classes=3)
    content = {"config": consequential(config), "classes": ["blue", "green", "red"], "code": "test"}
    file = tmp_path_factory.mktemp("saved") / "best.pt"
    save_checkpoint({**content, "model": network.state_dict(), "epoch": 1, "val": {}}, file)
    return file


@pytest.mark.parametrize("key", ["model.num_classes", "model.in_channels", "image_size"])
def test_a_checkpoint_whose_config_has_a_size_beyond_its_weights_is_refused(
    checkpoint_file: Path, tmp_path: Path, key: str
) -> None:
    content = load_checkpoint(checkpoint_file)
    content["config"] = content["config"] | {key: 10**12 if key.startswith("model") else 10**9}
    save_checkpoint(content, tmp_path / "best.pt")
    with pytest.raises(ValueError, match=rf"best\.pt: its config has {key}=10+, and at most \d+ is possible"):
        open_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("alpha, is_seen", [("drop", True), ("black", False)])
def test_grad_cam_reads_transparent_pixels_as_the_training_did(
    alpha: str, is_seen: bool, checkpoint_file: Path, tmp_path: Path
) -> None:
    content = load_checkpoint(checkpoint_file)
    content["config"] = content["config"] | {"data.alpha": alpha}
    save_checkpoint(content, tmp_path / "best.pt")
    Image.new("RGBA", (32, 32), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    picture, _ = plot_gradcam(open_checkpoint(tmp_path / "best.pt"), [str(tmp_path / "clear.png")], device=CPU)
    colours = {colour for _, colour in picture.getcolors(10**6) or []}
    assert ((200, 100, 50) in colours) == is_seen


def test_files_folders_patterns_and_lists_are_found(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPEG", ".hidden.png", "notes.txt", "below/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = find_images([str(tmp_path)])
    assert [os.path.relpath(file, tmp_path) for file in found.files] == ["a.png", "b.JPEG", "below/c.jpg"]
    pattern = find_images([str(tmp_path / "**/*.jpg"), str(tmp_path / "a.png")])
    assert [Path(file).name for file in pattern.files] == ["c.jpg", "a.png"]
    listed = find_images(["-", str(tmp_path / "none.png")], [f"{tmp_path}/a.png\n", "\n"])
    assert listed.files == [f"{tmp_path}/a.png"]
    assert listed.passed_over == [f"{tmp_path}/none.png: there is no such file"]
    (tmp_path / "below/more").mkdir()
    folders = find_images([str(tmp_path / "[be]*")])
    assert [Path(file).name for file in folders.files] == ["b.JPEG"]
    folders = find_images([str(tmp_path / "be*")])
    assert [Path(file).name for file in folders.files] == ["c.jpg"]
    with pytest.raises(ValueError, match=r"no images to look at; .*empty: holds no images"):
        find_images([str(tmp_path / "em*")])
    with pytest.raises(ValueError, match=r"no images to look at; .*empty: holds no images"):
        find_images([str(tmp_path / "empty")])


def test_predictions_are_those_of_the_network(checkpoint_file: Path, tiny_folder: Path) -> None:
    member = open_checkpoint(checkpoint_file)
    files = find_images([str(tiny_folder / "val/red")]).files
    seen, bad = predict_files(member, files, device=CPU, protocol=Center())
    assert bad == []
    assert [image.path for image in seen] == files
    from imgcls.config import build_component

    crop = build_component("augment.eval_crop", member.config.augment.eval_crop)
    image = Image.open(files[0])
    views = Center().views(image.height, image.width, image_size=ImageSize.of(32), crop=crop)
    pixels = image.resize((32, 32), Image.Resampling.BILINEAR, box=views[0][:4])
    prepared = member.prepare(CPU)(torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8).view(1, 32, 32, 3))
    expected = member.build(CPU)(prepared).softmax(dim=1)[0]
    assert {guess.name: guess.probability for guess in seen[0].guesses} == pytest.approx(
        dict(zip(["blue", "green", "red"], expected.tolist(), strict=True)), abs=1e-5
    )
    ten, _ = predict_files(member, files, device=CPU, protocol=TenCrop(), top=1)
    assert [len(image.guesses) for image in ten] == [1] * 5


def test_photos_that_exif_data_would_turn_are_named(checkpoint_file: Path, tmp_path: Path) -> None:
    member = open_checkpoint(checkpoint_file)
    exif = Image.Exif()
    files = []
    for number, orientation in enumerate((1, 6, 0, 8)):
        exif[0x0112] = orientation
        Image.new("RGB", (40, 60)).save(tmp_path / f"{number}.jpg", exif=exif)
        files.append(str(tmp_path / f"{number}.jpg"))
    (tmp_path / "text.jpg").write_text("no image")
    line = describe_orientation(member, [*files, str(tmp_path / "text.jpg")])
    assert line is not None
    assert line.startswith(f"2 images ({files[1]}, ...) have an EXIF orientation, shown as stored")
    assert describe_orientation(member, [files[0], files[2]]) is None
    member.config.data.orientation = "apply"
    assert describe_orientation(member, files) is None


def test_a_network_is_shown_pixels_interpolated_as_in_its_validation(checkpoint_file: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    probabilities = []
    for interpolation in ("bilinear", "bicubic"):
        member = open_checkpoint(checkpoint_file)
        member.state[f"{find_heads(member.build(CPU))[0]}.weight"] *= 1000
        member.config.augment = dataclasses.replace(
            member.config.augment,
            eval_interpolation=interpolation,
            eval_crop={"_target_": "imgcls.data.augment.Whole"},
        )
        ((seen,), _) = predict_files(member, [str(tmp_path / "noise.png")], device=CPU, protocol=Center())
        pixels = np.array(Image.fromarray(noise).resize((32, 32), Image.Resampling[interpolation.upper()]))
        expected = member.build(CPU)(member.prepare(CPU)(torch.from_numpy(pixels)[None])).softmax(dim=1)[0]
        probabilities.append([guess.probability for guess in seen.guesses])
        assert probabilities[-1] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)
    assert probabilities[0] != pytest.approx(probabilities[1], abs=1e-5)


def test_outputs_without_a_class_have_a_name(checkpoint_file: Path, tiny_folder: Path, tmp_path: Path) -> None:
    from imgcls.checkpoints import load_checkpoint, save_checkpoint
    from imgcls.models import build_model

    content = load_checkpoint(checkpoint_file)
    content["config"]["model.num_classes"] = 5
    config = compose(["model=lenet5", "augment=none", "data=folder", "image_size=32", "model.num_classes=5"])
    content["model"] = build_model(config, num_classes=3).state_dict()
    save_checkpoint(content, tmp_path / "best.pt")
    files = [str(tiny_folder / "val/red/00.JPEG")]
    ((image,), _) = predict_files(open_checkpoint(tmp_path), files, device=CPU, protocol=Center(), top=9)
    assert sorted(guess.name for guess in image.guesses) == ["(class 3)", "(class 4)", "blue", "green", "red"]


@pytest.mark.parametrize("num, shown", [(1000, "tench"), (7, "0")])
def test_weights_from_a_file_name_imagenets_classes_where_there_are_as_many(
    num: int, shown: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from imgcls.data.sets import readable_names
    from imgcls.models import build_model

    caplog.set_level("INFO")
    torch.save(build_model(compose_network(["model=lenet5"]), num_classes=num).state_dict(), tmp_path / "w.pt")
    member = open_weights(str(tmp_path / "w.pt"), compose_network(["model=lenet5"]))
    assert num_outputs(member) == num
    known = known_classes(member)
    assert readable_names(known)[0] == shown
    assert len(known) == num
    assert ("1,000 outputs without names; shown as ImageNet's" in caplog.text) == (num == 1000)
    member.build(CPU)


def test_the_remedy_is_in_the_words_of_every_command() -> None:
    with pytest.raises(ValueError, match=r"in the 1x1 before; add: model.stride_in_3x3=true"):
        open_member(None, "torchvision", compose_network(["model=resnet50"]))
    with pytest.raises(ValueError, match=r"another network: model=torchvision model.arch=alexnet"):
        open_member(None, "torchvision", compose_network(["model=alexnet"]))


def test_csv_and_json_hold_what_was_seen() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(SEEN))))
    assert rows[0] == {
        "path": "a,b.png",
        "class1": "n01",
        "name1": "tench",
        "probability1": "0.750000",
        "class2": "n02",
        "name2": "goldfish",
        "probability2": "0.250000",
    }
    assert json.loads(as_json(SEEN))[1]["top"][0] == {"class": "n02", "name": "goldfish", "probability": 1.0}
    assert as_table(SEEN).splitlines()[0] == "a,b.png        tench 75.0 %  goldfish 25.0 %"


def script(*arguments: str, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONF_DIR.parent / "scripts/predict.py"), *arguments]
    return subprocess.run(command, cwd=cwd, input=given, capture_output=True, text=True, timeout=300)


@pytest.mark.e2e
def test_odd_files_are_named_and_passed_over(checkpoint_file: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_folder / "val/red/00.JPEG", tmp_path / "good one.jpg")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "good one.jpg").read_bytes()[:300])
    Image.new("L", (50, 1)).save(tmp_path / "line.png")
    names = "good one.jpg\ntext.png\ntorn.jpg\nline.png\nnone.jpg\n"
    words = [f"checkpoint={checkpoint_file}", "device=cpu", "-", "--format", "json", "--contact-sheet", "new/sheet.png"]
    done = script(*words, cwd=tmp_path, given=names)
    assert done.returncode == 0, done.stderr
    assert [row["path"] for row in json.loads(done.stdout)] == ["good one.jpg", "line.png"]
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for name in ("text.png", "torn.jpg", "none.jpg"):
        assert any(line.startswith("passed over:") and name in line for line in lines)
    assert Image.open(tmp_path / "new/sheet.png").width > 200


@pytest.mark.e2e
@pytest.mark.parametrize("form", [*(pytest.param(form, marks=pytest.mark.slow) for form in ("table", "json")), "csv"])
def test_names_that_are_no_text_are_read_and_printed(
    form: str, checkpoint_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"\xff\xe9.jpg")
    shutil.copy(tiny_folder / "val/red/00.JPEG", tmp_path / name)
    words = [f"checkpoint={checkpoint_file}", "device=cpu", "-", "--format", form, "--contact-sheet", "sheet.png"]
    command = [sys.executable, str(CONF_DIR.parent / "scripts/predict.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, input=b"\xff\xe9.jpg\n", capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (b"\\udcff\\udce9.jpg" if form == "json" else b"\xff\xe9.jpg") in done.stdout


def test_the_protocols_are_those_of_evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from imgcls.commands import predict
    from imgcls.inference import Center, Dense, GoogLeNet144, TenCrop

    for file in ("a.png", "x"):
        (tmp_path / file).touch()
    asked = []
    monkeypatch.setattr(inference, "open_member", lambda *args: None)
    monkeypatch.setattr(inference, "describe_orientation", lambda *args: None)
    monkeypatch.setattr(
        inference, "predict_files", lambda *args, protocol, **more: asked.append(protocol) or (SEEN, [])
    )
    for name in protocol_names(first="center"):
        for flip in ([], ["--flip"]):
            words_ = [
                "predict.py",
                f"checkpoint={tmp_path / 'x'}",
                "device=cpu",
                f"protocol={name}",
                *flip,
                str(tmp_path / "a.png"),
            ]
            monkeypatch.setattr(sys, "argv", words_)
            predict.predict()
            own = compose_protocol(name)
            assert asked[-1] == type(asked[-1])(**(own | ({"flip": True} if flip else {})))
    assert {type(protocol) for protocol in asked} == {Center, TenCrop, Dense, GoogLeNet144}
    assert set(protocol_names(first="center")) == {file.stem for file in (CONF_DIR / "protocol").glob("*.yaml")}


def compose_protocol(name: str) -> dict[str, object]:
    from omegaconf import OmegaConf

    own = OmegaConf.to_object(OmegaConf.load(CONF_DIR / "protocol" / f"{name}.yaml"))
    assert isinstance(own, dict)
    return {str(key): value for key, value in own.items() if key != "_target_"}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["x.png"], "name the network: checkpoint=runs/.../best.pt"),
        (["weights=torchvision", "x.png"], "weights=torchvision of which network"),
        (["checkpoint=none.pt", "top=0", "x.png"], "top=0 shows nothing"),
        (["checkpoint=none.pt", "contact-sheet=a.pnk", "x.png"], "contact-sheet=a.pnk: the suffix says what to write"),
        (["checkpoint=none.pt", "contact-sheet=/dev/null/a.png", "x.png"], "contact-sheet=/dev/null/a.png: its folder"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    done = script(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {expected}")
    assert len(done.stderr.splitlines()) == 1


def test_only_bad_images_are_an_error(
    checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from imgcls.commands import predict

    (tmp_path / "text.png").write_text("no image")
    monkeypatch.setattr(
        sys, "argv", ["predict.py", f"checkpoint={checkpoint_file}", "device=cpu", str(tmp_path / "text.png")]
    )
    with pytest.raises(SystemExit) as ended:
        run_script(predict.predict)
    assert ended.value.code == 2
    assert "error: none of the images can be read" in capsys.readouterr().err


def test_every_corner_case_is_seen_or_named(checkpoint_file: Path) -> None:
    root = os.environ.get("IMGCLS_REAL_DATA")
    if not root:
        pytest.skip("IMGCLS_REAL_DATA names no folder with jpeg-corner-cases/")
    files = find_images([f"{root}/jpeg-corner-cases"]).files
    seen, bad = predict_files(open_checkpoint(checkpoint_file), files, device=CPU, protocol=Center())
    assert len(seen) + len(bad) == len(files) > 30
    assert all(isinstance(error, BadImageError) for error in bad)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk that is always full")
def test_a_contact_sheet_on_a_full_disk_names_the_file(tmp_path: Path) -> None:
    from imgcls.inference import save_contact_sheet
    from imgcls.runs import DiskError

    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "sheet.png").symlink_to("/dev/full")
    with pytest.raises(DiskError, match=r"sheet\.png: No space left on device"):
        save_contact_sheet([Prediction(str(tmp_path / "a.png"), [])], tmp_path / "sheet.png")


def test_names_with_escape_codes_are_written_out_in_the_table() -> None:
    hostile = "\x1b]0;owned\x07"
    text = as_table([Prediction(f"{hostile}.png", [ClassProbability(hostile, readable_names([hostile])[0], 1.0)])])
    assert "\x1b" not in text
    assert text.count("\\x1b]0;owned\\x07") == 2
