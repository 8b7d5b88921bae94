"""The arrays that the arithmetic works on."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "Logits", "Rows"]

Logits = NDArray[np.float32]  # (rows, V), or (V,) for one row
Ids = NDArray[np.intp]  # token ids, or positions in a row; ascending
Rows = NDArray[np.intp] | slice  # which rows of several
