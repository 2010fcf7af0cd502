"""Write a network for other programs."""

from pathlib import Path

from imgcls.config import ScriptParser, add_network, network_of, run_script
from imgcls.environment import command, printable
from imgcls.startup import check_export_file, check_network_files


def make_parser() -> ScriptParser:
    export = command("export")
    parser = ScriptParser(
        "export",
        "Write a network for other programs, run the file, and compare its outputs with the checkpoint's.\n"
        "The batch may be of any size; the labels and what the network takes are in the metadata.",
        epilog="examples:\n"
        f"  {export} checkpoint=runs/x/best.pt out=model.onnx normalise=true\n"
        f"  {export} model=resnet50 model.stride_in_3x3=true weights=torchvision out=model.pt2",
    )
    add_network(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="model.pt2, .onnx or .safetensors")
    parser.add_flag("--normalise", help="take images in 0..1 and normalise them inside")
    parser.add_flag("--softmax", help="give probabilities instead of logits")
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: torch's choice)")
    return parser


def export() -> int:
    """Export the network that the command line names."""
    options = make_parser().parse()
    network = network_of(options)
    form = {"normalise": options.normalise, "softmax": options.softmax, "opset": options.opset}
    check_export_file(options.out, **form)
    check_network_files([options.checkpoint] if options.checkpoint else [], options.weights)
    from imgcls.inference import export_network, open_member  # here: torch takes seconds, no mistake should wait

    difference = export_network(
        open_member(options.checkpoint, options.weights, network, options.weights_kind), options.out, **form
    )
    size = options.out.stat().st_size / 1e6
    print(printable(f"{options.out}  {size:.1f} MB, differs from the checkpoint by {difference:.1e} at most"))
    return 0


def main() -> None:
    """Run the command line."""
    run_script(export)
