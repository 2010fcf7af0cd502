"""Draw a run, or several: `python scripts/plot.py runs/resnet18-shapes/x`: curves, first filters, Grad-CAM."""

import argparse
import sys
from pathlib import Path

from imgcls.config import add_network, check_network, parse_options, run_script
from imgcls.inference import plots


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Draw curves of runs as curves.png, the first filters of a network as filters.png, and with images "
        "what it looks at as gradcam.png. Options may be written key=value.",
        epilog="examples: plot.py runs/a, plot.py runs/a runs/b --out both, plot.py runs/a --images photo.jpg folder/",
    )
    made.add_argument("runs", nargs="*", type=Path, help="folders of runs; several are drawn into one picture")
    add_network(made)
    made.add_argument("--images", nargs="+", default=[], metavar="FILE", help="files, folders, patterns for Grad-CAM")
    made.add_argument(
        "--class", dest="class_name", metavar="NAME", help="whose evidence (default: the predicted one's)"
    )
    made.add_argument("--out", type=Path, metavar="DIR", help="where to (default: the run's folder, or here)")
    return made


def plot() -> int:
    """Draw what the command line names."""
    options = parse_options(parser())
    if not options.runs or options.checkpoint or options.weights:
        check_network(options)
    from imgcls import distributed
    from imgcls.inference import find_images, open_member, plot_filters, plot_gradcam, plot_runs
    from imgcls.runs import BEST  # here: torch takes seconds

    single = options.runs[0] if len(options.runs) == 1 else None
    out = options.out or single or Path()

    def save(name: str, picture: plots.Image.Image) -> None:
        out.mkdir(parents=True, exist_ok=True)
        picture.save(out / name)
        print(out / name)

    if options.runs:
        save("curves.png", plot_runs(options.runs))
    checkpoint = options.checkpoint or (single if single and (single / BEST).exists() else None)
    if checkpoint is None and options.weights is None:
        return 0
    member = open_member(checkpoint, options.weights, options.network, options.override)
    with distributed.process_group(options.device) as device:
        try:
            save("filters.png", plot_filters(member.build(device)))
        except ValueError as error:
            print(f"no filters: {error}", file=sys.stderr)
        if options.images:
            found = find_images(options.images, sys.stdin)
            picture, bad = plot_gradcam(member, found.files, device=device, class_name=options.class_name)
            for reason in [*found.passed_over, *map(str, bad)]:
                print(f"passed over: {reason}", file=sys.stderr)
            save("gradcam.png", picture)
    return 0


if __name__ == "__main__":
    run_script(plot)
