"""How many bytes of weights one decoded token makes the machine read.

Times tokens per second this is the memory traffic that a decoder causes at batch 1, which is held against
the measured bandwidth (the roofline). Counted: every parameter and buffer once, as it is stored (packed
weights in their packed form; tied tensors once). An embedding table counts as the one row that is looked
up, unless the output head shares it and so reads all of it. Experts all count, also those that a token
skips; the cache of keys and values does not count. Of an encoder-decoder only what runs for each token
counts: the decoder and the head.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.evaluation.speed.decode import OwnRounds, Runner
from gossamer.layers.embedding import PackedEmbedding
from gossamer.layers.linear import SparseLinear

Key = tuple[int, int]


def weight_bytes_per_token(model: Runner) -> int:
    """Return the bytes of weights read for one token by `model` (for an encoder: for one pass)."""
    if isinstance(model, OwnRounds):
        return model.weight_bytes_per_token
    read: dict[Key, float] = {}
    for module in _modules_run_for_a_token(model):
        rows = _num_rows(module)
        for tensor in _tensors(module):
            size = tensor.numel() * tensor.element_size()
            key = (tensor.data_ptr(), size)
            read[key] = max(read.get(key, 0.0), size / rows)
    return round(sum(read.values()))


def _modules_run_for_a_token(model: PreTrainedModel) -> list[nn.Module]:
    config = getattr(model, "config", None)
    modules = list(model.modules())
    if not getattr(config, "is_encoder_decoder", False):
        return modules
    encoder = {id(module) for module in model.get_encoder().modules()}
    return [module for module in modules if id(module) not in encoder]


def _num_rows(module: nn.Module) -> int:
    """Rows of a table of which one is read; 1 for what is read as a whole."""
    if isinstance(module, nn.Embedding | PackedEmbedding):
        return max(1, module.num_embeddings)
    return 1


def _tensors(module: nn.Module) -> list[Tensor]:
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if isinstance(module, SparseLinear):  # a tied head reads the tensors that the embedding owns
        tensors += [
            t for t in module.weight_source().packed_tensors().values() if all(t is not o for o in tensors)
        ]
    return tensors
