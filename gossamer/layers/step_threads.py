"""Keep torch's threads out of the way while a packed model decodes.

torch's thread pool spins for a while after every small parallel operation. On a machine with few cores it then
takes the core from our own kernel threads: a step of SmolLM2-135M on two cores took 52 ms with torch at two
threads and 14 ms with torch at one (docs/log.md). So a forward pass over at most `STEP_TOKENS` tokens runs
torch's part, which is small then, on one thread, and puts the number back afterwards.
"""

import torch
from torch import Tensor, nn

HOOKS = "_quiet_steps"
"""Attribute of a model, where the handles of its hooks lie."""
STEP_TOKENS = 1024
"""Forward passes over at most so many tokens run torch on one thread: longer ones do too much in torch itself."""


def quiet_steps(model: nn.Module) -> None:
    """Let short forward passes of `model` run torch on one thread."""
    saved: list[int] = []

    def before(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        short = isinstance(ids, Tensor) and ids.numel() <= STEP_TOKENS
        saved.append(torch.get_num_threads() if short else 0)
        if short:
            torch.set_num_threads(1)

    def after(
        _module: nn.Module, _args: tuple[object, ...], _kwargs: dict[str, object], _output: object
    ) -> None:
        threads = saved.pop() if saved else 0  # empty: another hook failed before ours
        if threads:
            torch.set_num_threads(threads)

    handles = (
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True, always_call=True),
    )
    setattr(model, HOOKS, handles)


def all_threads(model: nn.Module) -> None:
    """Undo `quiet_steps`: torch does all of the work now, because packed modules were replaced."""
    for handle in getattr(model, HOOKS, ()):
        handle.remove()
