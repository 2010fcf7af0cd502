"""Published weights go into our networks as they are, heads are replaced where they must be, and misfits are listed."""

import fractions
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from imgcls.config import build_component, compose
from imgcls.errors import ConfigError
from imgcls.models import (
    ResNet,
    average_states,
    build_model,
    load_into,
    outline_model,
    published_arch,
    read_weights,
)
from imgcls.training import build_optimizer

CPU = torch.device("cpu")
with torch.device("meta"):
    RESNET18 = ResNet(depth=18)

Train = Callable[..., dict[str, Any]]


def small(network: nn.Module) -> torch.Tensor:
    return network.eval()(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))


@pytest.mark.e2e
@pytest.mark.parametrize("arch, depth", [("resnet18", 18), ("resnet34", 34), ("resnet50", 50)])
@torch.inference_mode()
def test_resnets_take_torchvisions_weights_and_give_its_logits(arch: str, depth: int) -> None:
    theirs = torchvision.models.get_model(arch)
    config = compose([f"model=resnet{depth}", "model.stride_in_3x3=true", "data=folder"])
    ours = build_model(config, num_classes=1000)
    assert published_arch(ours) == ours.arch == arch
    assert load_into(ours, theirs.state_dict(), "theirs") == []
    assert torch.allclose(small(ours), small(theirs), atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn", "vgg16", "vgg19_bn"])
def test_vggs_take_the_layout_of_torchvisions_weights(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
        ours = build_component(
            "model", {**compose([f"model={name}", "data=folder"]).model, "num_classes": 1000, "in_channels": 3}
        )
    assert published_arch(ours) == ours.arch == name
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["model=resnet50"], r"v1.5.*model.stride_in_3x3=true"),
        (["model=alexnet"], r"another network: model=torchvision model.arch=alexnet"),
        (["model=googlenet"], r"another network: model=torchvision model.arch=googlenet"),
        (["model=vgg16_1x1"], r"publishes none for this VGG"),
        (["model=lenet5"], r"publishes none for this LeNet5"),
    ],
)
def test_networks_without_published_weights_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_weights("torchvision", outline_model(compose([*overrides, "data=folder"]), num_classes=1000))


def test_a_published_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"torchvision:V9 is not published for resnet18.*IMAGENET1K_V1"):
        read_weights("torchvision:V9", RESNET18)


@pytest.fixture
def published_file(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    file = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


def test_weights_come_from_a_file_a_url_and_a_wrapped_file(published_file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    state = torch.load(published_file)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, wrapped)
    for source in (str(published_file), published_file.as_uri(), str(wrapped)):
        found = read_weights(source, RESNET18).state
        assert found.keys() == state.keys(), source
        assert torch.equal(found["fc.weight"], state["fc.weight"])
    assert len(list((tmp_path / "hub/checkpoints").glob("*-resnet18.pth"))) == 1


def test_two_urls_of_one_file_name_are_two_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for number in (1, 2):
        file = tmp_path / f"release{number}/best.pth"
        file.parent.mkdir()
        torch.save({"a": torch.tensor([number])}, file)
        assert read_weights(file.as_uri(), RESNET18).state["a"].tolist() == [number]


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", b"PK\x03\x04 torn", b"\x80\x02}q\x00h\x05."])
def test_a_url_that_gives_no_weights_is_one_line(content: bytes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"page.pth cannot be read as weights \(.*-page.pth: delete that") as error:
        read_weights((tmp_path / "page.pth").as_uri(), RESNET18)
    assert "\n" not in str(error.value)


def test_torchvision_weights_are_fetched_by_their_own_url(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        torch.hub,
        "load_state_dict_from_url",
        lambda url, **options: asked.append((url, options["file_name"])) or {"a": torch.ones(1)},
    )
    read_weights("torchvision", RESNET18)
    assert asked == [(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url, "resnet18-f37072fd.pth")]


def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError, match=r"weights=.*none.pth: there is no such file"):
        read_weights(str(tmp_path / "none.pth"), RESNET18)
    with pytest.raises(ValueError, match=r"cannot be had .*download it elsewhere"):
        read_weights((tmp_path / "none.pth").as_uri(), RESNET18)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pth cannot be read as weights"):
        read_weights(str(tmp_path / "text.pth"), RESNET18)
    for odd in ({"lr": 0.1}, {1: torch.ones(1)}):
        torch.save(odd, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=r"odd.pth holds no state dict"):
            read_weights(str(tmp_path / "odd.pth"), RESNET18)


def test_bytes_that_are_no_weights_are_one_line_that_names_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    file = tmp_path / "more.pt"
    torch.save({"a": torch.ones(3), "arguments": fractions.Fraction(1, 2)}, file)
    cases = {"passwd": b"root:x:0:0:root:/root:/bin/bash\n", "empty": b"", "more": file.read_bytes()}
    for name, content in cases.items():
        file = tmp_path / f"{name}.pt"
        file.write_bytes(content)
        for source in (str(file), file.as_uri()):
            with pytest.raises(ValueError) as error:
                read_weights(source, RESNET18)
            text = str(error.value)
            assert text.startswith(f"weights={source}"), text
            assert "\n" not in text
            assert "weights_only" not in text, text
    with pytest.raises(ValueError, match=r"holds more than tensors and plain values \(.*fractions.Fraction\)"):
        read_weights(str(tmp_path / "more.pt"), RESNET18)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_flipped_byte_of_a_weights_file_is_one_line_or_harmless(tmp_path: Path) -> None:
    file = tmp_path / "old.pt"
    torch.save({"a": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    refused = 0
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        try:
            read_weights(str(file), RESNET18)
        except ValueError as error:
            assert str(error).startswith(f"weights={file}")  # noqa: PT017 - some flips are harmless
            refused += 1
    assert refused > len(whole) / 2


def test_a_file_that_is_no_safetensors_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("safetensors.torch")
    (tmp_path / "w.safetensors").write_bytes(b"garbage" * 10)
    with pytest.raises(ValueError, match=r"w.safetensors cannot be read as weights: SafetensorError: .*header"):
        read_weights(str(tmp_path / "w.safetensors"), RESNET18)


def test_safetensors_are_read_where_the_package_is(tmp_path: Path, monkeypatch) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"a": torch.arange(3.0)}, tmp_path / "w.safetensors")
    assert read_weights(str(tmp_path / "w.safetensors"), RESNET18).state["a"].tolist() == [0, 1, 2]
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        read_weights(str(tmp_path / "w.safetensors"), RESNET18)


def test_a_mismatch_lists_names_and_shapes() -> None:
    ours = build_model(compose(["model=resnet18", "data=folder"]), num_classes=10)
    theirs = torchvision.models.resnet34()
    with pytest.raises(ValueError, match=r"it does not fit ResNet: unknown: layer1.2.bn1.bias, .* and \d+ more"):
        load_into(ours, theirs.state_dict(), "it")
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    del state["bn1.bias"]
    with pytest.raises(ValueError, match=r"missing: bn1.bias; of another shape: conv1.weight 64x1x7x7 for 64x3x7x7"):
        load_into(ours, state, "it")


def test_other_classes_get_a_new_head_and_the_log_says_so(published_file: Path, caplog) -> None:
    caplog.set_level("INFO")
    config = compose(["model=resnet18", "data=folder", f"weights={published_file}"])
    network = build_model(config, num_classes=10)
    state = torch.load(published_file)
    assert torch.equal(network.get_parameter("layer4.1.conv2.weight"), state["layer4.1.conv2.weight"])
    assert network.get_parameter("fc.weight").shape == (10, 512)
    assert "new, for other classes: fc" in caplog.text
    with pytest.raises(ValueError, match=r"of another shape: fc.weight 1000x512 for 10x512"):
        load_into(network, state, "it", new_head=False)


def test_auxiliary_heads_are_replaced_too() -> None:
    theirs = torchvision.models.googlenet(init_weights=False)
    ours = torchvision.models.googlenet(num_classes=5, init_weights=False)
    assert load_into(ours, theirs.state_dict(), "it") == ["aux1.fc2", "aux2.fc2", "fc"]
    without = torchvision.models.googlenet(num_classes=5, init_weights=False, aux_logits=False)
    assert load_into(without, theirs.state_dict(), "it") == ["fc"]


def test_published_weights_refuse_an_input_they_were_not_trained_on(published_file: Path) -> None:
    config = compose(["model=resnet18", "data=folder", "weights=torchvision", "augment.input=mean_subtracted"])
    with pytest.raises(ConfigError, match=r"augment.input=mean_subtracted.*add augment.input=standardised"):
        build_model(config, num_classes=10)


def test_a_frozen_backbone_does_not_move_in_training(tiny_folder: Path, published_file: Path, train: Train) -> None:
    words = ["model=resnet18", "data=folder", f"data.root={tiny_folder}", "image_size=32", "batch_size=12"]
    words += ["epochs=1", "max_steps=2", "logger=none", "data.num_threads=1", f"weights={published_file}"]
    config = compose([*words, "freeze=backbone"])
    before = build_model(config, num_classes=3).state_dict()
    after = train(config)["weights"]
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"fc.weight", "fc.bias"}


def test_the_head_learns_alone_in_its_first_epochs_and_then_all_layers_do(
    tiny_folder: Path, published_file: Path, train: Train
) -> None:
    words = ["model=resnet18", "recipe=finetune", "data=folder", f"data.root={tiny_folder}", "image_size=32"]
    words += ["batch_size=12", "logger=none", "data.num_threads=1", f"weights={published_file}"]
    config = compose([*words, "epochs=1"])
    before = build_model(config, num_classes=3)
    names = [name for name, _ in before.named_parameters()]
    alone = train(config, "alone")["weights"]
    # The batch norms keep their statistics too.
    moved = {name for name, value in before.state_dict().items() if not torch.equal(value, alone[name])}
    assert moved == {"fc.weight", "fc.bias"}
    everything = train(compose([*words, "epochs=2"]), "everything")["weights"]
    assert all(not torch.equal(before.state_dict()[name], everything[name]) for name in names)


def test_the_heads_lr_is_apart() -> None:
    config = compose(["model=resnet18", "data=folder", "head_lr_factor=10", "decay_norms_and_biases=false"])
    network = build_model(config, num_classes=10)
    optimizer = build_optimizer(config, network)
    head = {id(network.get_parameter("fc.weight")), id(network.get_parameter("fc.bias"))}
    for group in optimizer.param_groups:
        inside = {id(parameter) in head for parameter in group["params"]}
        assert len(inside) == 1
        assert group["lr"] == pytest.approx(config.optimizer["lr"] * (10 if inside == {True} else 1))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    biases = [group for group in optimizer.param_groups if group.get("weight_decay") == 0]
    assert len(biases) == 2
    from imgcls.training import set_lr

    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(config.optimizer["lr"] * 5)


def test_a_soup_of_other_networks_is_refused() -> None:
    states = [nn.Linear(2, 2).state_dict(), nn.Linear(2, 3).state_dict()]
    with pytest.raises(ValueError, match=r"b is not of the same network as a: weight, bias differ"):
        average_states(states, ["a", "b"])


def test_published_weights_of_the_networks_own_setting_may_be_frozen() -> None:
    compose(["model=torchvision", "model.arch=resnet18", "model.weights=DEFAULT", "freeze=backbone"])
    compose(["model=timm", "model.arch=resnet18", "model.pretrained=true", "freeze=backbone"])


def test_unknown_values_of_freeze_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"freeze=backbon is none of none, backbone \(did you mean backbone\?\)"):
        compose(["freeze=backbon"])


@pytest.mark.parametrize("source", ["file", "url"])
def test_weights_that_claim_more_values_than_they_have_are_refused(source: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    file = tmp_path / "huge.pth"
    torch.save({"fc.weight": torch.zeros(1).expand(10**9, 512)}, file)
    with pytest.raises(ValueError, match=r"weights=.*huge\.pth: .*(unfolds to|claims more values)"):
        read_weights(str(file) if source == "file" else file.as_uri(), nn.Linear(512, 3))
