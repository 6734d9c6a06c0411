"""detops inside other packages: torchvision, mmcv, detectron2."""
