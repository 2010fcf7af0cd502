"""The configuration: its schema, the checks across its fields, and the command line's errors.

Imports no torch, so that help and every config error come at once. What a user chooses lives in conf/; this module
says which keys exist, which values they take, and turns a mistake into one line that ends the search.
"""

import dataclasses
import difflib
import hashlib
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BAD_IMAGE_POLICIES = ("raise", "skip")
INPUTS = ("standardised", "mean_subtracted")
AUGMENT_POLICIES = ("randaugment", "trivialaugment")
LR_SCALINGS = ("none", "linear")
BEST_METRICS = ("top1", "top5", "loss")
ON_DIVERGENCE = ("stop", "rollback")
ON_STUCK = ("warn", "stop", "ignore")
FREEZES = ("none", "backbone")
ENSEMBLE_AVERAGES = ("softmax", "weights")


class ConfigError(ValueError):
    """A mistake in what the user asked for: its text names the key, the value and the way out."""


@dataclass
class Scale:
    """The size of a run that a tiny data set brings in place of the recipe's; null keeps the recipe's."""

    image_size: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    lr_scaling: str | None = None


@dataclass
class DataConfig:
    """Where images come from and how they are read."""

    name: str = MISSING
    source: Any = MISSING
    root: str | None = None
    num_classes: int | None = None
    channels: int = 3
    mean: list[float] = MISSING
    std: list[float] = MISSING
    scale: Scale = field(default_factory=Scale)
    num_threads: int | None = None
    prefetch: int = 4
    cache_gb: float = 2.0
    on_bad_image: str = "raise"


@dataclass
class AugmentConfig:
    """What happens to a training image, and the crop that validation takes."""

    crop: Any = MISSING
    eval_crop: Any = MISSING
    input: str = "standardised"
    flip: float = 0.0
    pca_std: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    policy: str | None = None
    policy_ops: int = 2
    policy_magnitude: int = 9
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass
class RecipeConfig:
    """The scale of a paper's training procedure; what a tiny data set may replace by its own."""

    name: str = MISSING
    paper: str = MISSING
    batch_size: int = MISSING
    image_size: int = MISSING
    epochs: int = MISSING


@dataclass
class CheckpointConfig:
    """When a run is saved, and what of it is kept."""

    every_minutes: float = 10.0
    keep: int = 0
    best_metric: str = "top1"


@dataclass
class DivergenceConfig:
    """What `on_divergence=rollback` does, and when a loss counts as stuck."""

    lr_factor: float = 0.5
    max_rollbacks: int = 3
    stuck_epochs: float = 3.0
    stuck_steps: int = 5000
    on_stuck: str = "warn"


@dataclass
class Config:
    """One run."""

    model: Any = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: Any = MISSING
    schedule: Any = MISSING
    recipe: RecipeConfig = field(default_factory=RecipeConfig)

    batch_size: int = MISSING
    image_size: int = MISSING
    epochs: int = MISSING

    label_smoothing: float = 0.0
    auxiliary_weight: float = 0.3
    ema_decay: float = 0.0
    clip_grad_norm: float | None = None
    decay_norms_and_biases: bool = True
    lr_scaling: str = "none"

    weights: str | None = None
    freeze: str = "none"
    head_lr_factor: float = 1.0

    name: str | None = None
    seed: int = 0
    overwrite: bool = False
    max_steps: int | None = None
    min_val_top1: float | None = None

    device: str = "auto"
    precision: str = "auto"
    microbatch: Any = None
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False

    log_every_steps: int = 20
    tensorboard: bool = True
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_divergence: str = "stop"
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)


@dataclass
class EvaluationDataConfig:
    """The set that a network is tested on; what is null, or there is no choice of data at all, is as it was trained."""

    name: str | None = None
    source: Any = None
    root: str | None = None
    num_classes: int | None = None
    channels: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    scale: Scale = field(default_factory=Scale)
    num_threads: int | None = None
    prefetch: int = 4
    cache_gb: float = 0.0
    on_bad_image: str = "raise"


@dataclass
class EvaluateConfig:
    """One test of a network, or of an ensemble."""

    checkpoint: Any = None
    average: str = "softmax"
    weights: str | None = None
    network: str | None = None
    overrides: list[str] = field(default_factory=list)
    protocol: Any = MISSING
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    image_size: int | None = None
    batch_size: int = 64
    fresh: bool = False
    compare: str | None = None
    real: str | None = None
    num_worst: int = 25
    out: str | None = None
    tensorboard: bool = True
    device: str = "auto"
    precision: str = "fp32"
    channels_last: bool = True

    @property
    def checkpoints(self) -> list[str]:
        if self.checkpoint is None:
            return []
        return [str(path) for path in self.checkpoint] if isinstance(self.checkpoint, list) else [str(self.checkpoint)]


# What does not change a run's result, or only says where its parts lie: left out of the run directory's name, and
# free to differ when a run is taken up again.
INCIDENTAL = (
    "name",
    "overwrite",
    "data.root",
    "data.num_threads",
    "data.prefetch",
    "data.cache_gb",
    "device",
    "min_val_top1",
    "tensorboard",
    "checkpoint.every_minutes",
    "checkpoint.keep",
    # A run that has diverged may be taken up again with another answer to it.
    "on_divergence",
    "divergence",
)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` for the known name nearest to `word`, or nothing where none is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]}?)" if match else ""


def check(config: Config) -> None:
    """Hold every field, and the fields against each other, to what they mean.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    _one_of("precision", config.precision, PRECISIONS)
    _one_of("lr_scaling", config.lr_scaling, LR_SCALINGS)
    _one_of("data.on_bad_image", config.data.on_bad_image, BAD_IMAGE_POLICIES)
    _one_of("checkpoint.best_metric", config.checkpoint.best_metric, BEST_METRICS)
    _one_of("on_divergence", config.on_divergence, ON_DIVERGENCE)
    _one_of("divergence.on_stuck", config.divergence.on_stuck, ON_STUCK)
    _one_of("augment.input", config.augment.input, INPUTS)
    if config.augment.policy is not None:
        _one_of("augment.policy", config.augment.policy, AUGMENT_POLICIES)
    _one_of("freeze", config.freeze, FREEZES)
    _check_device(config.device)
    for key in ("batch_size", "image_size", "epochs", "max_steps", "log_every_steps", "data.prefetch"):
        _at_least(key, _select(config, key), 1)
    for key in ("divergence.stuck_steps", "divergence.max_rollbacks"):
        _at_least(key, _select(config, key), 1)
    _at_least("data.num_threads", config.data.num_threads, 1)
    _at_least("data.num_classes", config.data.num_classes, 2)
    _between("seed", config.seed, 0, 2**32 - 1)
    for key in ("auxiliary_weight", "clip_grad_norm", "data.cache_gb"):
        _at_least(key, _select(config, key), 0)
    for key in ("checkpoint.every_minutes", "checkpoint.keep"):
        _at_least(key, _select(config, key), 0)
    for key in ("brightness", "contrast", "saturation", "hue", "pca_std", "mixup", "cutmix"):
        _at_least(f"augment.{key}", getattr(config.augment, key), 0)
    for key in ("flip", "erasing"):
        _between(f"augment.{key}", getattr(config.augment, key), 0, 1)
    _between("label_smoothing", config.label_smoothing, 0, 1)
    _between("min_val_top1", config.min_val_top1, 0, 100)
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"ema_decay={config.ema_decay} must be at least 0 (no averaging) and below 1")
    _check_microbatch(config)
    if not 0 < config.divergence.lr_factor <= 1:
        raise ConfigError(f"divergence.lr_factor={config.divergence.lr_factor} must lie above 0 and be at most 1")
    if not config.divergence.stuck_epochs > 0:
        raise ConfigError(
            f"divergence.stuck_epochs={config.divergence.stuck_epochs} must be above 0; "
            "divergence.on_stuck=ignore turns the warning off"
        )
    if config.precision == "fp16" and config.device == "cpu":
        raise ConfigError("precision=fp16 needs a CUDA device; on device=cpu use precision=fp32 or auto")
    if config.data.channels not in (1, 3):
        raise ConfigError(f"data.channels={config.data.channels} must be 1 (gray) or 3 (RGB)")
    for key in ("mean", "std"):
        values = getattr(config.data, key)
        if len(values) not in (1, config.data.channels):
            raise ConfigError(
                f"data.{key}={values} has {len(values)} values for data.channels={config.data.channels}; "
                "give one value a channel, or one for all"
            )
    for plug in ("model", "optimizer", "schedule", "data.source", "augment.crop", "augment.eval_crop"):
        node = _select(config, plug)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"{plug}={node} has no _target_; choose one of conf/{plug.split('.')[0]}")
    for key in ("num_classes", "in_channels"):
        value = config.model.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"model.{key}={value} must be a whole number; leave it out, the data says how many")
    _check_lr(config)
    _check_trains(config)


def check_evaluation(config: EvaluateConfig) -> None:
    """The same for a test.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    _one_of("precision", config.precision, PRECISIONS)
    _one_of("average", config.average, ENSEMBLE_AVERAGES)
    _one_of("data.on_bad_image", config.data.on_bad_image, BAD_IMAGE_POLICIES)
    _check_device(config.device)
    for key in ("batch_size", "image_size", "num_worst", "data.prefetch"):
        _at_least(key, _select(config, key), 1)
    _at_least("data.num_threads", config.data.num_threads, 1)
    _at_least("data.cache_gb", config.data.cache_gb, 0)
    if config.compare is not None:
        _one_of("compare", config.compare, ("published",))
        if len(config.checkpoints) > 1 and config.average == "softmax":
            raise ConfigError(
                "compare=published: the published numbers are of single networks, not of an ensemble; leave it out"
            )
        if config.image_size is not None:
            raise ConfigError(
                f"compare=published: the published numbers are not of image_size={config.image_size} but of each "
                "network's own; leave one of the two out"
            )
    if bool(config.checkpoints) == (config.weights is not None):
        raise ConfigError("name what to test: checkpoint=runs/.../best.pt, or network=resnet50 weights=torchvision")
    if config.weights is not None and config.network is None:
        raise ConfigError(f"weights={config.weights} of which network? add network=resnet50, or another of conf/model")
    if config.checkpoints and (config.network is not None or config.overrides):
        raise ConfigError("network= and overrides= go with weights=; a checkpoint brings its own: leave them out")
    if config.average == "weights" and len(config.checkpoints) < 2:
        raise ConfigError("average=weights needs several checkpoints of one network: checkpoint=[a.pt,b.pt]")


AnyConfig = TypeVar("AnyConfig", Config, EvaluateConfig)


def to_config(cfg: DictConfig, kind: type[AnyConfig] = Config) -> AnyConfig:
    """Turn Hydra's composed tree into the plain, checked config that the rest of the program reads.

    Raises:
        ConfigError: a mandatory value is missing, a key is unknown, or `check` refuses a field.
    """
    if OmegaConf.get_type(cfg) is not kind:
        raise ConfigError("--config-name: conf/ has config.yaml for train.py, evaluate.yaml for scripts/evaluate.py")
    _check_keys(cfg, kind)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; give one: {missing[0]}=...")
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    if isinstance(config, EvaluateConfig):
        check_evaluation(config)
    else:
        check(config)
    return config


def _check_keys(node: DictConfig, kind: type, prefix: str = "") -> None:
    """Refuse keys that the schema does not have: `+key=...` adds what Hydra would refuse without the +.

    What lies below a plug is held against the signature of its `_target_` instead.
    """
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key in map(str, node):
        if key not in fields:
            raise ConfigError(_no_such_key(f"{prefix}{key}", fields))
        below = fields[key]
        if dataclasses.is_dataclass(below) and isinstance(below, type):
            _check_keys(node[key], below, f"{prefix}{key}.")


def from_flat(flat: dict[str, Any]) -> Config:
    """Return the config that `flatten`, or `consequential`, made dotted keys of; what those leave out has its default.

    Raises:
        ConfigError: keys that this version does not know, or values that they do not take.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(tree)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"the checkpoint's config is of another version of imgcls: {_one_line(error)}") from error
    assert isinstance(config, Config)
    return config


def flatten(config: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the config as dotted keys and plain values: `{"optimizer.lr": 0.1, ...}`."""
    tree = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{sub}": leaf for sub, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def consequential(config: Config | dict[str, Any]) -> dict[str, Any]:
    """Return what of `flatten(config)` a run's result depends on."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == free or key.startswith(f"{free}.") for free in INCIDENTAL)
    }


def compose(overrides: Iterable[str] = (), *, config_name: str = "config") -> Config:
    """Compose a Config from conf/ in a program or a test: `compose(["model=vgg16"])`.

    Raises:
        ConfigError: as `check`, and for an override that Hydra refuses.
    """
    register()
    # Inside a command line that Hydra runs, its own state would be in the way.
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        overrides = list(overrides)
        _check_choices(overrides)
        with hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
            return to_config(hydra.compose(config_name, overrides=overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_one_line(error)) from error
    finally:
        GlobalHydra.instance().hydra = running


def register() -> None:
    """Make the schema and the resolvers that conf/ uses known to Hydra; calling it again changes nothing."""
    ConfigStore.instance().store(name="schema", node=Config)
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("at_most_a_tenth", _at_most_a_tenth, replace=True)
    OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


def _first(*values: Any) -> Any:
    """Return the first value that is not null: `${first:${data.scale.epochs},${recipe.epochs}}`."""
    return next((value for value in values if value is not None), None)


def _at_most_a_tenth(value: float, whole: float) -> float:
    """Return `value`, or a tenth of `whole` where that is less: `${at_most_a_tenth:5,${epochs}}`."""
    return min(value, whole / 10)


def _run_name(name: str | None, override_dirname: str) -> str:
    """Name a run by what it is: `name=` where given, else the overrides that matter, short enough for any disk.

    The name is of one folder below the model's and the data's: `a/b` or `..` leads nowhere else. Where a `name=` had to
    change, a hash keeps it apart from others, so that `a/b` and `a_b` are two runs.
    """
    whole = name or override_dirname or "default"
    safe = re.sub(r"^\.+$|[^\w.,=+-]+", "_", whole)
    short = safe.encode()[:100].decode(errors="ignore") if len(safe.encode()) > 120 else safe
    if short != safe or (name and safe != name):
        short = f"{short}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    return short


class Console(logging.StreamHandler):
    """Log lines on the terminal; where their reader, such as head, has enough, the run goes on without them."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            # Into nothing from now on, what print and the end of the process still flush included.
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)
        else:
            super().handleError(record)


@dataclass
class Outcome:
    """How one job of a sweep ended: the run's directory, and the error where there was one."""

    run_dir: str
    error: str | None = None


def command_line(
    task: Callable[[AnyConfig, Path], None], *, config_name: str = "config", kind: type[AnyConfig] = Config
) -> list[Outcome]:
    """Run `task(config, run_dir)` as Hydra composes it from sys.argv, once, or for each job of a sweep (`-m`).

    `kind` is the class of the config, which `config_name` in conf/ has as its schema.

    A user's mistake ends with one line and exit code 2, without a traceback; an exception that brings an `exit_code`
    of its own ends with its text and that code. In a sweep a failing job is reported and the next one runs.

    Returns:
        The outcomes of a sweep's jobs in this process; empty after a single run.
    """
    register()
    outcomes: list[Outcome] = []

    def job(cfg: DictConfig) -> None:
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            task(to_config(cfg, kind), run_dir)
        except Exception as error:
            if not sweep:
                raise
            expected = _exit_code(error) is not None
            text = _one_line(error) if expected else f"{type(error).__name__}: {error}"
            log.error(text, exc_info=None if expected else error)
            outcomes.append(Outcome(str(run_dir), error=text))
        else:
            outcomes.append(Outcome(str(run_dir)))
        return None

    sys.argv[1:] = quoted(sys.argv[1:])
    try:
        with _interruptible_imports():
            _run_hydra(job, config_name)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_code", 130)) from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(code) from None
    return outcomes if len(outcomes) > 1 or any(outcome.error for outcome in outcomes) else []


@contextmanager
def _interruptible_imports() -> Iterator[None]:
    """Within this context Ctrl-C during an import ends the process at once, with code 130.

    torch's import turns a KeyboardInterrupt into an ImportError of its own, or swallows it. Nothing has been done by
    then that could be lost; the trainer hears signals by a handler of its own.
    """

    def hear(number: int, frame: FrameType | None) -> None:
        caller = frame
        while caller is not None:
            if caller.f_code.co_filename.startswith("<frozen importlib"):
                os.write(2, b"interrupted\n")
                os._exit(130)
            caller = caller.f_back
        signal.default_int_handler(number, frame)

    # A job in the background of a shell, or a program around this one, has its own answer to Ctrl-C.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


# Keys whose values are a user's own paths; of `overrides`, which are no paths, the parts hold a = as well.
PATHS = ("checkpoint", "weights", "real", "out", "data.root", "overrides")


def quoted(words: list[str]) -> list[str]:
    """Quote, in a command line, the paths that Hydra's grammar refuses, such as runs/x/batch_size=16,epochs=2/best.pt.

    What Hydra understands stays as it is, and so does what is quoted already. Where a comma may part two values (a list
    [a,b], or a sweep), existing files decide, or an ending .pt; if they do not, Hydra's error stands.
    """
    sweep = any(word in ("-m", "--multirun") for word in words)
    return [_quoted(word, sweep=sweep) for word in words]


def _quoted(word: str, *, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if key not in PATHS or not value or value[0] in "'\"" or "${" in value or _understood(word, sweep=sweep):
        return word
    if value[0] == "[":
        inner = value[1:-1]
        if value[-1] != "]" or any(mark in inner for mark in "'\"") or (key != "overrides" and "[" in inner):
            return word
        parts = re.split(r",(?=[\w.@/+~]+=)", inner) if key == "overrides" else _parted(inner)
        return f"{key}=[{','.join(map(_quote, parts))}]" if parts else word
    if sweep and "," in value and not os.path.exists(os.path.expanduser(value)):
        return word
    return key + equals + _quote(value)


def _understood(word: str, *, sweep: bool) -> bool:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return sweep or not override.is_sweep_override()


def _parted(inner: str) -> list[str]:
    # a=1,b=2/best.pt,c.pt to the paths in it; nothing where a part is neither there nor ends in .pt.
    found: list[str] = []
    path = ""
    for piece in inner.split(","):
        path = f"{path},{piece}" if path else piece.strip()
        if path.endswith(".pt") or os.path.exists(os.path.expanduser(path)):
            found.append(path)
            path = ""
    return [] if path else found


def _quote(value: str) -> str:
    # Backslashes count only before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), value) + "'"


def _run_hydra(job: Callable[[DictConfig], None], config_name: str) -> None:
    """Run Hydra's own main so that its errors reach the caller as exceptions instead of a printed page."""
    raised: list[BaseException] = []

    def keep(cfg: DictConfig) -> None:
        # Hydra prints a line of its own before it passes a job's exception on; hand ours over behind its back.
        try:
            job(cfg)
        except Exception as error:
            raised.append(error)

    known, rest = get_args_parser().parse_known_args()
    if rest and rest[0].startswith("-"):
        raise ConfigError(
            f"{rest[0]}: there is no such option; what to train is key=value, without dashes (see --help)"
        )
    if rest:
        raise ConfigError(
            f"{rest[0]}: overrides stand on both sides of an option such as -m; put all of them behind it"
        )
    _check_choices(known.overrides)
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(CONF_DIR), config_name=config_name, version_base="1.3")(keep)()
    except OSError as error:  # Hydra makes the run's directory; what a job raises is kept
        if error.filename is None:
            raise
        raise ConfigError(
            f"{error.filename}: the run's directory cannot be made: {error.strerror}; give the run another name "
            "(name=...), or start it in a directory where you may write"
        ) from error
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
    if raised:
        raise raised[0]


def _check_choices(overrides: list[str]) -> None:
    """Refuse a group that is set to something other than one name, before Hydra does without naming it."""
    for override in OverridesParser.create().parse_overrides(overrides):
        group, value = override.key_or_group, override.value()
        chosen = isinstance(value, str) or override.is_sweep_override() or override.is_delete()
        if chosen or isinstance(value, dict) or not (CONF_DIR / group).is_dir():
            continue
        known = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
        raise ConfigError(f"{override.input_line}: {group} takes one name, or is left out; one of {', '.join(known)}")


def _exit_code(error: BaseException) -> int | None:
    """Return the exit code of an error that its text explains, or None for a fault of the program.

    A user's mistake has 2; a fault of the program needs its traceback.
    """
    users = isinstance(error, ValueError | FileNotFoundError | HydraException | OmegaConfBaseException)
    return getattr(error, "exit_code", 2 if users else None)


def _one_line(error: BaseException) -> str:
    return explain(error) if isinstance(error, HydraException | OmegaConfBaseException) else str(error)


def explain(error: BaseException) -> str:
    """Say in one line what is wrong with an override, with the nearest right name.

    Hydra's own messages run over several lines, name no alternatives, and end in advice that does not fit here.
    """
    text = str(error)
    cause = error.__cause__ or error.__context__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = list(error.options or [])
        return f"{group}={choice}: there is no such {group}{nearest(choice, options)}; one of {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not an override that Hydra understands; write key=value, and quote odd characters"
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return (
            f"{match.group(1)}: several values; to run one job for each, add -m; for a list, write key=[value1,value2]"
        )
    if "Could not override ''" in text:
        return "=: an override without a key; write key=value"
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1).split("@")[0]
        groups = [path.name for path in CONF_DIR.iterdir() if path.is_dir()]
        path = key.split(".")[:-1]
        parent = getattr(cause, "parent_node", None)
        known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        if not path:
            known = [f.name for f in dataclasses.fields(Config)] + groups
        prefix = "".join(f"{part}." for part in path)
        # An option of the class behind a plug may be added with a +; an own key that does not exist may not.
        also = f"; to pass it to {prefix}_target_ all the same: +{key}=..." if path and "_target_" in known else ""
        return _no_such_key(key, known) + also
    if isinstance(error, ConfigCompositionException) and cause is not None:
        head = text.splitlines()[0].removeprefix("Error merging override ")
        return f"{head}: {str(cause).splitlines()[0]}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip() and "object_type" not in line)


def _no_such_key(key: str, known: Iterable[str]) -> str:
    *path, leaf = key.split(".")
    # A group that this command does not take, as evaluate.py's model, is no better name for itself.
    known = [name for name in known if not name.startswith("_") and name != leaf]
    where = f"{'.'.join(path)} has {', '.join(known)}" if path and known else "see --help for the keys there are"
    return f"{key}: there is no such key{nearest(leaf, known)}; {where}"


def _check_microbatch(config: Config) -> None:
    microbatch = config.microbatch
    if microbatch is None or microbatch == "auto":
        return
    if not isinstance(microbatch, int) or isinstance(microbatch, bool):
        raise ConfigError(f"microbatch={microbatch} must be a number of images, auto, or null for all at once")
    _at_least("microbatch", microbatch, 1)
    if microbatch > config.batch_size:
        raise ConfigError(
            f"microbatch={microbatch} is larger than batch_size={config.batch_size}; "
            f"use microbatch={config.batch_size} or less, or leave it out"
        )


def _check_lr(config: Config) -> None:
    lr = config.optimizer.get("lr")
    if "lr" not in config.optimizer:
        multiplied = {"lr_scaling": config.lr_scaling != "none", "head_lr_factor": config.head_lr_factor != 1}
        for key in (key for key, is_multiplied in multiplied.items() if is_multiplied):
            raise ConfigError(
                f"optimizer.lr has no value, and {key}={getattr(config, key)} multiplies it; give one: optimizer.lr=..."
            )
    elif not isinstance(lr, int | float) or isinstance(lr, bool):
        lr = "null" if lr is None else lr
        raise ConfigError(f"optimizer.lr={lr}: {config.optimizer['_target_']} takes a number (float) there")
    elif not math.isfinite(lr):
        raise ConfigError(f"optimizer.lr={lr} must be finite")
    else:
        _at_least("optimizer.lr", lr, 0)


def _check_trains(config: Config) -> None:
    """Refuse what would train nothing, or nothing of use."""
    if not 0 < config.head_lr_factor < math.inf:
        raise ConfigError(
            f"head_lr_factor={config.head_lr_factor} must be above 0 and finite, or the last layer learns nothing; "
            "1 gives it the lr of the rest"
        )
    if config.clip_grad_norm == 0:
        raise ConfigError("clip_grad_norm=0 leaves nothing of any gradient; null is no clipping")
    # torchvision's networks and timm's have a setting of their own for published weights.
    starts = (config.weights, config.model.get("weights"), config.model.get("pretrained"))
    if config.freeze == "backbone" and not any(starts):
        raise ConfigError(
            "freeze=backbone would keep the random weights that the network starts from; "
            "add weights=torchvision, a file, or a URL, or freeze=none"
        )


def _check_device(device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device={device} is none of auto, cpu, cuda, cuda:N")


def _select(config: Config | EvaluateConfig, key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = getattr(node, part)
    return node


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key}={value} is none of {', '.join(known)}{nearest(value, known)}")


def _at_least(key: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ConfigError(f"{key}={value} is too small; use at least {least}")


def _between(key: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{key}={value} must lie between {low} and {high}")
