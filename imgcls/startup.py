"""What a command can say before torch is imported: a run has finished, or a file that it needs is not there."""

import copy
import dataclasses
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from PIL import Image

from imgcls.config import (
    LEFT_OPEN,
    Config,
    EvaluateConfig,
    build_component,
    consequential,
    fit_to_set,
    has_open_size,
    is_given,
    locate,
    select,
    set_setting,
)
from imgcls.data.sets import ImageSet, is_pattern, is_url, open_image_set
from imgcls.errors import ConfigError
from imgcls.runs import (
    BEST,
    RESULTS,
    RunDirectory,
    begun_by_this_job,
    build_loggers,
    check_same_run,
    read_json,
    saved_config,
    settings_from_weights,
)

EXPORT_SUFFIXES = (".pt2", ".onnx", ".safetensors")
EXPORT_PRECISIONS = ("fp32", "fp16", "int8")


def look_up_run(config: Config, path: Path) -> tuple[Config, dict[str, Any] | None, ImageSet | None]:
    """Look at the run in `path` and at the images.

    Returns:
        The config, with the sizes chosen that depend on the number of images; the results of the run if it has
        finished, or None; and the images to train on if it has not, or None.

    Raises:
        ValueError, FileNotFoundError: `path` holds a run of another config or data set, or there are no such images.
    """
    images = None
    config = with_settings_of_weights(config, path)
    build_loggers(config.logger)  # a package that is missing is named before torch is imported
    if has_open_size(config):
        begun = None if config.overwrite else saved_config(path)
        if begun is None:
            images = open_image_set(config)
            config = fit_to_set(config, len(images.train))
        else:
            # A run keeps the sizes that it began with, and shows its results where its images are gone.
            opened = {key: begun.get(key) for key, unset in LEFT_OPEN.items() if getattr(config, key) == unset}
            sizes = {key: size for key, size in opened.items() if type(size) is type(LEFT_OPEN[key])}
            config = dataclasses.replace(config, **sizes)
    run_dir = RunDirectory(
        path, consequential(config), overwrite=config.overwrite, continue_run=config.continue_run, look_only=True
    )
    results = run_dir.results()
    if results is None:
        return config, None, images or open_image_set(config)
    if results.get("data_root") != config.data.root:
        check_same_run(path, "data set", results.get("data", {}), open_image_set(config).identity())
    return config, results, None


def with_settings_of_weights(config: Config, path: Path) -> Config:
    """Return the config with the settings that the run in `path` took from its weights, where it asks for the same."""
    if config.overwrite and not begun_by_this_job(path):
        return config
    taken = settings_from_weights(path)
    config = copy.deepcopy(config) if taken else config
    for key, (asked, value) in taken.items():
        if select(config, key) == asked and not is_given(config, key):
            set_setting(config, key, value)
    return config


def checkpoint_file(path: str | Path) -> Path:
    """Return the file of a checkpoint: `path`, or the best one in the folder of a run.

    Raises:
        FileNotFoundError: there is none.
    """
    file = Path(path).expanduser()
    file = file / BEST if file.is_dir() else file
    if not file.is_file():
        if file.exists():
            raise ConfigError(f"checkpoint={file} is no file but a folder, a pipe or a device")
        raise FileNotFoundError(f"checkpoint={file}: there is no such file")
    return file


def check_network_files(checkpoints: Iterable[str], weights: str | None) -> None:
    """Check that the files of a network are there; published weights and URLs are not looked at.

    Raises:
        FileNotFoundError: one is not.
    """
    for path in checkpoints:
        checkpoint_file(path)
    elsewhere = weights is None or weights.partition(":")[0] == "torchvision" or bool(urlparse(weights).netloc)
    file = Path((weights or "").removeprefix("file:")).expanduser()
    if weights is not None and not elsewhere and not (file.is_file() or (file / BEST).is_file()):
        raise FileNotFoundError(f"weights={weights}: there is no such file; give a file, a URL, or torchvision")


def check_test_files(config: EvaluateConfig) -> None:
    """Check that the network, the images and the labels of a test are there.

    Raises:
        ValueError, FileNotFoundError: one is not, or data.root is needed and not set.
    """
    build_loggers(config.logger)  # a package that is missing is named before torch is imported
    check_network_files(config.checkpoints, config.weights)
    root = config.data.root
    if root is None and config.data.source is None and config.checkpoints:
        root = _trained_root(config.checkpoints[0])
    several = root is not None and (is_pattern(root) or is_url(root))
    if root is not None and not several and not Path(root).expanduser().exists():
        raise FileNotFoundError(f"data.root={root}: there is no such folder or file")
    source = config.data.source  # a checkpoint records the root of its images
    if root is None and source is not None:
        parameter = inspect.signature(locate("data.source", source["_target_"])).parameters.get("root")
        if parameter is not None and parameter.default is parameter.empty:
            build_component("data.source", source, root=None, channels=config.data.channels)  # says what is missing
    if config.real is not None and not Path(config.real).expanduser().is_file():
        raise FileNotFoundError(f"real={config.real}: there is no such file; the authors publish it as real.json")


def _trained_root(checkpoint: str) -> str | None:
    """Return the data.root of the finished run that a checkpoint is beside, if there is one."""
    root = (read_json(checkpoint_file(checkpoint).parent / RESULTS) or {}).get("data_root")
    return root if isinstance(root, str) else None


@dataclass(frozen=True)
class ExportForm:
    """What an exported network takes and gives, and how it is written.

    Args:
        normalise: take images in 0..1 and normalise them inside; otherwise they come normalised.
        softmax: give probabilities; otherwise logits.
        opset: of ONNX; None is torch's own choice.
        precision: of the weights and maps of an ONNX file; what goes in and out is float32.
        any_size: take images of any height and width, where the network can.
        compiled: a .pt2 file is machine code for the processors of this kind, by AOTInductor, not a program.
    """

    normalise: bool = False
    softmax: bool = False
    opset: int | None = None
    precision: str = EXPORT_PRECISIONS[0]
    any_size: bool = False
    compiled: bool = False


def check_export_file(file: Path, form: ExportForm) -> None:
    """Check that an exported file is of a known kind, which can hold what is asked for.

    Raises:
        ValueError: it is not.
    """
    if file.suffix not in EXPORT_SUFFIXES:
        raise ValueError(f"out={file}: the suffix says what to write; use one of {', '.join(EXPORT_SUFFIXES)}")
    if file.suffix == ".safetensors" and (form.normalise or form.softmax or form.any_size):
        raise ValueError("safetensors holds weights alone, no graph: leave normalise, softmax and any_size out")
    if form.opset is not None and file.suffix != ".onnx":
        raise ValueError(f"opset={form.opset} is ONNX's; leave it out for {file.suffix}")
    if form.precision != EXPORT_PRECISIONS[0] and file.suffix != ".onnx":
        raise ValueError(f"precision={form.precision} is for .onnx files; leave it out for {file.suffix}")
    if form.compiled and file.suffix != ".pt2":
        raise ValueError(f"format=aoti writes .pt2 files, not {file.suffix}; use out={file.with_suffix('.pt2')}")


def check_picture_file(option: str, file: Path) -> None:
    """Check the name of the picture that `option` asks for, and make its folder.

    Raises:
        ValueError: the suffix is of no kind of picture, or the folder cannot be made.
    """
    known = Image.registered_extensions()
    if known.get(file.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{option}={file}: the suffix says what to write; use {file.with_suffix('.png').name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option}={file}: its folder cannot be made ({error.strerror})") from error
