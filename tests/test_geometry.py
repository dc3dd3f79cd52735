"""Invariants and closed forms of the geometry, and agreement with dense float64 linear algebra."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from lab import families, statistics

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


@pytest.fixture
def float32(monkeypatch):
    """Float32 arithmetic, in blocks, for matrices of any size."""
    monkeypatch.setattr(utils, "SMALL_SIDE", 0)
    monkeypatch.setattr(utils, "BLOCK", 4)
    monkeypatch.setattr(utils, "COLUMNS", 7)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (17, 17), (1, 9), (9, 1)])
def test_singular_values_match_dense_svd(shape):
    matrix = randn(*shape)
    torch.testing.assert_close(utils.singular_values(matrix), torch.linalg.svdvals(matrix), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("small_side", [utils.SMALL_SIDE, 0])
def test_singular_values_of_degenerate_matrices(monkeypatch, small_side):
    monkeypatch.setattr(utils, "SMALL_SIDE", small_side)
    assert utils.singular_values(torch.zeros(5, 8)).tolist() == [0] * 5
    low_rank = randn(300, 3) @ randn(3, 200, seed=1)
    values = utils.singular_values(low_rank)
    assert (values[3:] == 0).all()  # round-off of the squared spectrum must not count as rank
    dense = utils.effective_rank(torch.linalg.svdvals(low_rank))
    assert utils.effective_rank(values).item() == pytest.approx(dense.item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("small_side", [utils.SMALL_SIDE, 0])
def test_singular_values_of_any_scale(monkeypatch, dtype, small_side):
    """Entries whose squares overflow, or vanish, in the arithmetic: the values are those of the matrix, scaled."""
    monkeypatch.setattr(utils, "SMALL_SIDE", small_side)
    matrix = randn(20, 60).to(dtype)
    own = utils.singular_values(matrix)
    torch.testing.assert_close(own, torch.linalg.svdvals(matrix.double()), rtol=1e-5, atol=0)
    exponents = {torch.float16: (-4, 10), torch.float64: (-900, 900)}.get(dtype, (-110, 110))
    for exponent in exponents:
        scaled = matrix * 2.0**exponent
        torch.testing.assert_close(utils.singular_values(scaled) / 2.0**exponent, own, rtol=1e-9, atol=0)
    smallest = torch.full((3, 4), torch.finfo(dtype).smallest_normal, dtype=dtype)
    assert utils.effective_rank(utils.singular_values(smallest)).item() == pytest.approx(1, rel=1e-4)


def with_spectrum(values: torch.Tensor, columns: int) -> torch.Tensor:
    """A matrix with these singular values and Haar singular vectors, (n, columns)."""
    left, right = (torch.linalg.qr(randn(size, len(values), seed=size))[0] for size in (len(values), columns + 1))
    return left * values @ right[:columns].T


SPECTRA = {
    "square Gaussian": randn(200, 200),
    "wide Gaussian": randn(150, 600),
    "tall Gaussian": randn(600, 150),
    "slow decay": with_spectrum(torch.arange(1, 201).double() ** -0.3, 300),
    "fast decay": with_spectrum(torch.arange(1, 201).double() ** -2.0, 300),
    "exponential": with_spectrum(torch.exp(-torch.arange(200).double() / 40), 200),
    "low rank": randn(200, 9) @ randn(9, 300, seed=1),
    "low rank and noise": randn(200, 9) @ randn(9, 300, seed=1) + 0.01 * randn(200, 300, seed=2),
    "one outlier": randn(200, 300) + 3,
    "two clusters": with_spectrum(torch.tensor([1.0, 1e-3]).double().repeat_interleave(100), 300),
    "near clusters": with_spectrum(torch.tensor([1.0, 0.03]).double().repeat_interleave(100), 300),
    "scaled columns": randn(200, 300) * torch.exp(2 * randn(300, seed=1)),
    "scaled rows": randn(200, 300) * torch.exp(2 * randn(200, 1, seed=1)),
    "flat": with_spectrum(torch.ones(200).double(), 300),
    "ones": torch.ones(100, 150).double(),
    "one row": randn(1, 50),
}


def dense_rank(matrix: torch.Tensor) -> float:
    return utils.effective_rank(torch.linalg.svdvals(matrix.double())).item()


def short_side_first(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


@pytest.mark.parametrize("name", SPECTRA)
def test_an_effective_rank_is_never_further_off_than_its_bound(name):
    for dtype, seed in ((torch.float32, 0), (torch.float32, 1), (torch.float64, 0)):
        turned, _ = torch.linalg.qr(randn(len(SPECTRA[name]), len(SPECTRA[name]), seed=seed))
        matrix = (turned @ SPECTRA[name]).float()
        squares = utils.eigenvalues(utils.lower_gram(short_side_first(matrix), dtype, utils.safe_scale(matrix)))
        error = abs(utils.effective_rank(squares.sqrt()).item() / dense_rank(matrix) - 1)
        assert error <= utils.rank_error(squares, dtype).item() + 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(0, 60), st.floats(0, 5), st.floats(0, 6), st.integers(0, 99))
def test_the_bound_holds_for_spectra_of_every_decay(size, extra, power, outlier, seed):
    values = torch.arange(1, size + 1).double() ** -power
    values[0] *= 10**outlier
    matrix = (
        with_spectrum(values, size + extra) @ torch.linalg.qr(randn(size + extra, size + extra, seed=seed))[0]
    ).float()
    squares = utils.eigenvalues(utils.lower_gram(matrix, torch.float32, utils.safe_scale(matrix)))
    error = abs(utils.effective_rank(squares.sqrt()).item() / dense_rank(matrix) - 1)
    assert error <= utils.rank_error(squares, torch.float32).item() + 1e-12


@pytest.mark.parametrize("name", SPECTRA)
def test_singular_values_keep_the_promised_precision(float32, name):
    matrix = SPECTRA[name].float()
    rank = utils.effective_rank(utils.singular_values(matrix)).item()
    assert rank == pytest.approx(dense_rank(matrix), rel=utils.RANK_ERROR)


def test_float32_is_kept_where_it_suffices_and_float64_taken_where_not(float32, monkeypatch):
    used, eigenvalues = [], utils.eigenvalues
    monkeypatch.setattr(utils, "eigenvalues", lambda lower: used.append(lower.dtype) or eigenvalues(lower))
    single, double = torch.float32, torch.float64

    def arithmetic(name: str, dtype: torch.dtype) -> list[torch.dtype]:
        used.clear()
        utils.singular_values(SPECTRA[name].to(dtype))
        return used

    assert arithmetic("wide Gaussian", torch.bfloat16) == [single]
    assert arithmetic("square Gaussian", single) == [single]
    assert arithmetic("fast decay", single) == [single, double]
    assert arithmetic("exponential", single) == [double]  # square and uneven: not worth a trial
    monkeypatch.setattr(utils, "SMALL_SIDE", 200)
    assert arithmetic("wide Gaussian", double) == [double]


def test_unevenness_is_that_of_the_eigenvalues():
    for name in ("square Gaussian", "wide Gaussian", "one outlier", "flat"):
        lower = utils.lower_gram(SPECTRA[name], torch.float64, 1.0)
        squares = torch.linalg.svdvals(SPECTRA[name]).square()
        expected = len(squares) * squares.square().sum() / squares.sum().square()
        assert utils.unevenness(lower) == pytest.approx(expected.item(), rel=1e-9)
    assert utils.unevenness(torch.zeros(3, 3)) == 0


@pytest.mark.parametrize("shape", [(13, 30), (30, 13), (5, 1), (1, 5), (4, 7), (8, 8)])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float64])
def test_gram_matrices_match_dense_products(float32, shape, stored):
    matrix = randn(*shape).to(stored)
    expected = matrix.double() @ matrix.double().T
    lower = utils.lower_gram(matrix, torch.float32, 1.0)
    assert lower.dtype == torch.float32
    torch.testing.assert_close(lower.tril().double(), expected.tril(), rtol=0, atol=1e-5)
    turned = utils.lower_gram(matrix.mT.contiguous().mT, torch.float32, 1.0)  # as a tall matrix arrives
    torch.testing.assert_close(turned, lower, rtol=0, atol=1e-5)
    measured = utils.gram(matrix)
    torch.testing.assert_close(measured.double(), (expected / expected.trace()).tril(), rtol=0, atol=1e-5)
    assert (utils.gram(matrix * 0) == 0).all()


@pytest.mark.parametrize("side", ["small", "large"])
def test_energies_match_projectors(request, side):
    if side == "large":
        request.getfixturevalue("float32")
    matrix, subspaces = randn(40, 13), utils.random_subspaces(torch.Generator().manual_seed(0), 5, 3, 13)
    expected = torch.stack([(matrix @ rows.T).square().sum() / matrix.square().sum() for rows in subspaces])
    by_gram = utils.gram_energy(utils.gram(matrix.mT), subspaces)
    written = utils.energy_share(matrix.mT.contiguous().mT, subspaces)  # as a matrix that writes to the stream arrives
    for measured in (utils.energy_share(matrix, subspaces), by_gram, written):
        assert measured.dtype == torch.float64
        torch.testing.assert_close(measured, expected, rtol=1e-5 if side == "large" else 1e-11, atol=0)
    assert (utils.energy_share(matrix * 0, subspaces) == 0).all()


def test_folding_is_the_norms_linear_part():
    """With a gain g and x of unit variance: RMSNorm gives g * x, LayerNorm g * (x - mean)."""
    matrix, gain, x = randn(4, 12), randn(12, seed=1), randn(12, seed=2)
    torch.testing.assert_close(utils.folded(matrix, gain, False) @ x, matrix @ (gain * x))
    torch.testing.assert_close(utils.folded(matrix, gain, True) @ x, matrix @ (gain * (x - x.mean())))
    assert utils.folded(matrix, None, True) is matrix


@pytest.mark.parametrize("kind", ["flat", "decaying"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_top_eigenvectors_are_the_top_singular_vectors(monkeypatch, kind, dtype):
    monkeypatch.setattr(utils, "SMALL_SIDE", 512 if dtype == torch.float64 else 0)
    matrix = randn(300, 60) if kind != "decaying" else with_spectrum(torch.arange(1, 61).double() ** -1.0, 90).T
    top = utils.top_eigenvectors(utils.gram(matrix.mT), 7)
    assert top.dtype == torch.float64
    _, _, right = torch.linalg.svd(matrix)
    torch.testing.assert_close(top @ top.T, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-5)
    assert utils.grassmann_similarity(top, right[:7]).item() == pytest.approx(1, abs=1e-6)


KERNEL_SHAPES = {  # heads, groups, head width, width
    "grouped": (6, 2, 8, 48),
    "one head": (1, 1, 8, 20),
    "one group": (4, 1, 5, 30),
    "wide head": (3, 3, 16, 24),
    "head as wide as model": (2, 1, 12, 12),
    "head wider than model": (2, 2, 12, 8),
}


@pytest.mark.parametrize("name", KERNEL_SHAPES)
@pytest.mark.parametrize("defect", ["none", "zero head", "low rank", "low rank keys", "zero keys", "graded"])
def test_factored_kernel_matches_dense_svd(name, defect):
    heads, groups, head_width, width = KERNEL_SHAPES[name]
    query, key = randn(heads, head_width, width), randn(groups, head_width, width, seed=1)
    if defect == "zero head":
        query[0] = 0
    if defect == "low rank":
        query[:, 2:] = 0
    if defect == "low rank keys":
        key[:, 2:] = key[:, :1]
    if defect == "zero keys":
        key[:] = 0
    if defect == "graded":  # squares span more than float64 holds
        query *= 10.0 ** -torch.arange(head_width)[:, None]
        key *= 10.0 ** -torch.arange(head_width)[:, None]
    k = min(2, head_width, width)
    values, vectors = utils.kernel_svd(query, key)
    few_values, few = utils.kernel_svd(query, key, k)
    assert values.shape == (heads, head_width)
    torch.testing.assert_close(few_values, values)
    torch.testing.assert_close(few, vectors[:, :k])
    for head, kernel in enumerate(dense_kernels(query, key)):
        _, dense, right = torch.linalg.svd(kernel)
        common = min(head_width, width)
        scale = max(dense[0].item(), 1e-300)
        for found in (values, utils.kernel_values(query, key)):
            torch.testing.assert_close(found[head, :common] / scale, dense[:common] / scale, rtol=1e-9, atol=1e-12)
            assert (found[head, common:] == 0).all()
            rank = utils.effective_rank(found[head]).item()
            assert rank == pytest.approx(dense_rank(kernel), rel=1e-6)
        if dense[0] > 0 and k < len(dense) and dense[k - 1] > dense[k] * (1 + 1e-6):
            projector = vectors[head, :k].T @ vectors[head, :k]
            torch.testing.assert_close(projector, right[:k].T @ right[:k], rtol=0, atol=1e-9)
        identity = torch.eye(vectors.shape[1], dtype=torch.float64)
        torch.testing.assert_close(vectors[head] @ vectors[head].T, identity)


def test_the_rank_of_a_kernel_is_not_lost_in_squares():
    """A hundred singular values of 1e-10 beside four of 1: the round-off of the squares would make each a hundred times that."""
    spectrum = torch.cat([torch.ones(4), torch.full((100,), 1e-5)]).double()
    query = key = with_spectrum(spectrum, 120)[None]
    (kernel,) = dense_kernels(query, key)
    for values in (utils.kernel_values(query, key), utils.kernel_svd(query, key)[0]):
        assert utils.effective_rank(values)[0].item() == pytest.approx(dense_rank(kernel), rel=1e-7)


def test_kernel_right_vectors_are_orthonormal_and_on_the_key_side():
    query, key = randn(4, 6, 30), randn(2, 6, 30, seed=1)
    _, vectors = utils.kernel_svd(query, key)
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(6, dtype=torch.float64).expand(4, 6, 6))
    for head in range(4):  # the key's rows lie in the span of the right vectors
        rows = key[head // 2]
        torch.testing.assert_close(rows @ vectors[head].T @ vectors[head], rows)


def layer_weights(query: torch.Tensor, key: torch.Tensor, attention_gain=None, query_gain=None, key_gain=None):
    """A layer of which only the kernels matter."""
    parts = dict.fromkeys(families.ROLES) | {"query": query.flatten(0, 1), "key": key.flatten(0, 1)}
    gains = {"attention_gain": attention_gain, "query_gain": query_gain, "key_gain": key_gain}
    return families.LayerWeights(**parts | gains, centred=False)


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


def test_folding_of_gains_over_all_heads_of_layer_norms_and_of_no_norm():
    query, key, gain = randn(4, 6, 30), randn(2, 6, 30, seed=1), randn(30, seed=2)
    query_gain, key_gain = randn(24, seed=3), randn(12, seed=4)
    layer = layer_weights(query, key, attention_gain=gain, query_gain=query_gain, key_gain=key_gain)
    folded_query, folded_key = utils.kernel_factors(layer, 6, fold_norm=True)
    torch.testing.assert_close(folded_query.flatten(0, 1), query_gain[:, None] * query.flatten(0, 1) * gain)
    torch.testing.assert_close(folded_key.flatten(0, 1), key_gain[:, None] * key.flatten(0, 1) * gain)
    layer = layer_weights(query, key, attention_gain=gain)
    layer.centred = True
    for part, expected in zip(utils.kernel_factors(layer, 6, fold_norm=True), (query, key)):
        assert part.sum(-1).abs().max() < 1e-12  # the mean of the stream is not seen
        centring = torch.eye(30, dtype=torch.float64) - 1 / 30
        torch.testing.assert_close(part, expected * gain @ centring)
    layer = layer_weights(query, key, attention_gain=None)
    assert all(map(torch.equal, utils.kernel_factors(layer, 6, fold_norm=True), (query, key)))


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


@pytest.mark.parametrize("width", [60, 10])
def test_multi_head_subspace_matches_dense_svd(width):
    heads = utils.random_subspaces(torch.Generator().manual_seed(0), 5, 4, width)
    for k in (1, 4):
        found = utils.multi_head_subspace(heads, k)
        expected = torch.linalg.svd(heads.flatten(0, 1))[2][:k]
        torch.testing.assert_close(found.T @ found, expected.T @ expected, rtol=0, atol=1e-9)


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


@pytest.mark.parametrize("power", [-3.0, -4.0])
def test_spectra_too_steep_to_be_squared_are_not(power):
    spectrum = torch.arange(1, 201).double() ** power
    left, right = (torch.linalg.qr(randn(size, 200, seed=seed))[0] for size, seed in ((300, 0), (500, 1)))
    found = utils.effective_rank(utils.singular_values(left * spectrum @ right.T)).item()
    assert found == pytest.approx(utils.effective_rank(spectrum).item(), rel=1e-4)
