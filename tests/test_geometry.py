"""Invariants and closed forms of the geometry, and agreement with dense float64 linear algebra."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from lab import checkpoints, statistics

SMALL_SIZES = st.integers(1, 9)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_kernels(query: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
    """The d x d kernel of every head, formed."""
    repeats = len(query) // len(key)
    return [query[head].T @ key[head // repeats] for head in range(len(query))]


def test_effective_rank_closed_forms():
    assert utils.effective_rank(torch.ones(7)).item() == pytest.approx(7)
    assert utils.effective_rank(torch.tensor([5.0, 0, 0])).item() == pytest.approx(1)
    assert utils.effective_rank(torch.zeros(4)).item() == 0
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert utils.effective_rank(torch.tensor([3.0, 1.0])).item() == pytest.approx(expected, rel=1e-12)
    batch = utils.effective_rank(torch.stack([torch.ones(3), torch.zeros(3)]))
    assert batch.tolist() == pytest.approx([3, 0])


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20), st.floats(1e-6, 1e6))
def test_effective_rank_is_bounded_and_ignores_scale(values, scale):
    values = torch.tensor(values, dtype=torch.float64)
    rank = utils.effective_rank(values).item()
    assert 1 - 1e-9 <= rank <= len(values) + 1e-9
    assert utils.effective_rank(values * scale).item() == pytest.approx(rank, rel=1e-9)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (17, 17), (1, 9), (9, 1)])
def test_singular_values_match_dense_svd(shape):
    matrix = randn(*shape)
    torch.testing.assert_close(utils.singular_values(matrix), torch.linalg.svdvals(matrix), rtol=1e-9, atol=1e-12)


def test_singular_values_of_degenerate_matrices():
    assert utils.singular_values(torch.zeros(5, 8)).tolist() == [0] * 5
    low_rank = randn(300, 3) @ randn(3, 200, seed=1)
    values = utils.singular_values(low_rank)
    assert (values[3:] == 0).all()  # round-off of the squared spectrum must not count as rank
    dense = utils.effective_rank(torch.linalg.svdvals(low_rank))
    assert utils.effective_rank(values).item() == pytest.approx(dense.item(), rel=1e-9)


KERNEL_SHAPES = {  # heads, groups, head width, width
    "grouped": (6, 2, 8, 48),
    "one head": (1, 1, 8, 20),
    "one group": (4, 1, 5, 30),
    "wide head": (3, 3, 16, 24),
    "head as wide as model": (2, 1, 12, 12),
    "head wider than model": (2, 2, 12, 8),
}


@pytest.mark.parametrize("name", KERNEL_SHAPES)
@pytest.mark.parametrize("defect", ["none", "zero head", "low rank"])
def test_factored_kernel_matches_dense_svd(name, defect):
    heads, groups, head_width, width = KERNEL_SHAPES[name]
    query, key = randn(heads, head_width, width), randn(groups, head_width, width, seed=1)
    if defect == "zero head":
        query[0] = 0
    if defect == "low rank":
        query[:, 2:] = 0
    values, vectors = utils.kernel_svd(query, key)
    assert values.shape == (heads, head_width)
    for head, kernel in enumerate(dense_kernels(query, key)):
        _, dense, right = torch.linalg.svd(kernel)
        common = min(head_width, width)
        scale = max(dense[0].item(), 1e-300)
        torch.testing.assert_close(values[head, :common] / scale, dense[:common] / scale, rtol=1e-9, atol=1e-12)
        assert (values[head, common:] == 0).all()
        rank = utils.effective_rank(values[head]).item()
        assert rank == pytest.approx(utils.effective_rank(torch.linalg.svdvals(kernel)).item(), rel=1e-6)
        k = min(2, common)
        if dense[0] > 0 and k < len(dense) and dense[k - 1] > dense[k] * (1 + 1e-6):
            projector = vectors[head, :k].T @ vectors[head, :k]
            torch.testing.assert_close(projector, right[:k].T @ right[:k], rtol=0, atol=1e-9)


def test_kernel_right_vectors_are_orthonormal_and_on_the_key_side():
    query, key = randn(4, 6, 30), randn(2, 6, 30, seed=1)
    _, vectors = utils.kernel_svd(query, key)
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(6, dtype=torch.float64).expand(4, 6, 6))
    for head in range(4):  # the key's rows lie in the span of the right vectors
        rows = key[head // 2]
        torch.testing.assert_close(rows @ vectors[head].T @ vectors[head], rows)


def layer_weights(query: torch.Tensor, key: torch.Tensor, **gains) -> checkpoints.LayerWeights:
    width = query.shape[-1]
    blank = dict.fromkeys(("value", "output", "gate", "up", "down"), torch.zeros(1, 1))
    ones = {"attention_gain": torch.ones(width), "ffn_gain": torch.ones(width), "query_gain": None, "key_gain": None}
    return checkpoints.LayerWeights(query=query.flatten(0, 1), key=key.flatten(0, 1), **(blank | ones | gains))


def test_folding_multiplies_the_kernel_by_the_gains():
    query, key = randn(4, 6, 30), randn(2, 6, 30, seed=1)
    gain, query_gain, key_gain = randn(30, seed=2), randn(6, seed=3), randn(6, seed=4)
    layer = layer_weights(query, key, attention_gain=gain, query_gain=query_gain, key_gain=key_gain)
    folded = utils.kernel_factors(layer, 6, fold_norm=True)
    for head, kernel in enumerate(dense_kernels(*folded)):
        inner = torch.diag(query_gain * key_gain)
        expected = torch.diag(gain) @ query[head].T @ inner @ key[head // 2] @ torch.diag(gain)
        torch.testing.assert_close(kernel, expected)
    raw = utils.kernel_factors(layer, 6, fold_norm=False)
    torch.testing.assert_close(raw[0], query)
    torch.testing.assert_close(raw[1], key)


@given(SMALL_SIZES, st.integers(0, 10), st.integers(0, 1000))
def test_grassmann_similarity_invariants(k, extra, seed):
    width = k + extra
    generator = torch.Generator().manual_seed(seed)
    first, second = utils.random_subspaces(generator, 2, k, width)
    similarity = utils.grassmann_similarity(first, second).item()
    assert -1e-12 <= similarity <= 1 + 1e-12
    assert utils.grassmann_similarity(second, first).item() == pytest.approx(similarity)
    assert utils.grassmann_similarity(first, first).item() == pytest.approx(1)
    rotation = utils.random_subspaces(generator, 1, k, k)[0]
    assert utils.grassmann_similarity(rotation @ first, second).item() == pytest.approx(similarity)
    chordal_squared = (first.T @ first - second.T @ second).square().sum().item() / 2
    assert chordal_squared == pytest.approx(k * (1 - similarity), abs=1e-9)


def test_grassmann_similarity_of_known_angles():
    angles = torch.tensor([0.3, 1.1], dtype=torch.float64)
    first = torch.eye(4, dtype=torch.float64)[:2]
    second = torch.cat([torch.diag(angles.cos()), torch.diag(angles.sin())], 1)
    expected = angles.cos().square().mean().item()
    assert utils.grassmann_similarity(first, second).item() == pytest.approx(expected)
    assert utils.grassmann_similarity(first, torch.eye(4, dtype=torch.float64)[2:]).item() == 0


def test_similarity_matrix_equals_all_pairs():
    subspaces = utils.random_subspaces(torch.Generator().manual_seed(0), 4, 3, 11)
    matrix = utils.similarity_matrix(subspaces)
    for i in range(4):
        for j in range(4):
            assert matrix[i, j].item() == pytest.approx(utils.grassmann_similarity(subspaces[i], subspaces[j]).item())


def test_random_subspaces_are_orthonormal_with_the_expected_overlap():
    k, width = 5, 40
    subspaces = utils.random_subspaces(torch.Generator().manual_seed(0), 200, k, width)
    identity = torch.eye(k, dtype=torch.float64).expand(200, k, k)
    torch.testing.assert_close(subspaces @ subspaces.mT, identity)
    vector = randn(width, seed=9)
    projected = (subspaces @ vector).square().sum(1).mean() / vector.square().sum()
    assert projected.item() == pytest.approx(k / width, abs=0.01)  # E‖P δ‖² = (k/d)‖δ‖²


def test_multi_head_subspace_finds_the_shared_directions():
    shared, *own = utils.random_subspaces(torch.Generator().manual_seed(0), 5, 3, 60)
    heads = [torch.linalg.qr(torch.cat([shared, own[head][:1]]).T)[0].T for head in range(4)]
    found = utils.multi_head_subspace(torch.stack(heads), 3)
    assert utils.grassmann_similarity(found, shared).item() == pytest.approx(1, abs=1e-9)


@settings(max_examples=20)
@given(SMALL_SIZES, st.integers(0, 8), st.integers(0, 99))
def test_projection_is_idempotent_and_its_residual_orthogonal(k, extra, seed):
    (rows,) = utils.random_subspaces(torch.Generator().manual_seed(seed), 1, k, k + extra)
    vector = randn(k + extra, seed=seed)
    projected = rows.T @ (rows @ vector)
    torch.testing.assert_close(rows.T @ (rows @ projected), projected)
    assert abs(torch.dot(projected, vector - projected).item()) < 1e-9
    assert (rows @ vector).norm().item() == pytest.approx(projected.norm().item())


def test_seeded_generators_are_independent_of_each_other():
    first = torch.rand(3, generator=statistics.seeded(0, "a"))
    assert torch.equal(first, torch.rand(3, generator=statistics.seeded(0, "a")))
    assert not torch.equal(first, torch.rand(3, generator=statistics.seeded(0, "b")))
    assert not torch.equal(first, torch.rand(3, generator=statistics.seeded(1, "a")))


def test_wilson_mcnemar_and_permutation_known_values():
    low, high = statistics.wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert statistics.mcnemar_p(3, 0) == pytest.approx(0.25)
    assert statistics.mcnemar_p(6, 0) == pytest.approx(2 / 64)
    assert statistics.mcnemar_p(0, 0) == 1
    assert statistics.permutation_p(0, 99) == pytest.approx(0.01)


@pytest.mark.parametrize("shape", [(32,), (5, 32), (2, 5, 32)])
def test_projections_split_a_vector_and_are_idempotent(shape):
    (basis,) = utils.random_subspaces(statistics.seeded(0, "projector"), 1, 6, 32)
    x = torch.randn(*shape, generator=statistics.seeded(0, "x"), dtype=torch.float64)
    inside, outside = utils.project(x, basis), utils.outside(x, basis)
    torch.testing.assert_close(inside + outside, x)
    torch.testing.assert_close(utils.project(inside, basis), inside)
    torch.testing.assert_close(outside @ basis.T, torch.zeros(*shape[:-1], 6, dtype=torch.float64))
    dense = basis.T @ torch.linalg.inv(basis @ basis.T) @ basis
    torch.testing.assert_close(inside, x @ dense)
    torch.testing.assert_close(torch.from_numpy(utils.project(x.numpy(), basis.numpy())), inside)
