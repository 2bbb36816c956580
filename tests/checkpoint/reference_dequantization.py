"""ggml's block formats read one value at a time in plain Python, after the C code of ggml-quants.c.

Slow on purpose, and independent of numpy tricks: the reference for what a block means.
"""

import struct

BLOCKS: dict[str, tuple[int, ...]] = {
    "F32": (),
    "F16": (),
    "BF16": (),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Type -> where in a block its float16 scales are."""


def half(block: bytes, place: int) -> float:
    return struct.unpack_from("<e", block, place)[0]


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def dequantize_block(type_name: str, block: bytes) -> list[float]:
    """Return the values of one block."""
    return globals()[f"_{type_name.lower()}"](block)


def _f32(block: bytes) -> list[float]:
    return [struct.unpack("<f", block)[0]]


def _f16(block: bytes) -> list[float]:
    return [half(block, 0)]


def _bf16(block: bytes) -> list[float]:
    return [struct.unpack("<f", b"\0\0" + block)[0]]


def _q4_0(block: bytes) -> list[float]:
    d, qs = half(block, 0), block[2:]
    return [d * ((q & 15) - 8) for q in qs] + [d * ((q >> 4) - 8) for q in qs]


def _q4_1(block: bytes) -> list[float]:
    d, m, qs = half(block, 0), half(block, 2), block[4:]
    return [d * (q & 15) + m for q in qs] + [d * (q >> 4) + m for q in qs]


def _q5_0(block: bytes) -> list[float]:
    d, qh, qs = half(block, 0), int.from_bytes(block[2:6], "little"), block[6:]
    low = [d * (((q & 15) | (((qh >> j) & 1) << 4)) - 16) for j, q in enumerate(qs)]
    high = [d * (((q >> 4) | (((qh >> (j + 16)) & 1) << 4)) - 16) for j, q in enumerate(qs)]
    return low + high


def _q5_1(block: bytes) -> list[float]:
    d, m, qh, qs = half(block, 0), half(block, 2), int.from_bytes(block[4:8], "little"), block[8:]
    low = [d * ((q & 15) | (((qh >> j) & 1) << 4)) + m for j, q in enumerate(qs)]
    high = [d * ((q >> 4) | (((qh >> (j + 16)) & 1) << 4)) + m for j, q in enumerate(qs)]
    return low + high


def _q8_0(block: bytes) -> list[float]:
    return [half(block, 0) * signed(q) for q in block[2:]]


def _q2_k(block: bytes) -> list[float]:
    scales, qs, d, dmin = block[:16], block[16:80], half(block, 80), half(block, 82)
    values = []
    for i in range(256):
        # 128 values share 32 bytes, in four shifts; 16 values share a scale
        chunk, shift, column = i // 128, (i % 128) // 32, i % 32
        q = (qs[32 * chunk + column] >> (2 * shift)) & 3
        scale = scales[i // 16]
        values.append(d * (scale & 15) * q - dmin * (scale >> 4))
    return values


def _q3_k(block: bytes) -> list[float]:
    hmask, qs, packed, d = block[:32], block[32:96], block[96:108], half(block, 108)
    scales = []
    for j in range(16):
        low = packed[j] & 15 if j < 8 else packed[j - 8] >> 4
        scales.append((low | (((packed[8 + j % 4] >> (2 * (j // 4))) & 3) << 4)) - 32)
    values = []
    for i in range(256):
        chunk, shift, column = i // 128, (i % 128) // 32, i % 32
        q = (qs[32 * chunk + column] >> (2 * shift)) & 3
        if not hmask[column] >> (i // 32) & 1:
            q -= 4
        values.append(d * scales[i // 16] * q)
    return values


def _scale_and_minimum(j: int, packed: bytes) -> tuple[int, int]:
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4), (packed[j + 4] >> 4) | (packed[j] >> 6 << 4)


def _q4_k(block: bytes) -> list[float]:
    d, dmin, packed, qs = half(block, 0), half(block, 2), block[4:16], block[16:144]
    values = []
    for i in range(256):
        scale, minimum = _scale_and_minimum(i // 32, packed)
        byte = qs[32 * (i // 64) + i % 32]
        q = byte >> 4 if i % 64 >= 32 else byte & 15
        values.append(d * scale * q - dmin * minimum)
    return values


def _q5_k(block: bytes) -> list[float]:
    d, dmin, packed, qh, qs = half(block, 0), half(block, 2), block[4:16], block[16:48], block[48:176]
    values = []
    for i in range(256):
        scale, minimum = _scale_and_minimum(i // 32, packed)
        byte = qs[32 * (i // 64) + i % 32]
        q = (byte >> 4 if i % 64 >= 32 else byte & 15) | ((qh[i % 32] >> (i // 32)) & 1) << 4
        values.append(d * scale * q - dmin * minimum)
    return values


def _q6_k(block: bytes) -> list[float]:
    ql, qh, scales, d = block[:128], block[128:192], block[192:208], half(block, 208)
    values = []
    for i in range(256):
        chunk, quarter, column = i // 128, (i % 128) // 32, i % 32
        byte = ql[64 * chunk + 32 * (quarter % 2) + column]
        q = (byte & 15 if quarter < 2 else byte >> 4) | ((qh[32 * chunk + column] >> (2 * quarter)) & 3) << 4
        values.append(d * signed(scales[i // 16]) * (q - 32))
    return values
