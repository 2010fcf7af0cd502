"""Fuzz the native JPEG decoder under the address and undefined-behaviour sanitizers.

    python scripts/dev/fuzz_native.py --corpus FOLDER [--executions 1000000] [--libfuzzer]

The corpus is a folder of odd and broken images (those above 64 KiB are cut there); small JPEGs of every sampling are
added. tests/fuzz/fuzz_native.c says what is checked. The first finding stops it with the sanitizer's report, and
the input that did it stays in the working folder.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from imgcls.data.decoding import native

HARNESS = Path(__file__).resolve().parents[2] / "tests" / "fuzz" / "fuzz_native.c"
LONGEST_SEED = 1 << 16


def small_jpegs() -> Iterator[bytes]:
    """JPEGs of a few hundred bytes: gray and colour, each sampling, odd sizes, restarts, progressive, CMYK."""
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (7, 9), (16, 16), (17, 33), (40, 23), (1, 90), (90, 1), (64, 64)]:
        noise = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 4), dtype=np.uint8)
        image = Image.fromarray(noise, "CMYK").resize((width, height), Image.Resampling.BICUBIC)
        variants: list[tuple[str, dict[str, int]]] = [("L", {}), ("CMYK", {})]
        variants += [("RGB", {"subsampling": sampling}) for sampling in range(3)]
        variants += [("RGB", {"subsampling": 2, "restart_marker_blocks": 2}), ("RGB", {"restart_marker_rows": 1})]
        variants += [
            ("RGB", {"progressive": True}),
            ("RGB", {"optimize": True, "quality": 98}),
            ("RGB", {"keep_rgb": True}),
        ]
        for mode, options in variants:
            encoded = io.BytesIO()
            image.convert(mode).save(encoded, "JPEG", **options)
            yield encoded.getvalue()


def tall_sampling(jpeg: bytes) -> bytes:
    """Return a 4:2:2 file with its frame header changed to 4:4:0, which Pillow does not write; the blocks stay."""
    header = jpeg.index(b"\xff\xc0")
    height, width = (int.from_bytes(jpeg[header + at : header + at + 2], "big") for at in (5, 7))
    columns, rows = -(-width // 16), -(-height // 8)
    size = (rows * 16).to_bytes(2, "big") + (columns * 8).to_bytes(2, "big")
    return jpeg[: header + 5] + size + jpeg[header + 9 : header + 11] + b"\x12" + jpeg[header + 12 :]


def write_seeds(corpus: Path | None, folder: Path) -> None:
    """Write all seeds into one folder."""
    seeds = list(small_jpegs())
    seeds += [tall_sampling(seed) for seed in seeds if b"\xff\xc0" in seed and b"\x03\x01\x21\x00" in seed]
    # Those that the native decoder takes, as they are in a pack.
    seeds += [written for seed in seeds if native.available() and (written := native.write_restarts(seed, blocks=3))]
    if corpus is not None:
        seeds += [path.read_bytes()[:LONGEST_SEED] for path in sorted(corpus.iterdir()) if path.is_file()]
    for number, seed in enumerate(seeds):
        (folder / f"{number:04}").write_bytes(seed)


def compile_harness(compiler: str, output: Path, *, libfuzzer: bool) -> None:
    """Build the harness with sanitizers."""
    kind = ["-fsanitize=fuzzer,address,undefined"] if libfuzzer else ["-DSTANDALONE", "-fsanitize=address,undefined"]
    flags = ["-O1", "-g", "-std=gnu11", "-ffp-contract=off", "-fno-sanitize-recover=all", *kind]
    subprocess.run([compiler, *flags, "-o", str(output), str(HARNESS), "-ljpeg", "-lm"], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="folder of odd and broken images")
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--libfuzzer", action="store_true", help="coverage-guided, needs clang")
    options = parser.parse_args()
    compiler = "clang" if options.libfuzzer else os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        print(f"no compiler {compiler!r} on this machine; install it", file=sys.stderr)
        return 2
    if options.corpus is not None and not options.corpus.is_dir():
        print(f"--corpus={options.corpus} is not a folder", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="fuzz-native-"))
    (folder / "seeds").mkdir()
    write_seeds(options.corpus, folder / "seeds")
    compile_harness(compiler, folder / "fuzz_native", libfuzzer=options.libfuzzer)
    if options.libfuzzer:
        limits = [f"-runs={options.executions}", f"-seed={options.seed}", f"-max_len={LONGEST_SEED}"]
        command = [*limits, f"-artifact_prefix={folder}/", "-print_final_stats=1", str(folder / "seeds")]
    else:
        command = [str(folder / "seeds"), str(options.executions), str(options.seed)]
    # The mutating driver writes the input that it stopped at to this file.
    environment = os.environ | {"FUZZ_INPUT": str(folder / "input")}
    code = subprocess.run([str(folder / "fuzz_native"), *command], env=environment).returncode
    if code != 0:
        print(f"a finding; the input is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
