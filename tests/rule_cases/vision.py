"""Cases of torchvision's own ops: regions of an image, channels pass through."""

import torch
from one_op import Case
from torchvision.ops import roi_align, roi_pool

REGIONS = torch.tensor([[0.0, 0, 0, 2, 2], [1.0, 1, 1, 3, 3], [0.0, 0, 1, 3, 2]], dtype=torch.float64)

CASES = (
    Case("roi_align", "NcHW", lambda x, regions: roi_align(x, regions, 2), constants=(REGIONS,)),
    Case("roi_pool", "NcHW", lambda x, regions: roi_pool(x, regions, 2), constants=(REGIONS,)),
)
