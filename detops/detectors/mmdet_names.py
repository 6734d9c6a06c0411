"""mmdet's weights by our names."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..heads.retina import RetinaNetHead
from ..heads.roi import TwoStageHead
from ..necks import FPN, NASFPN, PAN, BalancedPyramid
from .renaming import Rules, renamed

# Which mmdet's detectors have, and neither torchvision's nor ours.
PREFIXES = ("rpn_head.", "roi_head.", "bbox_head.")

_CELLS = {  # of NAS-FPN: what goes in and the level that comes out, and our names
    "gp_64_4": "p4_attended",
    "sum_44_4": "p4_summed",
    "sum_43_3": "p3",
    "sum_34_4": "p4",
    "sum_55_5": "p5",
    "sum_77_7": "p7",
    "gp_75_6": "p6",
}
_PATHS: Rules = (
    (r"neck\.downsample_convs\.(\d+)\.conv\.", r"neck.down.\1.0."),
    (r"neck\.pafpn_convs\.(\d+)\.conv\.", r"neck.out.\1.0."),
)
_BALANCE: Rules = (
    (r"neck\.1\.refine\.theta\.conv\.", "neck.refine.query."),
    (r"neck\.1\.refine\.phi\.conv\.", "neck.refine.key."),
    (r"neck\.1\.refine\.g\.conv\.", "neck.refine.value."),
    (r"neck\.1\.refine\.conv_out\.conv\.", "neck.refine.out."),
)
_NAS_FPN: Rules = (
    (r"neck\.lateral_convs\.(\d+)\.conv\.", r"neck.lateral.\1.0."),
    (r"neck\.lateral_convs\.(\d+)\.bn\.", r"neck.lateral.\1.1."),
    (r"neck\.extra_downsamples\.(\d+)\.0\.conv\.", r"neck.extra.\1.0.0."),
    (r"neck\.extra_downsamples\.(\d+)\.0\.bn\.", r"neck.extra.\1.0.1."),
    *((rf"neck\.fpn_stages\.(\d+)\.{a}\.out_conv\.conv\.", rf"neck.cells.\1.{b}.1.") for a, b in _CELLS.items()),
    *((rf"neck\.fpn_stages\.(\d+)\.{a}\.out_conv\.bn\.", rf"neck.cells.\1.{b}.2.") for a, b in _CELLS.items()),
)
_TWO_STAGES: Rules = (
    (r"rpn_head\.rpn_conv\.", "head.rpn.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "head.rpn.objectness."),
    (r"rpn_head\.rpn_reg\.", "head.rpn.deltas."),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.", "head.roi.box_head.1."),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.", "head.roi.box_head.3."),
    (r"roi_head\.bbox_head\.fc_cls\.", "head.roi.classes."),
    (r"roi_head\.bbox_head\.fc_reg\.", "head.roi.deltas."),
)
_TOWERS = {"cls": "head.classification", "reg": "head.regression"}
_RETINA: Rules = (
    *((rf"bbox_head\.{a}_convs\.(\d+)\.conv\.", rf"{b}.conv.\1.0.") for a, b in _TOWERS.items()),
    *(
        (rf"bbox_head\.{a}_convs\.\d+\.(\d+)\.conv\.", rf"{b}.conv.\1.") for a, b in _TOWERS.items()
    ),  # levels share them
    *((rf"bbox_head\.{a}_convs\.(\d+)\.(\d+)\.bn\.", rf"{b}.norms.\1.\2.") for a, b in _TOWERS.items()),
    *((rf"bbox_head\.retina_{a}\.", f"{b}.predictor.") for a, b in _TOWERS.items()),
)


def renamed_as_ours(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of mmdet's detector as ``model`` has them: by its names, and with the background first, not last.

    Raises:
        ValueError: If mmdet's detector of the model's kind is not known.
    """
    found = renamed(state, (*_neck_rules(model), *_head_rules(model)))
    for name in ("head.roi.classes.weight", "head.roi.classes.bias"):
        if name in found:
            found[name] = found[name].roll(1, dims=0)
    return found


def _neck_rules(model: nn.Module) -> Rules:
    neck = getattr(model, "neck", None)
    if isinstance(neck, FPN):
        return _fpn_rules(r"neck\.", "neck.", neck)
    if isinstance(neck, PAN):
        return (*_PATHS, *_fpn_rules(r"neck\.", "neck.fpn.", neck.fpn))
    if isinstance(neck, BalancedPyramid) and isinstance(neck.pyramid, FPN):
        return (*_BALANCE, *_fpn_rules(r"neck\.0\.", "neck.pyramid.", neck.pyramid))
    if isinstance(neck, NASFPN):
        return _NAS_FPN
    raise ValueError(f"convert.load: expected a neck that mmdet has, got {type(neck).__name__}")


def _fpn_rules(theirs: str, ours: str, neck: FPN) -> Rules:
    levels = len(neck.inner_blocks)
    return (
        (rf"{theirs}lateral_convs\.(\d+)\.conv\.", rf"{ours}inner_blocks.\1.0."),
        (rf"{theirs}fpn_convs\.{levels}\.conv\.", f"{ours}extra_blocks.p6."),
        (rf"{theirs}fpn_convs\.{levels + 1}\.conv\.", f"{ours}extra_blocks.p7."),
        (rf"{theirs}fpn_convs\.(\d+)\.conv\.", rf"{ours}layer_blocks.\1.0."),
    )


def _head_rules(model: nn.Module) -> Rules:
    head = getattr(model, "head", None)
    if isinstance(head, TwoStageHead):
        return _TWO_STAGES
    if isinstance(head, RetinaNetHead):
        return _RETINA
    raise ValueError(f"convert.load: expected a head that mmdet has, got {type(head).__name__}")
