from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from gossamer.checkpoint.read.gguf import read_tensor
from gossamer.checkpoint.read.gguf_header import read_gguf
from gossamer.checkpoint.read.gguf_zeros import count_zeros


@pytest.mark.parametrize("name", ["F32", "F16", "Q4_0", "Q4_1", "Q5_1", "Q8_0", "Q6_K"])
def test_zeros_are_those_of_the_unpacked_tensor(name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[name]
    _, block_bytes = GGML_QUANT_SIZES[kind]
    draw = np.random.default_rng(0)
    raw = draw.integers(0, 256, (16, 8 * 8 * block_bytes), dtype=np.uint8)
    blocks = raw.reshape(-1, block_bytes)
    if block_bytes >= 4:
        # scales and minima that are small whole numbers, so that many blocks have zeros, and some that are no numbers
        blocks[:, :4] = draw.integers(-3, 4, (len(blocks), 2)).astype(np.float16).view(np.uint8)
        blocks[:5, :2] = np.full((5, 1), np.nan, np.float16).view(np.uint8)
        blocks[5:9, :2] = np.full((4, 1), np.inf, np.float16).view(np.uint8)
        blocks[9:99:2, 4:] = draw.integers(0, 2, (45, block_bytes - 4))
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("w", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(tmp_path / "one.gguf")
    expected = int((read_tensor(file, "w") == 0).sum())
    assert count_zeros(file, "w") == expected
    assert expected > 0 or name in ("F32", "F16")
