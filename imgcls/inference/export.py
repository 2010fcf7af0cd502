"""Networks for other programs: torch.export, ONNX, safetensors; each file is run and compared with the checkpoint."""

import importlib
import io
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.data.on_device import Normalise, input_statistics
from imgcls.data.sets import readable_names
from imgcls.errors import RunError
from imgcls.inference.network import Member, known_classes
from imgcls.runs import code_version, durable_file, name_disk_errors
from imgcls.startup import check_export_file

TOLERANCE = 1e-4


class DeployedNetwork(nn.Module):
    """A network with what comes before and after it: images (B, C, H, W) to logits or probabilities (B, K)."""

    def __init__(self, network: nn.Module, normalise: Normalise | None, *, softmax: bool) -> None:
        super().__init__()
        self.network = network
        self.normalise = normalise
        self.softmax = softmax

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images if self.normalise is None else self.normalise.normalise(images))
        return logits.softmax(dim=1) if self.softmax else logits


class ExportError(RunError):
    """An exported file that does not compute what the checkpoint does."""


def export_network(member: Member, file: Path, *, normalise: bool, softmax: bool, opset: int | None = None) -> float:
    """Write the network to `file`, of the kind that its suffix says, and run it.

    Args:
        normalise: take images in 0..1 and normalise them inside; otherwise they come normalised.
        softmax: give probabilities; otherwise logits.
        opset: of ONNX; None is torch's own choice.

    Returns:
        The largest difference from the checkpoint's network, relative to the largest output, or 1 where that is less.

    Raises:
        ValueError: an unknown suffix, a package that is missing, or what the format cannot hold.
        ExportError: the file computes something else.
    """
    check_export_file(file, normalise=normalise, softmax=softmax, opset=opset)
    device = torch.device("cpu")
    network = member.build(device, channels_last=False)
    before = Normalise(**input_statistics(member.config)) if normalise else None
    deployed = DeployedNetwork(network, before, softmax=softmax).eval()
    facts = metadata(member, normalise=normalise, softmax=softmax)
    channels, size = member.config.data.channels, member.config.input_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, channels, *size, generator=generator)
    file.parent.mkdir(parents=True, exist_ok=True)
    write = {".pt2": write_pt2, ".onnx": write_onnx, ".safetensors": write_safetensors}[file.suffix]
    with name_disk_errors(file):
        outputs = write(deployed, file, images, facts, opset)
    with torch.inference_mode():
        wanted = [deployed(images), deployed(images[:1])]  # two batch sizes: the batch is dynamic
    difference = max(_difference(one, other) for one, other in zip(outputs, wanted, strict=True))
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{file} differs from {member.name} by {difference:.2g}, more than {TOLERANCE:g}; do not use it"
        )
    return difference


def _difference(outputs: Tensor, wanted: Tensor) -> float:
    if outputs.shape != wanted.shape:
        return float("inf")
    return float((outputs - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def metadata(member: Member, *, normalise: bool, softmax: bool) -> dict[str, str]:
    """Return what a user of the file must know, as text: labels, and what goes in and comes out."""
    statistics = input_statistics(member.config)
    size, channels = member.config.input_size, member.config.data.channels
    classes = known_classes(member)
    crop = {key: value for key, value in member.config.augment.eval_crop.items() if key != "_target_"}
    crop["name"] = str(member.config.augment.eval_crop["_target_"]).rpartition(".")[2]
    given = "in 0..1" if normalise else "normalised: (x / 255 - mean) / std"
    shape = f"(batch, {channels}, {size.height}, {size.width})"
    spec: dict[str, Any] = {
        "input": f"images, float32 {shape}, {'RGB' if channels == 3 else 'gray'}, {given}",
        "output": "probabilities (batch, classes)" if softmax else "logits (batch, classes)",
        "mean": statistics["mean"],
        "std": statistics["std"],
        "image_size": size.setting,
        "crop": crop,
        "classes": classes,
        "names": readable_names(classes),
        "architecture": member.arch,
        "source": Path(member.name).name,
        "code": f"imgcls {code_version()}, torch {torch.__version__}",
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in spec.items()}


def write_pt2(
    deployed: DeployedNetwork, file: Path, images: Tensor, facts: dict[str, str], opset: int | None
) -> list[Tensor]:
    """Write a torch.export program with metadata.json inside; return what it gives for the images and the first."""
    del opset
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(deployed, (images,), dynamic_shapes={"images": {0: batch}})
    # Not to the file: on a full disk torch's own writer ends the whole process.
    written = io.BytesIO()
    torch.export.save(program, written, extra_files={"metadata.json": json.dumps(facts)})
    with durable_file(file) as stream:
        stream.write(written.getbuffer())
    loaded = torch.export.load(file).module()
    with torch.inference_mode():
        return [loaded(images), loaded(images[:1])]


def write_onnx(
    deployed: DeployedNetwork, file: Path, images: Tensor, facts: dict[str, str], opset: int | None
) -> list[Tensor]:
    """Write ONNX with its metadata_props; return what onnxruntime gives for the images and the first."""
    onnx = _needed("onnx", file)
    _needed("onnxscript", file)
    runtime = _needed("onnxruntime", file)
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not 1 <= opset <= newest:
        raise ValueError(f"opset={opset}: the installed onnx knows 1 to {newest}; leave it out for torch's choice")
    for chatty in ("onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            deployed,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities" if deployed.softmax else "logits"],
            opset_version=opset,
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            external_data=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{file}: torch cannot export this network to ONNX: {reason}") from error
    assert program is not None
    written = program.model.opset_imports[""]
    if opset is not None and written != opset:  # torch keeps its own where its conversion fails
        raise ValueError(
            f"opset={opset}: torch cannot convert this network to it and stays at {written}; "
            f"use opset={written} or more"
        )
    program.model.metadata_props.update(facts)
    program.save(str(file), external_data=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"images": part.numpy()})[0]) for part in (images, images[:1])]


def write_safetensors(
    deployed: DeployedNetwork, file: Path, images: Tensor, facts: dict[str, str], opset: int | None
) -> list[Tensor]:
    """Write the weights alone with their metadata; return what the network gives with the weights read back."""
    del opset
    _needed("safetensors", file)
    safetensors = importlib.import_module("safetensors.torch")
    state = {name: value.contiguous() for name, value in deployed.network.state_dict().items()}
    safetensors.save_file(state, str(file), metadata=facts)
    before = {name: value.clone() for name, value in state.items()}
    for value in deployed.network.state_dict().values():
        value.zero_()
    deployed.network.load_state_dict(safetensors.load_file(str(file)))
    with torch.inference_mode():
        outputs = [deployed(images), deployed(images[:1])]
    deployed.network.load_state_dict(before)
    return outputs


def _needed(package: str, file: Path) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(
            f"out={file} needs the package {package}, which is not installed: pip install {package}, "
            "or this project as imgcls[export]"
        ) from None
