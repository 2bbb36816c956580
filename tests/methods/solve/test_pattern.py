"""Patterns keep exactly what they declare, the largest scores, and the first of equals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import RecipeError
from gossamer.methods.solve.pattern import NM, Block, RowBalanced, RowWindows, Unstructured, parse_pattern

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 40))
SPARSITY = st.floats(0.0, 0.99)


def scores(shape, seed, levels=None):
    """Random scores; with few levels there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(0, levels, shape, generator=generator).float()
    return torch.rand(shape, generator=generator)


def best(values, count):
    """The positions of the `count` largest, the first of equals, by a plain stable sort."""
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    return set(order[:count])


def kept(mask):
    return set(mask.nonzero()[:, 0].tolist())


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, sparsity=SPARSITY, seed=st.integers(0, 999), levels=st.sampled_from([None, 1, 3]))
def test_unstructured_keeps_the_largest_of_the_layer(shape, sparsity, seed, levels):
    score_OI = scores(shape, seed, levels)
    mask_OI = Unstructured().keep_largest(score_OI, sparsity)
    count = round((1 - sparsity) * score_OI.numel())
    assert kept(mask_OI.flatten()) == best(score_OI.flatten().tolist(), count)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, sparsity=SPARSITY, seed=st.integers(0, 999), levels=st.sampled_from([None, 1, 3]))
def test_row_balanced_keeps_the_same_number_in_every_row(shape, sparsity, seed, levels):
    score_OI = scores(shape, seed, levels)
    mask_OI = RowBalanced().keep_largest(score_OI, sparsity)
    for mask_I, score_I in zip(mask_OI, score_OI, strict=True):
        assert kept(mask_I) == best(score_I.tolist(), round((1 - sparsity) * shape[1]))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), shape=SHAPES, seed=st.integers(0, 999), levels=st.sampled_from([None, 2]))
def test_nm_keeps_n_of_every_m_and_the_share_of_a_last_window(data, shape, seed, levels):
    m = data.draw(st.integers(2, 32))
    n = data.draw(st.integers(1, m - 1))
    score_OI = scores(shape, seed, levels)
    mask_OI = NM(n, m).keep_largest(score_OI, 1 - n / m)
    for mask_I, score_I in zip(mask_OI, score_OI, strict=True):
        for start in range(0, shape[1], m):
            window = score_I[start : start + m].tolist()
            count = n if len(window) == m else -(-n * len(window) // m)
            assert kept(mask_I[start : start + m]) == best(window, count)


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    rows=st.integers(1, 5),
    cols=st.integers(1, 17),
    sparsity=SPARSITY,
    seed=st.integers(0, 999),
)
def test_blocks_keep_the_cells_of_largest_mean_score(shape, rows, cols, sparsity, seed):
    score_OI = scores(shape, seed)
    mask_OI = Block(rows, cols).keep_largest(score_OI, sparsity)
    means, states = [], []
    for top in range(0, shape[0], rows):
        for left in range(0, shape[1], cols):
            cell = mask_OI[top : top + rows, left : left + cols]
            assert cell.all() or not cell.any()
            states.append(bool(cell.all()))
            means.append(score_OI[top : top + rows, left : left + cols].double().mean().item())
    chosen = [mean for mean, state in zip(means, states, strict=True) if state]
    left_out = [mean for mean, state in zip(means, states, strict=True) if not state]
    assert abs(len(chosen) - (1 - sparsity) * len(means)) <= 0.5 + 1e-9  # a half may go either way: floats
    assert not chosen or not left_out or min(chosen) >= max(left_out) - 1e-5


@pytest.mark.parametrize(
    "pattern",
    [Unstructured(), RowBalanced(), NM(2, 4), RowWindows((1, 2, 3, 2, 0, 4), 4), Block(2, 4)],
    ids=str,
)
def test_what_is_pruned_already_is_never_kept_and_counts(pattern):
    score_OI = scores((6, 16), 3)
    within_OI = scores((6, 16), 4) > 0.3
    mask_OI = pattern.keep_largest(score_OI, 0.5, within_OI)
    assert not (mask_OI & ~within_OI).any()
    if not isinstance(pattern, Block):
        assert mask_OI.sum() <= 48
    if isinstance(pattern, Unstructured):
        assert mask_OI.sum() == 48
        assert score_OI[mask_OI].min() >= score_OI[within_OI & ~mask_OI].max()


@pytest.mark.parametrize("pattern", [Unstructured(), RowBalanced(), NM(2, 4)], ids=str)
def test_a_pruned_weight_never_wins_over_a_kept_weight_of_score_zero(pattern):
    score_OI = torch.zeros(1, 4)
    within_OI = torch.tensor([[False, False, True, True]])
    assert pattern.keep_largest(score_OI, 0.5, within_OI).tolist() == [[False, False, True, True]]


@given(
    pattern=st.one_of(
        st.just(Unstructured()),
        st.just(RowBalanced()),
        st.tuples(st.integers(1, 31), st.integers(2, 32)).filter(lambda t: t[0] < t[1]).map(lambda t: NM(*t)),
        st.lists(st.integers(0, 16), min_size=1).map(lambda n_O: RowWindows(tuple(n_O), 16)),
        st.tuples(st.integers(1, 64), st.integers(1, 64)).map(lambda t: Block(*t)),
    )
)
def test_the_text_of_a_pattern_parses_back(pattern):
    assert parse_pattern(str(pattern)) == pattern


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2of4",
        "4:4",
        "5:4",
        "0:4",
        "2:33",
        "block",
        "block 0x4",
        "block 4x",
        "124",
        "2:4:8",
        "-2:4",
        "rows 3,5:4",
        "rows 2:40",
    ],
)
def test_a_pattern_that_cannot_be_meant_is_an_error_with_examples(text):
    with pytest.raises(RecipeError, match=r"2:4|block 4x16"):
        parse_pattern(text)


def test_a_sparsity_that_contradicts_nm_is_refused():
    with pytest.raises(RecipeError, match=r"2:4 implies sparsity 0.5, but sparsity 0.7"):
        NM(2, 4).keep_largest(torch.rand(2, 8), 0.7)


def test_every_row_keeps_its_own_number_of_each_window():
    score_OI = scores((4, 40), 5)
    n_O = (0, 3, 16, 8)
    mask_OI = RowWindows(n_O, 16).keep_largest(score_OI, 0.0)
    assert mask_OI[:, :32].reshape(4, 2, 16).sum(2).tolist() == [[n, n] for n in n_O]
    assert mask_OI[:, 32:].sum(1).tolist() == [-(-n // 2) for n in n_O]
    assert torch.equal(mask_OI[3], NM(8, 16).keep_largest(score_OI, 0.5)[3])
    with pytest.raises(RecipeError, match="4 rows, but the layer has 3"):
        RowWindows(n_O, 16).keep_largest(score_OI[:3], 0.0)


def test_a_large_matrix_keeps_exact_counts():
    score_OI = scores((2048, 576), 0)
    assert Unstructured().keep_largest(score_OI, 0.7).sum() == round(0.3 * score_OI.numel())
    assert (NM(8, 16).keep_largest(score_OI, 0.5).view(2048, -1, 16).sum(2) == 8).all()
