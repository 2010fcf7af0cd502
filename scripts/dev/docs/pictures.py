"""Draw the pictures of README.md and docs/: `python scripts/dev/docs/pictures.py` trains for a minute and writes them.

They are committed, unlike what the site draws of the code when it is built.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from imgcls.data.decoding import FORMATS

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "docs/images"
CPU = ["device=cpu", "logger=none"]
MOST_BYTES = 150_000


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _run("train.py", "model=lenet5", "name=curves", *CPU, cwd=folder)
        _run("scripts/plot.py", "runs/lenet5-digits/curves", cwd=folder)
        # Without its last third, the learning rate: a phone shows the others larger.
        save(Path(folder, "runs/lenet5-digits/curves/curves.png"), IMAGES / "curves.png", share=2 / 3)
        _run("train.py", "experiment=smoke", *CPU, cwd=folder)
        smoke = Path(folder, "runs/resnet18-shapes/smoke")
        _run("scripts/evaluate.py", f"checkpoint={smoke}", "num_worst=8", *CPU, cwd=folder)
        save(next(smoke.rglob("confusion.png")), IMAGES / "confusion.png")
        save(next(smoke.rglob("worst.png")), IMAGES / "worst.jpg")


def save(source: Path, target: Path, *, share: float = 1) -> None:
    """Save a chart as a PNG of few colours, which need no more, or photos as a JPEG.

    Args:
        share: of the width that is kept, from the left.

    Raises:
        ValueError: it has more bytes than a README should load.
    """
    picture = Image.open(source, formats=FORMATS).convert("RGB")
    picture = picture.crop((0, 0, round(share * picture.width), picture.height))
    if target.suffix == ".png":
        picture.quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)
    else:
        picture.save(target, quality=85, optimize=True)
    if target.stat().st_size > MOST_BYTES:
        raise ValueError(f"{target} has {target.stat().st_size:,} bytes, more than {MOST_BYTES:,}; draw it smaller")
    print(f"{target.relative_to(ROOT)}  {target.stat().st_size:,} bytes")


def _run(script: str, *words: str, cwd: str) -> None:
    environment = {**os.environ, "IMGCLS_CACHE": os.environ.get("IMGCLS_CACHE", str(Path(cwd, "cache")))}
    subprocess.run([sys.executable, str(ROOT / script), *words], cwd=cwd, env=environment, check=True)


if __name__ == "__main__":
    main()
