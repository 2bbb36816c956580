"""Runs that are done on two devices, and when their results are alike."""

import pytest
import torch

from gossamer.compression.compress import Compressed
from tests.conftest import read_packed

RECIPES = {
    "sparsegpt and gptq, aligned": """
calibration: {align: true}
steps:
  - {layers: "*", method: sparsegpt, sparsity: 0.5}
  - {layers: "*", method: gptq, bits: 4, group_size: 32}
  - {layers: [embeddings, head], method: rtn, bits: 8, group_size: 32}
""",
    "admm with scope global, and mixed bits": """
steps:
  - {layers: "*", method: admm, sparsity: 0.5, scope: global}
  - {layers: "*", method: gptq, bits: 4, group_size: 32, average_bits: 5}
""",
    "windows with scope global": 'steps: [{layers: "*", method: wanda, pattern: "8:16", scope: global}]',
    "one threshold": 'steps: [{layers: "*", method: magnitude, sparsity: 0.5, scope: global}]',
    "training": """
steps:
  - {layers: "*", method: wanda, pattern: "2:4"}
  - {layers: "*", method: reconstruct, epochs: 1, apart: true}
""",
    "factors": """
steps:
  - {layers: "*", method: basil, sparsity: 0.5, rank: 2}
  - {layers: "*", method: rtn, bits: 4, group_size: 32}
  - {layers: "*", method: eora, rank: 2}
""",
}


CASES = [*(("llama", name) for name in RECIPES), ("gpt2", "training"), ("t5", "windows with scope global")]
CALIBRATION = {"samples": 4, "length": 16, "layers": "*.0.*"}
"""The first block, or blocks, alone: no operation on the pretended device is fast."""


def assert_alike(one: Compressed, other: Compressed) -> None:
    """The same matrices in the same formats; the first the same but for rounding, the others with errors as large.

    An attention that is rounded otherwise in its last bits makes later masks and codes fall otherwise here and there.
    """
    mine, yours = read_packed(one.folder, one.manifest), read_packed(other.folder, other.manifest)
    assert mine.keys() == yours.keys()
    pairs = list(zip(one.manifest["layers"], other.manifest["layers"], strict=True))
    for own, theirs in pairs:
        for key in ("name", "bits", "rank", "format"):
            assert own[key] == theirs[key]
        assert own["sparsity"] == pytest.approx(theirs["sparsity"], abs=0.02)
    first = next(own["name"] for own, _ in pairs if own["block"] == 0)
    assert torch.equal(mine[first].mask(), yours[first].mask())
    torch.testing.assert_close(mine[first].unpack(), yours[first].unpack(), atol=1e-3, rtol=1e-2)
    equal = [float((mine[name].mask() == yours[name].mask()).float().mean()) for name in mine]
    assert sum(equal) / len(equal) >= 0.95
    errors = [sum(layer["relative_error"] for layer in layers) for layers in zip(*pairs, strict=True)]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)
