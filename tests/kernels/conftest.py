"""Leave the process-wide choices of the native kernels as each test found them."""

from collections.abc import Iterator

import pytest

from gossamer.kernels import dispatch


@pytest.fixture(autouse=True)
def restore_choices() -> Iterator[None]:
    native = dispatch.native_module()
    if native is None:
        yield
        return
    isa, threads = native.isa(), native.num_threads()
    yield
    native.set_isa(isa)
    if native.num_threads() != threads:
        native.set_num_threads(threads)
