"""The networks, one file a paper, those of torchvision and timm, and the weights that they start from."""

from imgcls.models.alexnet import AlexNet
from imgcls.models.external import timm_model, torchvision_model
from imgcls.models.factory import build_model, outline_model
from imgcls.models.fitting import fit_weights
from imgcls.models.googlenet import INCEPTIONS, GoogLeNet, GoogLeNetOutput
from imgcls.models.heads import average_states, find_heads, is_head, load_into
from imgcls.models.layers import DenseHead, average_to, first_convolution, linear_of_averages, local_response_norm
from imgcls.models.lenet import LeNet5, scaled_tanh
from imgcls.models.paper_tables import TABLES, named_layers, paper_table, paper_tables, published_figures
from imgcls.models.pretrained_input import PretrainedInput, describe_input, pretrained_input, take_input
from imgcls.models.resnet import DEPTHS, ResNet
from imgcls.models.summary import Layer, NetworkSummary, folded, summarize_network
from imgcls.models.trial import explained_sizes, kept_bytes, parameters_without_gradient, try_out
from imgcls.models.vgg import COLUMNS, VGG
from imgcls.models.weights import (
    UnpublishedError,
    is_published,
    published_arch,
    published_name,
    read_weights,
)

__all__ = [
    "COLUMNS",
    "DEPTHS",
    "INCEPTIONS",
    "TABLES",
    "VGG",
    "AlexNet",
    "DenseHead",
    "GoogLeNet",
    "GoogLeNetOutput",
    "Layer",
    "LeNet5",
    "NetworkSummary",
    "PretrainedInput",
    "ResNet",
    "UnpublishedError",
    "average_states",
    "average_to",
    "build_model",
    "describe_input",
    "explained_sizes",
    "find_heads",
    "first_convolution",
    "fit_weights",
    "folded",
    "is_head",
    "is_published",
    "kept_bytes",
    "linear_of_averages",
    "load_into",
    "local_response_norm",
    "named_layers",
    "outline_model",
    "paper_table",
    "paper_tables",
    "parameters_without_gradient",
    "pretrained_input",
    "published_arch",
    "published_figures",
    "published_name",
    "read_weights",
    "scaled_tanh",
    "summarize_network",
    "take_input",
    "timm_model",
    "torchvision_model",
    "try_out",
]
