from torch import Tensor

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

class NMMatrix:
    def __init__(
        self,
        shape: tuple[int, int],
        keep: int,
        values_kind: str,
        codes: Tensor | None = None,
        index: Tensor | None = None,
        values: Tensor | None = None,
        scale: Tensor | None = None,
        group_size: int | None = None,
    ) -> None: ...
    def matmul(self, x_ptr: int, num_tokens: int, y_ptr: int, int8_activations: bool) -> None: ...
    def unpack(self, w_ptr: int) -> None: ...

def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
