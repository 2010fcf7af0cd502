"""Write a network for other programs: `python scripts/export.py checkpoint=runs/x/best.pt out=model.onnx`."""

import argparse
from pathlib import Path

from imgcls.config import add_network, check_network, parse_options, run_script


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Write a network for other programs, run what was written, and hold it to the checkpoint. "
        "Options may be written key=value. The batch is dynamic; labels and the input's form are in the metadata."
    )
    add_network(made)
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help="model.pt2, .onnx or .safetensors")
    made.add_argument("--normalise", action="store_true", help="take images in 0..1 and normalise them inside")
    made.add_argument("--softmax", action="store_true", help="give probabilities in place of logits")
    made.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: torch's choice)")
    return made


def export() -> int:
    """Export what the command line names."""
    options = parse_options(parser())
    check_network(options)
    from imgcls.inference import export_network, open_member  # here: torch takes seconds, help need not wait

    member = open_member(options.checkpoint, options.weights, options.network, options.override)
    difference = export_network(
        member, options.out, normalise=options.normalise, softmax=options.softmax, opset=options.opset
    )
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}  {size:.1f} MB, differs from the checkpoint by {difference:.1e} at most")
    return 0


if __name__ == "__main__":
    run_script(export)
