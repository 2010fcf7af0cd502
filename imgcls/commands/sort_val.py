"""Sort ImageNet's flat validation images into class folders, as training expects them."""

from pathlib import Path

from imgcls.config import ScriptParser, run_script
from imgcls.data.sets import VAL_NAME, read_labels
from imgcls.environment import command
from imgcls.errors import ConfigError, text_of


def main() -> None:
    """Run the command line."""
    run_script(sort_val)


def sort_val() -> None:
    """Sort the images that the command line names."""
    sort = command("sort_val")
    description = (
        "Sort ImageNet's flat validation images into class folders, as training expects them.\n\n"
        f"    {sort} /data/imagenet/val ILSVRC2012_validation_ground_truth.txt --meta meta.mat\n"
        f"    {sort} /data/imagenet/val LOC_val_solution.csv\n\n"
        "The labels are either the development kit's ground truth, with its meta.mat, or Kaggle's\n"
        "LOC_val_solution.csv, or any text file with one WordNet id per line, in the order of the images. Nothing is\n"
        "moved before every image has a label; a run that was broken off goes on where it stopped, and images that\n"
        "were sorted by other labels are moved too."
    )
    parser = ScriptParser("sort_val", description)
    parser.add_argument("val", type=Path, help="the folder of ILSVRC2012_val_*.JPEG")
    parser.add_argument("labels", type=Path, help="the file of labels")
    parser.add_argument("--meta", type=Path, help="the development kit's meta.mat, where labels are its numbers")
    asked = parser.parse()
    try:
        moved, sorted_already = sort_images(asked.val, read_labels(asked.labels, asked.meta))
    except OSError as error:
        raise ConfigError(text_of(error)) from error
    print(f"{asked.val}: moved {moved} images into class folders, {sorted_already} were in theirs already")


def sort_images(val: Path, labels: dict[int, str]) -> tuple[int, int]:
    """Move each image into the folder of its class; how many were moved, and how many were in theirs already.

    Raises:
        ValueError: an image without a label or there twice, or images that are missing.
    """
    images: dict[int, Path] = {}
    for path in [*val.iterdir(), *val.glob("n*/*")]:
        if match := VAL_NAME.fullmatch(path.name):
            if (number := int(match[1])) in images:
                raise ValueError(f"{images[number]} and {path} are the same image; remove one of them")
            images[number] = path
    if unknown := sorted(set(images) - set(labels)):
        raise ValueError(f"{images[unknown[0]]} has no label, and {len(unknown) - 1} others; is it the right file?")
    if len(images) != len(labels):
        raise ValueError(f"{val} holds {len(images)} images but there are {len(labels)} labels; unpack it again")
    astray = {number: path for number, path in sorted(images.items()) if path.parent != val / labels[number]}
    for number, path in astray.items():
        folder = val / labels[number]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    for folder in {path.parent for path in astray.values()} - {val}:
        if not any(folder.iterdir()):
            folder.rmdir()  # training refuses a class without images
    return len(astray), len(images) - len(astray)
