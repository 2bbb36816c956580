from collections.abc import Sequence

from torch import Tensor

Norm = tuple[Tensor, Tensor | None, float, bool]
"""Weight, bias, epsilon, whether the mean is taken off."""

class IntegerMatrix:
    def __init__(
        self,
        shape: tuple[int, int],
        bits: int,
        group_size: int,
        scale: Tensor,
        minimum: Tensor | None = None,
        codes8: Tensor | None = None,
        codes4: Tensor | None = None,
        codes2: Tensor | None = None,
        codes1: Tensor | None = None,
    ) -> None: ...
    def matmul(self, x_ptr: int, num_tokens: int, y_ptr: int, int8_activations: bool) -> None: ...
    def unpack(self, w_ptr: int) -> None: ...

class BitmaskMatrix:
    def __init__(
        self,
        shape: tuple[int, int],
        values_kind: str,
        mask: Tensor,
        offsets: Tensor,
        values: Tensor,
        scale: Tensor | None = None,
        group_size: int | None = None,
    ) -> None: ...
    def matmul(self, x_ptr: int, num_tokens: int, y_ptr: int, int8_activations: bool) -> None: ...
    def unpack(self, w_ptr: int) -> None: ...
    def expand(self, codes4_ptr: int) -> None: ...

class NMMatrix:
    def __init__(
        self,
        shape: tuple[int, int],
        keep: int,
        values_kind: str,
        codes: Tensor | None = None,
        index: Tensor | None = None,
        mask: Tensor | None = None,
        values: Tensor | None = None,
        scale: Tensor | None = None,
        group_size: int | None = None,
        window: int = 16,
    ) -> None: ...
    def matmul(self, x_ptr: int, num_tokens: int, y_ptr: int, int8_activations: bool) -> None: ...
    def unpack(self, w_ptr: int) -> None: ...

class DenseMatrix:
    def __init__(self, shape: tuple[int, int], values_kind: str, weight: Tensor) -> None: ...
    def matmul(self, x_ptr: int, num_tokens: int, y_ptr: int, int8_activations: bool) -> None: ...
    def unpack(self, w_ptr: int) -> None: ...

Matrix = IntegerMatrix | BitmaskMatrix | NMMatrix | DenseMatrix

class Plan:
    def __init__(self, hidden_size: int, max_positions: int) -> None: ...
    def buffer(self, width: int) -> int: ...
    def rotary(self, inverse_frequency: Sequence[float], scaling: float) -> int: ...
    def embed(self, table: Matrix, scale: float, positions: Matrix | None = None) -> None: ...
    def linears(
        self,
        input: int,
        linears: Sequence[tuple[Matrix, Tensor | None, int]],
        norm: Norm | None,
        then: str,
        gate: str,
        target: int,
    ) -> None: ...
    def gate(self, first: int, second: int, target: int, activation: str) -> None: ...
    def head(self, input: int, weight: Matrix, bias: Tensor | None, norm: Norm | None) -> None: ...
    def add_norm(self, input: int, target: int, norm: Norm | None) -> None: ...
    def attention(
        self,
        query: tuple[int, int],
        key: tuple[int, int],
        value: tuple[int, int],
        output: int,
        heads: int,
        key_heads: int,
        head_dim: int,
        layer: int,
        scale: float,
        window: int,
        rotary: int,
        query_norm: Norm | None,
        key_norm: Norm | None,
    ) -> None: ...
    def weight_bytes(self) -> int: ...
    def cache_block_bytes(self, int8: bool) -> int: ...

class Engine:
    def __init__(
        self,
        plan: Plan,
        threads: int,
        int8_activations: bool,
        int8_cache: bool,
        max_step_tokens: int,
        cache_blocks: int,
    ) -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def open(
        self,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        seed: int,
    ) -> int: ...
    def close(self, sequence: int) -> None: ...
    def length(self, sequence: int) -> int: ...
    def truncate(self, sequence: int, tokens: int) -> None: ...
    def share(self, sequence: int, source: int, tokens: Tensor) -> None: ...
    def step(self, feeds: Sequence[tuple[int, Tensor, bool]]) -> list[int]: ...
    def score(self, sequence: int, tokens: Tensor, logits_ptr: int) -> None: ...
    def generate(self, sequence: int, count: int, stops: Tensor) -> list[int]: ...
    def num_free_blocks(self) -> int: ...
    def set_profile(self, on: bool) -> None: ...
    def take_profile(self) -> list[float]: ...

def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def fix_chunk(
    weight: Tensor,
    upper: Tensor,
    kept: Tensor | None,
    scale: Tensor | None,
    minimum: Tensor | None,
    groups: Tensor | None,
    codes: Tensor | None,
    errors: Tensor,
    first: int,
    count: int,
    range: tuple[float, float],
) -> None: ...
def descend_chunk(
    weight: Tensor,
    hessian: Tensor,
    slope: Tensor,
    kept: Tensor | None,
    scale: Tensor,
    minimum: Tensor,
    codes: Tensor,
    changes: Tensor,
    first: int,
    count: int,
    group_size: int,
    range: tuple[float, float],
) -> None: ...
