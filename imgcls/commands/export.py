"""Write a network for other programs."""

from pathlib import Path

from imgcls.config import ScriptParser, add_network, network_of, run_script
from imgcls.environment import command, printable
from imgcls.startup import EXPORT_PRECISIONS, ExportForm, check_export_file, check_network_files


def make_parser() -> ScriptParser:
    export = command("export")
    parser = ScriptParser(
        "export",
        "Write a network for other programs, run the file, and compare its outputs with the checkpoint's.\n"
        "The batch may be of any size; the labels and what the network takes are in the metadata.",
        epilog="examples:\n"
        f"  {export} checkpoint=runs/x/best.pt out=model.onnx normalise=true\n"
        f"  {export} checkpoint=runs/x/best.pt out=model.onnx precision=int8 accuracy=true\n"
        f"  {export} model=resnet50 model.stride_in_3x3=true weights=torchvision out=model.pt2",
    )
    add_network(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="model.pt2, .onnx or .safetensors")
    parser.add_flag("--normalise", help="take images in 0..1 and normalise them inside")
    parser.add_flag("--softmax", help="give probabilities instead of logits")
    parser.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: torch's choice)")
    parser.add_choice("--precision", EXPORT_PRECISIONS, help="of an ONNX file's weights and maps")
    parser.add_flag("--any-size", help="take images of any height and width, where the network can")
    parser.add_choice("--format", ("program", "aoti"), help="of .pt2: for torch.export, or compiled for this CPU")
    parser.add_argument(
        "--calibration",
        type=int,
        default=512,
        metavar="N",
        help="training images that int8 is fitted to (512)",
    )
    parser.add_flag("--accuracy", help="show top-1 on the validation images, of the file and of the checkpoint")
    parser.add_argument(
        "--data.root", dest="data_root", metavar="DIR", help="of the images (default: where it was trained)"
    )
    return parser


def export() -> int:
    """Export the network that the command line names."""
    options = make_parser().parse()
    network = network_of(options)
    form = ExportForm(
        normalise=options.normalise,
        softmax=options.softmax,
        opset=options.opset,
        precision=options.precision,
        any_size=options.any_size,
        compiled=options.format == "aoti",
    )
    check_export_file(options.out, form)
    if options.accuracy and options.out.suffix == ".safetensors":
        raise ValueError("accuracy=true runs the file, and safetensors holds weights alone: leave it out")
    if options.calibration < 1:
        raise ValueError(f"calibration={options.calibration} is too small; use at least 1, better some hundreds")
    check_network_files([options.checkpoint] if options.checkpoint else [], options.weights)
    from imgcls.evaluation import calibration_pixels, images_of, scores_beside  # here: torch takes seconds,
    from imgcls.inference import export_network, open_member  # no mistake should wait

    member = open_member(options.checkpoint, options.weights, network, options.weights_kind)
    images, calibration = None, None
    if options.accuracy or form.precision == "int8":
        images = images_of(member, options.data_root)
        if form.precision == "int8":
            calibration = calibration_pixels(member, images, options.calibration)
    difference = export_network(member, options.out, form, calibration=calibration)
    size = options.out.stat().st_size / 1e6
    print(printable(f"{options.out}  {size:.1f} MB, differs from the checkpoint by {difference:.1e} at most"))
    if options.accuracy and images is not None:
        own, exported = scores_beside(member, images, options.out, form)
        print(printable(f"{own.num_images:,} validation images\ncheckpoint  {own}\nexported    {exported}"))
    return 0


def main() -> None:
    """Run the command line."""
    run_script(export)
