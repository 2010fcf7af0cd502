"""Say what a training will take, before it is begun."""

import sys
from collections.abc import Sequence

from imgcls.config import Config, ScriptParser, compose_run, run_script, without_dashes
from imgcls.environment import command
from imgcls.errors import ConfigError

# Training and validation images, and classes, of the sets that need not be there for a plan.
SIZES = {
    "imagenet": (1_281_167, 50_000, 1000),
    "imagenette": (9_469, 3_925, 10),
    "tiny_imagenet": (100_000, 10_000, 200),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "mnist": (60_000, 10_000, 10),
    "fashion_mnist": (60_000, 10_000, 10),
}


def make_parser() -> ScriptParser:
    plan = command("plan")
    parser = ScriptParser(
        "plan",
        "Say what a training will take: memory, hours, energy and money, and how it scales over GPUs. The run is\n"
        "described by train.py's words; rates and prices are those of a table with the source of each, or yours.",
        epilog="examples:\n"
        f"  {plan} model=resnet50 data=imagenet hardware=h100\n"
        f"  {plan} model=vgg16 data=imagenet hardware=rtx4090 gpus=8 link_gb_s=1.25\n"
        f"  {plan} model=resnet18 data=imagenet hardware=a100 mfu=0.25 usd_per_hour=1.5",
    )
    parser.add_argument("--hardware", default="a100", metavar="GPU", help="h100, a100, rtx4090, ... (default: a100)")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="the most that the table shows (default: 8)")
    parser.add_argument("--link-gb-s", type=float, metavar="X", help="between the GPUs, one direction, 10^9 bytes/s")
    parser.add_argument("--mfu", type=float, metavar="X", help="the share of the peak rate that is used, 0 to 1")
    parser.add_argument("--usd-per-hour", type=float, metavar="X", help="of one GPU")
    parser.add_argument("--images", type=int, metavar="N", help="of training, for a set that is not here")
    return parser


def plan(argv: Sequence[str] | None = None) -> None:
    """Print the plan of the run that the command line describes."""
    parser = make_parser()
    names = [option.removeprefix("--").replace("-", "_") for option in parser._option_string_actions if "--" in option]
    words = list(sys.argv[1:] if argv is None else argv)
    words = without_dashes(words, is_option=lambda key: key in names and key not in ("help", "version"))
    own = [word for word in words if word.partition("=")[0] in names or word in ("-h", "--help", "--version")]
    options = parser.parse(own)
    for key in ("gpus", "link_gb_s", "mfu", "usd_per_hour", "images"):
        value = getattr(options, key)
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{key}={value} must be above 0")
    if options.mfu is not None and options.mfu > 1:
        raise ConfigError(f"mfu={options.mfu} must be at most 1: it is the share of the peak rate that is used")
    config, _ = compose_run([word for word in words if word not in own])
    num_train, num_val, num_classes = _sizes(config, options.images)
    from imgcls.planning import make_plan, plan_text, read_hardware, scaling  # here: it imports torch

    made = make_plan(
        config,
        read_hardware(options.hardware),
        num_classes=num_classes,
        num_train=num_train,
        num_val=num_val,
        mfu=options.mfu,
    )
    numbers = [1 << power for power in range(options.gpus.bit_length()) if 1 << power < options.gpus] + [options.gpus]
    rows = [scaling(made, number, link_gb_s=options.link_gb_s, usd_per_hour=options.usd_per_hour) for number in numbers]
    priced = options.usd_per_hour is not None
    print(plan_text(made, rows, mfu=options.mfu, link_gb_s=options.link_gb_s, priced=priced))


def _sizes(config: Config, given: int | None) -> tuple[int, int, int]:
    """Return the training and validation images and the classes of a run's set."""
    if config.data.name in SIZES and config.data.root is None:
        train, val, classes = SIZES[config.data.name]
        return given or train, val, classes
    if given is not None:
        return given, 0, config.data.num_classes or 1000
    from imgcls.data.sets import open_image_set  # here: a set that is counted already is not opened

    images = open_image_set(config)
    return len(images.train), len(images.val), len(images.classes)


def main() -> None:
    """Run the command line."""
    run_script(plan)
