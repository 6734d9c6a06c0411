"""The operators: torchvision's names and meanings, and those beyond (see README)."""

from .box_iou import box_iou as box_iou
from .box_iou import complete_box_iou as complete_box_iou
from .box_iou import distance_box_iou as distance_box_iou
from .box_iou import generalized_box_iou as generalized_box_iou
from .box_iou_rotated import box_iou_rotated as box_iou_rotated
from .boxes import box_area as box_area
from .boxes import box_convert as box_convert
from .boxes import clip_boxes_to_image as clip_boxes_to_image
from .boxes import remove_small_boxes as remove_small_boxes
from .match_boxes import match_boxes as match_boxes
from .nms import batched_nms as batched_nms
from .nms import nms as nms
from .nms import nms_padded as nms_padded
from .nms_rotated import nms_rotated as nms_rotated
from .nms_rotated import nms_rotated_padded as nms_rotated_padded
from .roi_align import RoIAlign as RoIAlign
from .roi_align import roi_align as roi_align
from .roi_align_rotated import roi_align_rotated as roi_align_rotated
from .roi_pool import RoIPool as RoIPool
from .roi_pool import roi_pool as roi_pool
from .smooth_l1_loss import smooth_l1_loss as smooth_l1_loss
