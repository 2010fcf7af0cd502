"""Inference: open a network, test protocols, predictions, exports and pictures."""

from imgcls.inference.charts import CalibrationBin, draw_calibration, draw_confusion_matrix
from imgcls.inference.classifier import Classifier
from imgcls.inference.export import DeployedNetwork, ExportError, export_network, input_of, open_exported, write_pt2
from imgcls.inference.figures import (
    CaptionedImage,
    contact_sheet,
    filter_grid,
)
from imgcls.inference.fully_convolutional import fully_convolutional
from imgcls.inference.fused_batch_norm import fuse_batch_norms
from imgcls.inference.gradcam import grad_cam
from imgcls.inference.network import (
    Member,
    average_weights,
    folder_of_several,
    known_classes,
    num_outputs,
    open_checkpoint,
    open_member,
    open_weights,
    validation_crop,
)
from imgcls.inference.plots import distinct_names, plot_filters, plot_gradcam, plot_runs, read_curves
from imgcls.inference.predict import (
    FORMATS,
    ClassProbability,
    Prediction,
    as_csv,
    as_json,
    as_table,
    describe_orientation,
    find_images,
    predict_files,
    save_contact_sheet,
)
from imgcls.inference.predictor import (
    Predictions,
    ensemble_predictions,
    predict,
    predict_split,
    predict_views,
    scores_of_predictions,
)
from imgcls.inference.protocols import (
    Center,
    Dense,
    GoogLeNet144,
    TenCrop,
    TestProtocol,
)

__all__ = [
    "FORMATS",
    "CalibrationBin",
    "CaptionedImage",
    "Center",
    "ClassProbability",
    "Classifier",
    "Dense",
    "DeployedNetwork",
    "ExportError",
    "GoogLeNet144",
    "Member",
    "Prediction",
    "Predictions",
    "TenCrop",
    "TestProtocol",
    "as_csv",
    "as_json",
    "as_table",
    "average_weights",
    "contact_sheet",
    "describe_orientation",
    "distinct_names",
    "draw_calibration",
    "draw_confusion_matrix",
    "ensemble_predictions",
    "export_network",
    "filter_grid",
    "find_images",
    "folder_of_several",
    "fully_convolutional",
    "fuse_batch_norms",
    "grad_cam",
    "input_of",
    "known_classes",
    "num_outputs",
    "open_checkpoint",
    "open_exported",
    "open_member",
    "open_weights",
    "plot_filters",
    "plot_gradcam",
    "plot_runs",
    "predict",
    "predict_files",
    "predict_split",
    "predict_views",
    "read_curves",
    "save_contact_sheet",
    "scores_of_predictions",
    "validation_crop",
    "write_pt2",
]
