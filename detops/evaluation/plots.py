"""Plots of metrics, as PNG."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._errors import UserError
from ..drawing import colour
from .coco_ap import AREA_LIMITS, AREAS, RECALLS, CocoMetrics
from .confusion import ClassificationMetrics, SegmentationMetrics
from .metrics import Array, Metrics, mean, shown
from .voc_ap import VocMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet

INK, MUTED, LINE, OURS, PALE, PEER = "#1a1f29", "#647084", "#e1e5eb", "#1f6feb", "#6aa5f5", "#aab3c1"
FEW = 10  # classes that a plot can tell apart
_STYLE: Any = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # names of classes are names
    "axes.edgecolor": PEER,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


class Plot(NamedTuple):
    """A picture of metrics."""

    name: str  # of its file, without .png
    caption: str
    png: bytes
    width: int  # in pixels of a page


class Curve(NamedTuple):
    """Precision over recall, of a class."""

    label: int
    name: str
    ap: float
    recall: Array
    precision: Array


def plots(metrics: Metrics) -> list[Plot]:
    """What there is to show of metrics; nothing of those that nothing counted for.

    Raises:
        UserError: If matplotlib is not installed.
    """
    if math.isnan(metrics.main[1]):
        return []
    with _styled():
        match metrics:
            case CocoMetrics():
                return [_coco_curves(metrics), _coco_sizes(metrics), _coco_classes(metrics)]
            case VocMetrics():
                return [_voc_curves(metrics)]
            case ClassificationMetrics():
                return [_confusion(metrics.classes, metrics.confusion, "images")]
            case SegmentationMetrics():
                return [_confusion(metrics.classes, metrics.confusion, "pixels")]
    return []


@contextmanager
def _styled() -> Iterator[None]:
    try:
        import matplotlib
    except ImportError as error:
        raise UserError('plots need matplotlib: pip install "detops[training]"') from error
    with matplotlib.rc_context(_STYLE):
        yield


def _coco_curves(metrics: CocoMetrics) -> Plot:
    sheet = _sheet(10, 4.4)
    left, right = sheet.subplots(1, 2, sharex=True, sharey=True)
    over_thresholds = metrics.precision[..., 0].mean(axis=0)  # (101, C)
    at_half = metrics.precision[0, ..., 0]
    names = [result.name for result in metrics.classes]
    _draw_curves(left, _coco_panel(names, at_half), "AP50")
    _draw_curves(right, _coco_panel(names, over_thresholds), "AP")
    left.set_title("IoU of at least 0.5")
    right.set_title("mean over IoU 0.5, 0.55, …, 0.95")
    right.set_ylabel("")
    return _plot("precision_recall", "Precision and recall", sheet)


def _coco_panel(names: Sequence[str], precision: Array) -> list[Curve]:
    numbered = enumerate(zip(names, precision.T, strict=True))
    return [Curve(label, name, mean(column), RECALLS, column) for label, (name, column) in numbered]


def _voc_curves(metrics: VocMetrics) -> Plot:
    sheet = _sheet(6.4, 4.6)
    axes = sheet.subplots()
    curves = [Curve(label, one.name, one.ap, one.recall, one.precision) for label, one in enumerate(metrics.classes)]
    _draw_curves(axes, curves, "AP")
    return _plot("precision_recall", "Precision and recall", sheet)


def _draw_curves(axes: "Axes", curves: list[Curve], measure: str) -> None:
    """Each class in its colour; of many, all in grey. Their mean in black where all have the same recalls."""
    curves = [curve for curve in curves if not math.isnan(curve.ap)]
    few = len(curves) <= FEW
    for curve in curves:
        shade = _hex(curve.label) if few else PEER
        text = f"{curve.name}  {shown(curve.ap)}" if few else None
        axes.plot(curve.recall, curve.precision, color=shade, linewidth=1.8 if few else 0.6, label=text)
    if len(curves) > 1 and all(curve.recall is RECALLS for curve in curves):
        average = np.mean([curve.precision for curve in curves], axis=0)
        label = f"mean of {len(curves)}  {shown(mean([curve.ap for curve in curves]))}"
        axes.plot(RECALLS, average, color=INK, linewidth=2.4, linestyle=(0, (4, 1.5)) if few else "-", label=label)
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            title=measure, loc="lower left", fontsize=8.5, title_fontsize=8.5, handlelength=1.6, alignment="left"
        )


def _coco_sizes(metrics: CocoMetrics) -> Plot:
    sheet = _sheet(6.4, 3.6)
    axes = sheet.subplots()
    bars = (
        ("AP50", metrics.by_size(0), PEER),
        ("AP75", metrics.by_size(5), "#6aa5f5"),
        ("AP", metrics.by_size(), OURS),
    )
    width = 0.27
    for place, (name, values, shade) in enumerate(bars):
        x = np.arange(len(values)) + (place - 1) * width
        heights = np.nan_to_num(values)
        axes.bar(x, heights, width * 0.92, color=shade, label=name)
        for at, height, value in zip(x, heights, values, strict=True):
            axes.text(at, height + 0.015, shown(value), ha="center", fontsize=8, color=INK)
    small, medium = (round(math.sqrt(limit)) for limit in AREA_LIMITS)
    limits = (f"up to {small}² pixels", f"up to {medium}²", "more")
    rows = zip(AREAS[1:], limits, metrics.objects[1:], strict=True)
    axes.set_xticks(range(3), [f"{name}: {limit}\n{count:,} objects" for name, limit, count in rows], color=INK)
    axes.set(ylim=(0, 1.08))
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=3, loc="upper left", bbox_to_anchor=(0, 1.12), borderaxespad=0, handlelength=1)
    return _plot("ap_by_size", "AP by the size of the objects", sheet)


def _coco_classes(metrics: CocoMetrics) -> Plot:
    """A bar for each class that has objects, the best at the top."""
    results = sorted((one for one in metrics.classes if not math.isnan(one.ap)), key=lambda one: one.ap)
    sheet = _sheet(6.4, 1.1 + 0.25 * len(results))
    axes = sheet.subplots()
    places = range(len(results))
    axes.barh(places, [one.ap50 for one in results], 0.72, color=LINE, label="AP50")
    axes.barh(places, [one.ap for one in results], 0.72, color=OURS, label="AP")
    for place, one in zip(places, results, strict=True):
        axes.text(
            one.ap50 + 0.01, place, f"{one.ap:.3f}, {one.objects:,} objects", va="center", fontsize=8, color=MUTED
        )
    axes.set_yticks(places, [one.name for one in results], color=INK)
    axes.set(xlim=(0, 1.22), ylim=(-0.6, len(results) - 0.4), xticks=np.linspace(0, 1, 6))
    axes.grid(visible=False, axis="y")
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=1)
    return _plot("ap_by_class", "AP by class, and the number of objects", sheet)


def _confusion(classes: Sequence[str], confusion: Array, what: str) -> Plot:
    """A row for each true class, in shares of it."""
    C = len(classes)
    with np.errstate(invalid="ignore"):
        shares = np.nan_to_num(confusion / confusion.sum(axis=1, keepdims=True))
    side = min(max(3.2, 0.52 * C), 11)
    sheet = _sheet(side + 1.2, side)
    axes = sheet.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if C <= 2 * FEW:
        for (row, column), share in np.ndenumerate(shares):
            if confusion[row, column]:
                shade = "white" if share > 0.5 else INK
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8, color=shade)
    axes.set_xticks(range(C), classes, rotation=0 if C <= FEW and max(map(len, classes)) < 5 else 60, color=INK)
    axes.set_yticks(range(C), classes, color=INK)
    axes.set(xlabel="taken for", ylabel="class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return _plot("confusion", f"What {what} of each class were taken for", sheet)


def _sheet(width: float, height: float) -> "Sheet":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _plot(name: str, caption: str, sheet: "Sheet") -> Plot:
    buffer = io.BytesIO()
    sheet.savefig(buffer, format="png")
    return Plot(name, caption, buffer.getvalue(), round(sheet.get_figwidth() * 90))


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(label))
