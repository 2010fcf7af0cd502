"""Exported files compute what the checkpoint does, at any batch size, and say what they are."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgcls.checkpoints import load_checkpoint, save_checkpoint
from imgcls.config import compose, consequential
from imgcls.inference import DeployedNetwork, ExportError, Member, export, export_network, open_checkpoint, write_pt2
from imgcls.models import build_model
from imgcls.runs import DiskError, name_disk_errors
from imgcls.startup import ExportForm

CPU = torch.device("cpu")


def saved(folder: Path, *words: str) -> Path:
    config = compose(["augment=none", "data=folder", "data.mean=[0.3]", "data.std=[0.2]", *words])
    network = build_model(config, num_classes=3)
    content = {"config": consequential(config), "classes": ["n01440764", "n01443537", "cat"], "code": "test"}
    save_checkpoint({**content, "model": network.state_dict(), "epoch": 1, "val": {}}, folder / "best.pt")
    return folder / "best.pt"


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Member:
    return open_checkpoint(saved(tmp_path_factory.mktemp("saved"), "model=lenet5", "image_size=32"))


def expected(member: Member, pixels: Tensor) -> Tensor:
    """Probabilities of images in 0..1 (B, C, H, W), by hand."""
    return member.build(CPU)((pixels - 0.3) / 0.2).softmax(dim=1)


@pytest.mark.e2e
@torch.inference_mode()
def test_a_pt2_program_takes_any_batch_and_says_what_it_is(member: Member, tmp_path: Path) -> None:
    file = tmp_path / "new/model.pt2"
    assert export_network(member, file, ExportForm(normalise=True, softmax=True)) <= 1e-4
    extra = {"metadata.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    facts = json.loads(extra["metadata.json"])
    assert json.loads(facts["names"]) == ["tench", "goldfish", "cat"]
    assert json.loads(facts["classes"])[0] == "n01440764"
    assert "(batch, 3, 32, 32), RGB, in 0..1" in facts["input"]
    assert (json.loads(facts["resize_short_side"]), facts["interpolation"]) == (37, "bilinear")  # 32 * 256 / 224
    for num in (1, 2, 5):
        pixels = torch.rand(num, 3, 32, 32)
        assert torch.allclose(program(pixels), expected(member, pixels), atol=1e-5)


@pytest.mark.e2e
@torch.inference_mode()
def test_onnx_runs_elsewhere_and_carries_its_labels(member: Member, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    export_network(member, file, ExportForm(normalise=True, softmax=True, opset=18))
    session = runtime.InferenceSession(str(file))
    assert json.loads(session.get_modelmeta().custom_metadata_map["names"]) == ["tench", "goldfish", "cat"]
    for num in (1, 4):
        pixels = torch.rand(num, 3, 32, 32)
        (found,) = session.run(["probabilities"], {"images": pixels.numpy()})
        assert torch.allclose(torch.from_numpy(found), expected(member, pixels), atol=1e-5)
    import onnx

    assert {entry.domain: entry.version for entry in onnx.load(file).opset_import}[""] == 18


@pytest.mark.slow
@torch.inference_mode()
def test_fewer_bits_and_any_size_give_nearly_the_same(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    member = open_checkpoint(saved(tmp_path, "model=resnet18", "image_size=32"))
    calibration = torch.randint(0, 256, (20, 32, 32, 3), dtype=torch.uint8)
    pixels = calibration[:4].permute(0, 3, 1, 2) / 255
    sizes = {}
    for precision, most in (("fp32", 1e-4), ("fp16", 1e-2), ("int8", 0.1)):
        file = tmp_path / f"{precision}.onnx"
        form = ExportForm(normalise=True, softmax=True, precision=precision, any_size=precision != "int8")
        export_network(member, file, form, calibration=calibration)
        session = runtime.InferenceSession(str(file))
        (found,) = session.run(None, {"images": pixels.contiguous().numpy()})
        assert torch.allclose(torch.from_numpy(found), expected(member, pixels), atol=most)
        assert session.get_modelmeta().custom_metadata_map["precision"] == precision
        sizes[precision] = file.stat().st_size
        if form.any_size:
            larger = torch.rand(1, 3, 96, 40)
            (found,) = session.run(None, {"images": larger.numpy()})
            assert torch.allclose(torch.from_numpy(found), expected(member, larger), atol=most)
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.35 * sizes["fp32"]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.e2e
def test_a_network_of_one_size_cannot_take_any(member: Member, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="any_size=true: the network takes images of 32 x 32 pixels alone"):
        export_network(member, tmp_path / "model.pt2", ExportForm(any_size=True))


@pytest.mark.slow
@torch.inference_mode()
def test_an_aoti_package_computes_the_same_and_says_what_it_is(member: Member, tmp_path: Path) -> None:
    from torch._inductor import aoti_load_package

    file = tmp_path / "model.pt2"
    assert export_network(member, file, ExportForm(normalise=True, softmax=True, compiled=True)) <= 1e-4
    package = aoti_load_package(str(file))
    assert json.loads(package.get_metadata()["names"]) == ["tench", "goldfish", "cat"]
    for num in (1, 5):
        pixels = torch.rand(num, 3, 32, 32)
        assert torch.allclose(package(pixels), expected(member, pixels), atol=1e-5)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "opset, words",
    [(17, "opset=17: torch cannot convert .* stays at 18; use opset=18"), (99, r"onnx knows 1 to \d\d;")],
)
def test_an_opset_that_torch_does_not_write_is_refused(opset: int, words: str, member: Member, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=words):
        export_network(member, tmp_path / "model.onnx", ExportForm(normalise=False, softmax=False, opset=opset))
    assert not list(tmp_path.iterdir())


def test_safetensors_hold_the_weights_and_their_story(member: Member, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    file = tmp_path / "model.safetensors"
    before = os.umask(0o027)
    try:
        export_network(member, file, ExportForm(normalise=False, softmax=False))
    finally:
        os.umask(before)
    assert os.name == "nt" or stat.S_IMODE(file.stat().st_mode) == 0o640  # Windows has no such modes
    with safetensors.safe_open(str(file), "pt") as opened:
        assert opened.metadata()["architecture"] == "lenet5"
        for name, value in member.state.items():
            assert torch.equal(opened.get_tensor(name), value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("model=alexnet", "image_size=67"),
        ("model=vgg11", "image_size=32"),
        ("model=googlenet", "image_size=64"),
        ("model=resnet18", "image_size=64"),
        ("model=resnet50", "image_size=64"),
        ("model=torchvision", "model.arch=mobilenet_v3_small", "image_size=64"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_every_family_exports(words: tuple[str, ...], suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    member = open_checkpoint(saved(tmp_path, *words))
    export_network(member, tmp_path / f"model{suffix}", ExportForm(normalise=True, softmax=False))


def test_a_file_that_computes_something_else_is_refused(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = write_pt2

    def wrong(packaged: DeployedNetwork, *rest: object) -> list[Tensor]:
        return [output * 1.001 for output in really(packaged, *rest)]  # type: ignore[arg-type]

    monkeypatch.setattr(export, "write_pt2", wrong)
    with pytest.raises(ExportError, match=r"differs from .* do not use it"):
        export_network(member, tmp_path / "model.pt2", ExportForm(normalise=False, softmax=True))


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("model.h5", {}, r"the suffix says what to write; use one of .pt2, .onnx, .safetensors"),
        ("model.safetensors", {"softmax": True}, "holds weights alone"),
        ("model.pt2", {"opset": 18}, "opset=18 is ONNX's"),
        ("model.pt2", {"precision": "int8"}, "precision=int8 is for .onnx files"),
        ("model.onnx", {"compiled": True}, r"format=aoti writes .pt2 files, not .onnx; use out=.*model.pt2"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    member: Member, tmp_path: Path, name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        export_network(member, tmp_path / name, ExportForm(**options))


@pytest.mark.parametrize("package, name", [("onnxruntime", "m.onnx"), ("safetensors", "m.safetensors")])
def test_a_missing_package_is_named(
    package: str, name: str, member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if package == "onnxruntime":
        for other in ("onnx", "onnxscript"):
            monkeypatch.setitem(sys.modules, other, nn)  # any module: only that it is there
    with pytest.raises(ValueError, match=rf"needs the package {package}.*pip install {package}"):
        export_network(member, tmp_path / name, ExportForm(normalise=False, softmax=False))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk that is always full")
def test_a_full_disk_names_the_file(member: Member, tmp_path: Path) -> None:
    (tmp_path / "net.pt2.partial").symlink_to("/dev/full")
    with pytest.raises(DiskError, match=r"net\.pt2: No space left on device") as caught:
        export_network(member, tmp_path / "net.pt2", ExportForm(normalise=False, softmax=False))
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_a_library_that_only_repeats_the_disks_words_is_understood(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="net: No space left on device; make room"), name_disk_errors(tmp_path / "net"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"), name_disk_errors(tmp_path):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"classes": 3}, "classes are no list of names"),
        ({"classes": ["a", 1]}, "classes are no list of names"),
        ({"model": {}}, "weights are no named tensors"),
        ({"model": {"x": 1}}, "weights are no named tensors"),
        ({"model": {1: torch.zeros(1)}}, "weights are no named tensors"),
        ({"config": 1}, "config is damaged"),
        ({"config": {}}, "its config names no network"),
        ({"config": {"model._target_": "imgcls.models.ResNet"}}, "config"),
        ({"config": {"model._target_": "imgcls.models.ResNet", "image_size": -1}}, "config"),
    ],
)
def test_a_checkpoint_that_was_edited_is_one_error(change: dict, words: str, tmp_path: Path) -> None:
    file = saved(tmp_path, "model=lenet5", "image_size=32")
    save_checkpoint(load_checkpoint(file) | change, file)
    with pytest.raises(ValueError, match=words) as caught:
        open_checkpoint(file).build(CPU)
    assert "best.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.zeros(6, 3, 5, 5, dtype=torch.complex64), torch.zeros(2)])
def test_weights_that_do_not_fit_are_one_error(value: Tensor, tmp_path: Path) -> None:
    file = saved(tmp_path, "model=lenet5", "image_size=32")
    content = load_checkpoint(file)
    content["model"] |= {next(iter(content["model"])): value}
    save_checkpoint(content, file)
    with pytest.raises(ValueError, match="fit"):
        open_checkpoint(file).build(CPU)
