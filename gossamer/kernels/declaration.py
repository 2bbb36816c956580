"""What a packed matrix is: its declaration, and the tensors whose bytes that explains."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Meta = Mapping[str, Any]
"""JSON, as config.json has it: "format", "shape" [O, I], and what else the format asks for (formats/)."""
Tensors = Mapping[str, Tensor]
"""By the names that the format gives them."""
