"""Measure where the time goes: reading and decoding images, the training step, or both together.

    python scripts/dev/benchmark.py loader --data /data/imagenet/train  decoders and loaders, against the usual ones
    python scripts/dev/benchmark.py loader --data DIR --pack a.pack --pack b.pack  and from packs of the same images
    python scripts/dev/benchmark.py step model=resnet50 batch_size=64  the step alone, on noise
    python scripts/dev/benchmark.py train model=resnet50 data=imagenet data.root=DIR
    python scripts/dev/benchmark.py evaluate --data imagenet/val  testing by the centre crop, against torchvision's
    python scripts/dev/benchmark.py small --root MNIST_FOLDER  LeNet-5 on MNIST, against a DataLoader's loop
    python scripts/dev/benchmark.py startup  from the command to the first step, part by part
    python scripts/dev/benchmark.py loop  the trainer's loop against a bare one
    python scripts/dev/benchmark.py optimizer model=resnet18  the optimizer's step, compiled against torch's fused one
    python scripts/dev/benchmark.py forms --data DIR  from archives, shards, parquet, against folders
    python scripts/dev/benchmark.py index  how large the index of 1.28 million images is, and how fast it loads
    python scripts/dev/benchmark.py sweep  what a sweep adds to each of its jobs
    python scripts/dev/benchmark.py results  comparing and reporting many runs

step and train take train.py's own words; their last line says what bounds the speed and which setting to change.
Rates of decoders are by CPU time, so that other work on the machine does not count; pipelines take turns of a few
images each, and what is shown is the median of the rounds with the least and the greatest. cv2 and FFCV's algorithm
come with the extra `bench` (pip install -e .[bench]; FFCV's also needs libturbojpeg).
"""

import argparse
import importlib
from collections.abc import Sequence

from imgcls.environment import default_num_threads

# The module and function of each command.
COMMANDS = {
    "loader": ("benchmark_loader", "measure_loader"),
    "step": ("benchmark_step", "measure_step"),
    "train": ("benchmark_step", "measure_train"),
    "evaluate": ("benchmark_others", "measure_evaluate"),
    "small": ("benchmark_others", "measure_small"),
    "startup": ("benchmark_startup", "measure_startup"),
    "loop": ("benchmark_loop", "measure_loop"),
    "optimizer": ("benchmark_optimizer", "measure_optimizer"),
    "forms": ("benchmark_forms", "measure_forms"),
    "index": ("benchmark_index", "measure_index"),
    "sweep": ("benchmark_sweep", "measure_sweep"),
    "results": ("benchmark_sweep", "measure_results"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    loader = commands.add_parser("loader", help="decoders and loaders against the usual ones")
    loader.add_argument("--data", required=True, help="a folder of JPEG files, at any depth")
    loader.add_argument(
        "--pack",
        action="append",
        default=[],
        help="a pack of the same images, made by scripts/pack.py; may be repeated",
    )
    loader.add_argument("--images", type=int, default=1000, help="files to take, from all over the folder")
    loader.add_argument("--image-size", type=int, default=224)
    loader.add_argument("--threads", type=int, default=default_num_threads(), help="of the loaders; default: all cores")
    loader.add_argument("--rounds", type=int, default=5)
    for name, text in (("step", "the step alone, on noise"), ("train", "the data, the step, and both together")):
        command = commands.add_parser(name, help=text)
        command.add_argument("overrides", nargs="*", help="as train.py takes them: model=resnet50 precision=bf16 ...")
        command.add_argument("--seconds", type=float, default=5, help="for each part of each round")
        command.add_argument("--rounds", type=int, default=3)
    evaluate = commands.add_parser("evaluate", help="the centre crop's test, against torchvision's loop")
    evaluate.add_argument("--data", required=True, help="a folder of class folders, as ImageNet's val")
    evaluate.add_argument("--arch", default="resnet18", help="a ResNet or VGG, of random weights (default: resnet18)")
    evaluate.add_argument("--threads", type=int, default=default_num_threads(), help="of both; default: all cores")
    evaluate.add_argument("--workers", type=int, help="of torchvision's DataLoader (default: as many)")
    evaluate.add_argument("--rounds", type=int, default=3)
    small = commands.add_parser("small", help="LeNet-5 on MNIST against a DataLoader's loop")
    small.add_argument("--root", help="MNIST as torchvision lays it out")
    small.add_argument("--workers", type=int, default=2, help="of the DataLoader; as many threads here")
    small.add_argument("--rounds", type=int, default=5)
    startup = commands.add_parser("startup", help="from the command to the first optimizer step, part by part")
    startup.add_argument("--rounds", type=int, default=3, help="starts of each command with its bytecode cached")
    loop = commands.add_parser("loop", help="the trainer's loop against a bare PyTorch loop over the same loader")
    loop.add_argument("--network", choices=("lenet5", "resnet18"), help="default: both")
    loop.add_argument("--steps", type=int, default=0, help="of each turn (default: 200 of LeNet-5, 3 of ResNet-18)")
    loop.add_argument("--rounds", type=int, default=9)
    optimizer = commands.add_parser("optimizer", help="the optimizer's step, compiled against torch's fused one")
    optimizer.add_argument("overrides", nargs="*", help="as train.py takes them: model=resnet18 data=cifar10 ...")
    optimizer.add_argument("--steps", type=int, default=50, help="of each at each of four learning rates")
    sweep = commands.add_parser("sweep", help="what a sweep adds to each of its jobs")
    sweep.add_argument("--jobs", type=int, default=4, help="of the longer of two sweeps, less one")
    sweep.add_argument("--rounds", type=int, default=3)
    results = commands.add_parser("results", help="comparing and reporting many runs")
    results.add_argument("--runs", type=int, default=1000, help="to compare; a tenth of them are reported")
    results.add_argument("--rounds", type=int, default=3)
    forms = commands.add_parser("forms", help="images from archives, shards, parquet and others, against folders")
    forms.add_argument("--data", required=True, help="a folder of train/<class>/* and val/<class>/*")
    forms.add_argument("--image-size", type=int, default=224)
    forms.add_argument("--threads", type=int, default=1, help="of the loaders (default: 1)")
    forms.add_argument("--rounds", type=int, default=9)
    index = commands.add_parser("index", help="the index of 1.28 million images: its size, and how fast it loads")
    index.add_argument("--images", type=int, default=1_281_167)
    index.add_argument("--form", action="append", choices=("archives", "shards", "parquet"), help="default: all")
    index.add_argument("--folder", help="for some 5 GB of files (default: that of temporary files)")
    index.add_argument("--rounds", type=int, default=5, help="openings, of which the median counts")
    asked = parser.parse_args(arguments)
    module, function = COMMANDS[asked.command]
    try:
        # Imported here: `--help` does not wait for torch.
        getattr(importlib.import_module(module), function)(asked)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
