"""Reference detectors, built on :mod:`detops.ops`: one paper a file, each from exchangeable parts."""

from typing import Any

from . import convert as convert
from .detector import Detector as Detector
from .detector import FixedSizeDetector as FixedSizeDetector
from .faster_rcnn import fasterrcnn_mobilenet_v3_large_fpn as fasterrcnn_mobilenet_v3_large_fpn
from .faster_rcnn import fasterrcnn_resnet50_fpn as fasterrcnn_resnet50_fpn
from .faster_rcnn import fasterrcnn_resnet50_fpn_v2 as fasterrcnn_resnet50_fpn_v2
from .faster_rcnn import fasterrcnn_vgg16 as fasterrcnn_vgg16
from .libra import libra_fasterrcnn_resnet50_fpn as libra_fasterrcnn_resnet50_fpn
from .libra import libra_retinanet_resnet50_fpn as libra_retinanet_resnet50_fpn
from .nas_fpn import retinanet_resnet50_nasfpn as retinanet_resnet50_nasfpn
from .panet import fasterrcnn_resnet50_pafpn as fasterrcnn_resnet50_pafpn
from .retinanet import retinanet_resnet50_fpn as retinanet_resnet50_fpn
from .retinanet import retinanet_resnet50_fpn_v2 as retinanet_resnet50_fpn_v2
from .ssd import ssd300_vgg16 as ssd300_vgg16
from .ssd import ssdlite320_mobilenet_v3_large as ssdlite320_mobilenet_v3_large

_BUILDERS = (
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fasterrcnn_resnet50_pafpn,
    fasterrcnn_vgg16,
    libra_fasterrcnn_resnet50_fpn,
    libra_retinanet_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    retinanet_resnet50_nasfpn,
    ssd300_vgg16,
    ssdlite320_mobilenet_v3_large,
)

_WITHOUT_BACKGROUND = (  # sigmoids: the first class is label 0
    "libra_retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "retinanet_resnet50_nasfpn",
)


def names() -> list[str]:
    """What :func:`build` knows."""
    return [builder.__name__ for builder in _BUILDERS]


def num_classes(name: str, objects: int) -> int:
    """``num_classes`` of a detector for so many classes of objects: some count the background, as class 0."""
    return objects if name in _WITHOUT_BACKGROUND else objects + 1


def build(name: str, **options: Any) -> Detector:
    """A detector by name; options as the builder of that name.

    Raises:
        ValueError: If there is no such detector.
    """
    for builder in _BUILDERS:
        if builder.__name__ == name:
            return builder(**options)
    raise ValueError(f"expected a detector of {', '.join(names())}, got {name!r}")
