"""Networks for other programs: torch.export, AOTInductor, ONNX, safetensors; each is run beside the checkpoint."""

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.data.augment import CenterCrop
from imgcls.data.on_device import Normalise, input_statistics
from imgcls.data.sets import readable_names
from imgcls.errors import RunError
from imgcls.inference.fused_batch_norm import fuse_batch_norms
from imgcls.inference.network import Member, known_classes, validation_crop
from imgcls.inference.quantise import IMAGES, to_float16, to_int8
from imgcls.runs import code_version, durable_file, name_disk_errors
from imgcls.startup import ExportForm, check_export_file

# Of the outputs, relative to the largest: what another order of sums, 11 bits and 8 bits may lose.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.5}


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


def export_network(member: Member, file: Path, form: ExportForm, *, calibration: Tensor | None = None) -> float:
    """Write the network to `file`, of the kind that its suffix says, and run it.

    Args:
        calibration: with precision=int8: images (N, H, W, C) uint8 that the ranges of the maps are taken from.

    Returns:
        The largest difference from the checkpoint's network, relative to the largest output, or 1 where that is less.

    Raises:
        ValueError: an unknown suffix, a package that is missing, what the format cannot hold, or an image size that the
            network does not take.
        ExportError: the file computes something else.
    """
    check_export_file(file, form)
    normalise = Normalise(**input_statistics(member.config))
    network = member.build(torch.device("cpu"), channels_last=False)
    images = [given if form.normalise else normalise.normalise(given) for given in example_images(member, form)]
    if form.precision == "int8":
        assert calibration is not None
        # Without batch norms, which a quantised graph would keep apart from their convolutions.
        network = fuse_batch_norms(network, normalise(calibration[:2]))
        calibration = input_of(calibration, normalise, form)
        images = [calibration[:3], calibration[:1], *images[2:]]
    deployed = DeployedNetwork(network, normalise if form.normalise else None, softmax=form.softmax).eval()
    with member.explained(network), torch.inference_mode():
        deployed(images[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    write = {".pt2": write_pt2, ".onnx": write_onnx, ".safetensors": write_safetensors}[file.suffix]
    if form.compiled:
        write = write_aoti
    with name_disk_errors(file):
        outputs = write(deployed, file, images, metadata(member, form), form)
        if form.precision != "fp32":
            outputs = _with_fewer_bits(file, images, form, calibration)
    with torch.inference_mode():
        wanted = [deployed(given) for given in images]
    difference = max(_difference(one, other) for one, other in zip(outputs, wanted, strict=True))
    if not difference <= TOLERANCES[form.precision]:
        raise ExportError(
            f"{file} differs from {member.name} by {difference:.2g}, more than {TOLERANCES[form.precision]:g}; "
            "do not use it"
        )
    return difference


def example_images(member: Member, form: ExportForm) -> list[Tensor]:
    """Return batches of random images in 0..1, to export and to compare with: of two lengths, as the batch is dynamic.

    With `any_size` there is a third of another height and width.
    """
    channels, size = member.config.data.channels, member.config.input_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, channels, *size, generator=generator)
    larger = torch.rand(2, channels, size.height + 32, size.width + 64, generator=generator)
    return [images, images[:1], *([larger] if form.any_size else [])]


def input_of(pixels: Tensor, normalise: Normalise, form: ExportForm) -> Tensor:
    """Return what an exported file takes, (B, C, H, W) float32, of images (B, H, W, C) uint8."""
    given = pixels.permute(0, 3, 1, 2).float() / 255 if form.normalise else normalise(pixels)
    return given.contiguous()


def _with_fewer_bits(file: Path, images: list[Tensor], form: ExportForm, calibration: Tensor | None) -> list[Tensor]:
    """Rewrite an ONNX file in fp16 or int8, and return what it gives for the images."""
    whole = file.with_name(f"{file.name}.fp32.partial")
    file.rename(whole)
    try:
        if form.precision == "fp16":
            to_float16(whole, file)
        else:
            assert calibration is not None
            to_int8(whole, file, calibration)
    finally:
        whole.unlink()
    return run_onnx(file, images)


def _difference(outputs: Tensor, wanted: Tensor) -> float:
    if outputs.shape != wanted.shape:
        return float("inf")
    return float((outputs - wanted).abs().max() / wanted.abs().max().clamp(min=1))


def metadata(member: Member, form: ExportForm) -> dict[str, str]:
    """Return what a user of the file must know, as text: labels, and what goes in and comes out."""
    statistics = input_statistics(member.config)
    size, channels = member.config.input_size, member.config.data.channels
    classes = known_classes(member)
    shape = "height, width" if form.any_size else f"{size.height}, {size.width}"
    crop = {key: value for key, value in member.config.augment.eval_crop.items() if key != "_target_"}
    crop["name"] = str(member.config.augment.eval_crop["_target_"]).rpartition(".")[2]
    whole = validation_crop(member)
    given = "in 0..1" if form.normalise else "normalised: (x / 255 - mean) / std"
    spec: dict[str, Any] = {
        "input": f"images, float32 (batch, {channels}, {shape}), {'RGB' if channels == 3 else 'gray'}, {given}",
        "output": "probabilities (batch, classes)" if form.softmax else "logits (batch, classes)",
        "mean": statistics["mean"],
        "std": statistics["std"],
        "image_size": size.setting,
        **({"resize_short_side": whole.short_side_of(size)} if isinstance(whole, CenterCrop) else {}),
        "interpolation": member.interpolation,
        "crop": crop,
        "classes": classes,
        "names": readable_names(classes),
        "architecture": member.arch,
        "precision": form.precision,
        "source": Path(member.name).name,
        "code": f"imgcls {code_version()}, torch {torch.__version__}",
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in spec.items()}


def write_pt2(
    deployed: DeployedNetwork, file: Path, images: list[Tensor], facts: dict[str, str], form: ExportForm
) -> list[Tensor]:
    """Write a torch.export program with metadata.json inside; return what it gives for each batch."""
    program = _program(deployed, images[0], form)
    # Not to the file: on a full disk torch's own writer ends the whole process.
    written = io.BytesIO()
    torch.export.save(program, written, extra_files={"metadata.json": json.dumps(facts)})
    with durable_file(file) as stream:
        stream.write(written.getbuffer())
    loaded = open_exported(file, form)
    with torch.inference_mode():
        return [loaded(given) for given in images]


def write_aoti(
    deployed: DeployedNetwork, file: Path, images: list[Tensor], facts: dict[str, str], form: ExportForm
) -> list[Tensor]:
    """Write machine code for this kind of processor, with its metadata; return what it gives for each batch.

    Raises:
        ValueError: there is no compiler of C++.
    """
    import torch._inductor.exc as inductor_errors  # here: it takes seconds
    from torch._inductor import aoti_compile_and_package

    program = _program(deployed, images[0], form)
    try:
        aoti_compile_and_package(
            program, package_path=str(file.absolute()), inductor_configs={"aot_inductor.metadata": facts}
        )
    except inductor_errors.InductorError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: the network cannot be compiled ({reason}); is a C++ compiler installed?") from error
    loaded = open_exported(file, form)
    with torch.inference_mode():
        return [loaded(given) for given in images]


def _program(deployed: DeployedNetwork, images: Tensor, form: ExportForm) -> torch.export.ExportedProgram:
    """Return the program of the network.

    Raises:
        ValueError: any_size is asked for, and the network takes images of one size.
    """
    try:
        return torch.export.export(deployed, (images,), dynamic_shapes=_dynamic_shapes(form))
    except Exception as error:
        raise _one_size(images, form, error) from error


def _dynamic_shapes(form: ExportForm) -> dict[str, dict[int, Any]]:
    sizes = {2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)} if form.any_size else {}
    return {"images": {0: torch.export.Dim("batch", min=1), **sizes}}


def _one_size(images: Tensor, form: ExportForm, error: Exception) -> Exception:
    """Return the error that a network of one size gives where any size is asked for, or else `error` itself."""
    if not form.any_size:
        return error
    height, width = images.shape[2:]
    return ValueError(
        f"any_size=true: the network takes images of {height} x {width} pixels alone, or of sizes that torch.export "
        f"cannot describe ({type(error).__name__}); leave it out"
    )


def write_onnx(
    deployed: DeployedNetwork, file: Path, images: list[Tensor], facts: dict[str, str], form: ExportForm
) -> list[Tensor]:
    """Write ONNX with its metadata_props; return what onnxruntime gives for each batch."""
    onnx = _needed("onnx", file)
    _needed("onnxscript", file)
    _needed("onnxruntime", file)
    newest = onnx.defs.onnx_opset_version()
    opset = form.opset
    if opset is not None and not 1 <= opset <= newest:
        raise ValueError(f"opset={opset}: the installed onnx knows 1 to {newest}; leave it out for torch's choice")
    for chatty in ("onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            deployed,
            (images[0],),
            dynamo=True,
            input_names=[IMAGES],
            output_names=["probabilities" if deployed.softmax else "logits"],
            opset_version=opset,
            dynamic_shapes=_dynamic_shapes(form),
            external_data=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        if form.any_size:
            raise _one_size(images[0], form, error) from error
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
    return run_onnx(file, images)


def run_onnx(file: Path, images: list[Tensor]) -> list[Tensor]:
    """Return what onnxruntime gives for each batch of images (B, C, H, W)."""
    network = open_exported(file, ExportForm())
    return [network(given) for given in images]


def open_exported(file: Path, form: ExportForm) -> Callable[[Tensor], Tensor]:
    """Return what runs an exported file: images (B, C, H, W) as it takes them to its outputs (B, K), on the CPU."""
    if form.compiled:
        from torch._inductor import aoti_load_package  # here: it takes seconds

        return aoti_load_package(str(file.absolute()))
    if file.suffix == ".pt2":
        with warnings.catch_warnings():
            # torch 2.11 warns of how it reads its own file.
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            return torch.export.load(file).module()
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {IMAGES: images.numpy()})[0])


def write_safetensors(
    deployed: DeployedNetwork, file: Path, images: list[Tensor], facts: dict[str, str], form: ExportForm
) -> list[Tensor]:
    """Write the weights alone with their metadata; return what the network gives with the weights read back."""
    del form
    _needed("safetensors", file)
    safetensors = importlib.import_module("safetensors.torch")
    state = {name: value.contiguous() for name, value in deployed.network.state_dict().items()}
    with durable_file(file) as stream:  # not by safetensors' own writer, which lets nobody else read the file
        stream.write(safetensors.save(state, metadata=facts))
    before = {name: value.clone() for name, value in state.items()}
    for value in deployed.network.state_dict().values():
        value.zero_()
    deployed.network.load_state_dict(safetensors.load_file(str(file)))
    with torch.inference_mode():
        outputs = [deployed(given) for given in images]
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
