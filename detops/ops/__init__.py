"""The operators: torchvision's names and meanings, and those beyond (see README)."""

from .box_iou import box_iou as box_iou
from .box_iou import complete_box_iou as complete_box_iou
from .box_iou import distance_box_iou as distance_box_iou
from .box_iou import generalized_box_iou as generalized_box_iou
from .boxes import box_area as box_area
from .boxes import box_convert as box_convert
from .boxes import clip_boxes_to_image as clip_boxes_to_image
from .boxes import remove_small_boxes as remove_small_boxes
from .feature_pyramid_network import FeaturePyramidNetwork as FeaturePyramidNetwork
from .frozen_batch_norm import FrozenBatchNorm2d as FrozenBatchNorm2d
from .kmeans_anchors import best_possible_recall as best_possible_recall
from .kmeans_anchors import kmeans_anchors as kmeans_anchors
from .match_boxes import match_boxes as match_boxes
from .nms import batched_nms as batched_nms
from .nms import nms as nms
from .nms import nms_padded as nms_padded
from .roi_align import RoIAlign as RoIAlign
from .roi_align import roi_align as roi_align
from .roi_pool import RoIPool as RoIPool
from .roi_pool import roi_pool as roi_pool
from .selective_search import selective_search as selective_search
from .sliding_windows import sliding_windows as sliding_windows
from .smooth_l1_loss import smooth_l1_loss as smooth_l1_loss
