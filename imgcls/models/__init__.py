"""TODO imgcls.models."""

from imgcls.models.alexnet import AlexNet, rectify
from imgcls.models.external import nearest_arch, timm_model, torchvision_model
from imgcls.models.factory import build_model
from imgcls.models.googlenet import INCEPTIONS, GoogLeNet, GoogLeNetOutput
from imgcls.models.layers import average_to, first_convolution, local_response_norm
from imgcls.models.lenet import LeNet5, scaled_tanh
from imgcls.models.resnet import DEPTHS, ResNet
from imgcls.models.vgg import COLUMNS, VGG
from imgcls.models.weights import (
    VGG_COLUMNS,
    PublishedInput,
    UnpublishedError,
    average_states,
    find_heads,
    is_head,
    is_published,
    load_into,
    published_arch,
    published_input,
    published_name,
    read_weights,
)

__all__ = [
    "COLUMNS",
    "DEPTHS",
    "INCEPTIONS",
    "VGG",
    "VGG_COLUMNS",
    "AlexNet",
    "GoogLeNet",
    "GoogLeNetOutput",
    "LeNet5",
    "PublishedInput",
    "ResNet",
    "UnpublishedError",
    "average_states",
    "average_to",
    "build_model",
    "find_heads",
    "first_convolution",
    "is_head",
    "is_published",
    "load_into",
    "local_response_norm",
    "nearest_arch",
    "published_arch",
    "published_input",
    "published_name",
    "read_weights",
    "rectify",
    "scaled_tanh",
    "timm_model",
    "torchvision_model",
]
