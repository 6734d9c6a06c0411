"""How good predictions are: each evaluator takes image after image, and what other processes saw, then computes.

``update`` counts one image, ``merge`` adds what evaluators of other processes counted (they can be pickled), and
``compute`` gives the metrics: ``main``, the name and value that "best" means, and ``as_dict``, all numbers by name.
A number that nothing counts for, such as the AP of a class without objects, is NaN. The order of the images and how
they are dealt to processes never matter.
"""

from .coco_ap import CocoEvaluator as CocoEvaluator
from .coco_ap import CocoMetrics as CocoMetrics
from .confusion import ClassificationEvaluator as ClassificationEvaluator
from .confusion import ClassificationMetrics as ClassificationMetrics
from .confusion import SegmentationEvaluator as SegmentationEvaluator
from .confusion import SegmentationMetrics as SegmentationMetrics
from .metrics import DetectionEvaluator as DetectionEvaluator
from .metrics import Metrics as Metrics
from .voc_ap import VocEvaluator as VocEvaluator
from .voc_ap import VocMetrics as VocMetrics
