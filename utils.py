"""Geometry of the hunt: effective ranks, attention kernels, subspaces, projectors and their similarity. Pure: tensors in, tensors out.

Conventions. A subspace is a matrix of orthonormal rows, (k, d). A weight matrix is stored as PyTorch's Linear has it,
(out, in), so its *right* singular vectors live on the side of the residual stream that it reads. The residual stream at
site s is the stream after s layers; `L33.in` is site 33, `L33.out` is site 34. Geometry is float64 inside, but for Gram
matrices of large weights (`working_dtype`). Letters: L layers, d width, h query heads, g KV groups, dh head width.
"""

import math

import scipy.linalg
import torch

SMALL_SIDE = 512
SAFE_EXPONENT = 20  # of entries whose squares, summed over any width, float32 and float64 hold without scaling
BLOCK, COLUMNS = 256, 1024  # rows and columns multiplied at a time: the fastest of those tried on a CPU at 2048 x 11008
RANK_ERROR = 1e-4  # relative, of an effective rank: float32 is kept where it is bound to stay below
KERNEL_ERROR = 1e-9  # the same for a kernel's squares in float64
# a square matrix has values near zero, whose squares float32 loses unless the spectrum is as even as a random one's
ALMOST_SQUARE, UNEVEN = 1.25, 2.5
# Errors of eigenvalues in units of ε, against float64, over 40 spectra (flat, decaying, square, clustered, scaled rows, low
# rank) and real weights of four models: their mean over a spectrum stays below 0.2 λ_max, beside a drift of the large ones
# below n λ/8. Single ones reach 11 λ_max, and 37 λ_max where hundreds coincide.
ABSOLUTE_ERROR, RELATIVE_ERROR = 8, 1 / 4
SHRINKAGE = 0.1  # share of a covariance that is spread evenly, where there are fewer vectors than dimensions


def effective_rank(singular_values: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of σ/Σσ over the last axis (Roy & Vetterli 2007), float64; 0 for zeros. (..., n) -> (...)"""
    values = singular_values.double().clamp_min(0)
    total = values.sum(-1, keepdim=True)
    shares = values / torch.where(total > 0, total, 1.0)
    rank = torch.special.entr(shares).sum(-1).exp()
    return torch.where(total.squeeze(-1) > 0, rank, 0.0)


def working_dtype(side: int) -> torch.dtype:
    """float64 for Gram matrices of up to SMALL_SIDE rows, where it costs next to nothing; float32 for larger ones."""
    return torch.float64 if side <= SMALL_SIDE else torch.float32


def product(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """rows @ othersᵀ, (m, n), (r, n) -> (m, r); float32 on a CPU through oneDNN, on some CPUs twice as fast as MKL."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.nn.functional.linear(rows.to_mkldnn(), others.contiguous()).to_dense()
    return rows @ others.mT


def safe_scale(matrix: torch.Tensor) -> float:
    """1, or where squares of the entries could overflow or vanish the power of two that brings the largest entry to about 1."""
    low, high = torch.aminmax(matrix)
    _, exponent = math.frexp(max(-low.item(), high.item()))
    if abs(exponent) <= SAFE_EXPONENT:
        return 1.0
    return 2.0 ** -max(exponent, -1000 if matrix.dtype == torch.float64 else -100)  # itself within the matrix's range


def scaled(part: torch.Tensor, dtype: torch.dtype, scale: float) -> torch.Tensor:
    """scale * part in `dtype`, where the unscaled part need not fit."""
    part = part.to(torch.promote_types(part.dtype, dtype))
    return (part if scale == 1 else part * scale).to(dtype)


def lower_gram(matrix: torch.Tensor, dtype: torch.dtype, scale: float) -> torch.Tensor:
    """scale² W Wᵀ in `dtype`, (m, n) -> (m, m); of the upper triangle only blocks on the diagonal are filled.

    Half of the products, over chunks of columns: less round-off than one sum over all, and no copy of a large W in `dtype`.
    """
    gram = matrix.new_zeros(len(matrix), len(matrix), dtype=dtype)
    for part in matrix.split(COLUMNS, 1):
        add_lower_gram(gram, scaled(part.contiguous(), dtype, scale))
    return gram


def add_lower_gram(gram: torch.Tensor, rows: torch.Tensor) -> None:
    """Add rows @ rowsᵀ to the lower triangle of `gram`, in place: two halves by themselves, and one against the other."""
    half = len(rows) // 2
    if len(rows) <= BLOCK or rows.is_cuda:
        gram += product(rows, rows)
        return
    add_lower_gram(gram[:half, :half], rows[:half])
    add_lower_gram(gram[half:, half:], rows[half:])
    gram[half:, :half] += product(rows[half:], rows[:half])


def folded(matrix: torch.Tensor, gain: torch.Tensor | None, centred: bool) -> torch.Tensor:
    """W diag(gain) (I - 11ᵀ/d): what W does to the raw stream behind a norm, up to its length; W itself without a norm.

    matrix (..., d), gain (d,) or None -> (..., d), in its dtype; `centred`: the norm subtracts the mean over the width.
    """
    if gain is None:
        return matrix
    scaled = matrix * gain.to(matrix)
    return scaled - scaled.mean(-1, keepdim=True) if centred else scaled


def gram(matrix: torch.Tensor) -> torch.Tensor:
    """Lower triangle of W Wᵀ at unit trace (zero stays zero), float32 for a large one. (d, n) -> (d, d)"""
    lower = lower_gram(matrix, working_dtype(len(matrix)), safe_scale(matrix)).tril_()
    return lower.div_(lower.trace().item() or 1)


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """Singular values, descending, float64, from the Gram matrix of the smaller side. (m, n) -> (min(m, n),)

    A large Gram matrix is formed and solved in float32 first; float64 follows where `rank_error` says that the effective rank
    could be off by more than RANK_ERROR. Squaring leaves an error of about sqrt(machine epsilon) on a zero singular value, and
    thousands of those would show in an effective rank: in float64, eigenvalues below the round-off of the largest are zero.
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    scale = safe_scale(matrix)
    if working_dtype(len(short)) == torch.float32:
        lower = lower_gram(short, torch.float32, scale)
        if short.shape[1] > ALMOST_SQUARE * len(short) or unevenness(lower) < UNEVEN:
            squares = eigenvalues(lower)
            if rank_error(squares, torch.float32) <= RANK_ERROR:
                return squares.sqrt() / scale
    squares = eigenvalues(lower_gram(short, torch.float64, scale))
    if rank_error(squares, torch.float64) > RANK_ERROR / 2:  # too steep to be squared; zeroing adds an error of its own
        return without_noise(torch.linalg.svdvals(matrix.double()))
    return without_noise(squares).sqrt() / scale


def without_noise(values: torch.Tensor) -> torch.Tensor:
    """Zeros for what is round-off of the largest: thousands of these would show in an effective rank. (n,) descending"""
    return torch.where(values > values[0] * len(values) * torch.finfo(torch.float64).eps, values, 0.0)


def eigenvalues(lower: torch.Tensor) -> torch.Tensor:
    """Of a Gram matrix, descending and not negative, as float64. (n, n) lower triangle -> (n,)

    On a CPU by scipy's LAPACK from the transpose, whose upper triangle it reduces a quarter faster than a lower one.
    """
    if lower.is_cuda:
        found = torch.linalg.eigvalsh(lower)
    else:
        upper = lower.mT.numpy()
        found = torch.from_numpy(
            scipy.linalg.eigh(upper, lower=False, eigvals_only=True, driver="ev", check_finite=False)
        )
    return found.double().flip(0).clamp_min(0)


def unevenness(lower: torch.Tensor) -> float:
    """n Σλ²/(Σλ)² without the eigenvalues λ: 1 where all are equal, 2 for a large square Gaussian matrix. (n, n) -> float"""
    diagonal = lower.diagonal().double()
    squares = 2 * lower.tril(-1).square().sum(1).double().sum() + diagonal.square().sum()
    return (len(lower) * squares / diagonal.sum().square()).nan_to_num().item()


def rank_error(squares: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bound on the relative error of the effective rank of σ = sqrt(squares), eigenvalues λ found in `dtype`. (..., n) -> (...)

    Each λ may be off by δ = ε (ABSOLUTE_ERROR λ_max + RELATIVE_ERROR n λ), so σ by min(sqrt(δ), δ/2σ), and with p = σ/Σσ the
    entropy H changes by |log p + H|/Σσ for a unit of σ. All errors are added as if they pulled the same way.
    """
    values = squares.sqrt()
    total = values.sum(-1, keepdim=True)
    largest, count = squares.amax(-1, keepdim=True), squares.shape[-1]
    uncertain = torch.finfo(dtype).eps * (ABSOLUTE_ERROR * largest + RELATIVE_ERROR * count * squares)
    changes = torch.minimum(uncertain.sqrt(), uncertain / (2 * values)) / total
    shares = values / total
    slopes = torch.maximum(shares, changes).log() + torch.special.entr(shares).sum(-1, keepdim=True)
    return torch.where(total.squeeze(-1) > 0, torch.expm1((slopes.abs() * changes).sum(-1)), 0.0)


def kernel_factors(layer, head_width: int, fold_norm: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-head W_Q (h, dh, d) and per-group W_K (g, dh, d) in float64; with `fold_norm` as the raw stream meets them.

    layer: as `lab.families` reads it. Folding multiplies columns by the norm's gain, and rows by the q_norm and k_norm
    gains where the model has them.
    """
    query, key = (part.double().unflatten(0, (-1, head_width)) for part in (layer.query, layer.key))
    if not fold_norm:
        return query, key
    query, key = (folded(part, layer.attention_gain, layer.centred) for part in (query, key))
    if layer.query_gain is not None:
        query = query * layer.query_gain.double().reshape(-1, head_width, 1)  # one gain for all heads, or one for each
        key = key * layer.key_gain.double().reshape(-1, head_width, 1)
    return query, key


def kernel_core(query: torch.Tensor, key_triangle: torch.Tensor) -> torch.Tensor:
    """R_K W_Q W_Qᵀ R_Kᵀ of every head, whose eigenvalues are the squares of the singular values of A = W_Qᵀ W_K.

    query (h, dh, d), key_triangle (g, r, dh) with R_Kᵀ R_K = W_K W_Kᵀ -> (h, r, r). W_Q enters by its small Gram matrix alone,
    so no factor of it is needed, of whatever rank it is.
    """
    grams = (query @ query.mT).unflatten(0, (len(key_triangle), -1))  # (g, h/g, dh, dh)
    return (key_triangle[:, None] @ grams @ key_triangle.mT[:, None]).flatten(0, 1)


def small_kernels(query: torch.Tensor, key_triangle: torch.Tensor) -> torch.Tensor:
    """R_Q R_Kᵀ of every head, with the singular values of A and no squares of them, by a QR of W_Qᵀ: (h, r, r).

    Arguments as for `kernel_core`.
    """
    _, query_triangle = torch.linalg.qr(query.mT, mode="r")  # (h, r, dh)
    return query_triangle @ key_triangle.mT.repeat_interleave(len(query) // len(key_triangle), 0)


def kernel_values(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Singular values of every head's kernel A = W_Qᵀ W_K, descending. query (h, dh, d), key (g, dh, d) -> (h, dh)

    From eigenvalues of `kernel_core`, unless their square roots would be too uncertain (heads of low rank).
    """
    _, key_triangle = torch.linalg.qr(key.mT, mode="r")  # (g, r, dh)
    squares = torch.linalg.eigvalsh(kernel_core(query, key_triangle)).flip(-1).clamp_min(0)
    values = squares.sqrt()
    if not (rank_error(squares, squares.dtype) <= KERNEL_ERROR).all():
        values = torch.linalg.svdvals(small_kernels(query, key_triangle))
    return torch.nn.functional.pad(values, (0, query.shape[1] - values.shape[1]))


def kernel_svd(query: torch.Tensor, key: torch.Tensor, k: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values and leading right vectors of every head's kernel A = W_Qᵀ W_K, without forming it.

    query (h, dh, d), key (g, dh, d) -> values (h, dh) descending, right vectors (h, k, d) as orthonormal rows; without k all
    min(dh, d) of them. As `kernel_values` has it; left vectors: swap the arguments (with key repeated per head).
    """
    key_basis, key_triangle = torch.linalg.qr(key.mT)  # (g, d, r), (g, r, dh)
    squares, vectors = torch.linalg.eigh(kernel_core(query, key_triangle))
    squares = squares.flip(-1).clamp_min(0)
    values, right = squares.sqrt(), vectors.flip(-1).mT  # (h, r, r)
    if not (rank_error(squares, squares.dtype) <= KERNEL_ERROR).all():
        _, values, right = torch.linalg.svd(small_kernels(query, key_triangle))
    rows = right[:, :k].unflatten(0, (len(key), -1)).flatten(1, 2) @ key_basis.mT  # (g, h/g * k, d)
    rows = rows.unflatten(1, (len(query) // len(key), -1)).flatten(0, 1)
    return torch.nn.functional.pad(values, (0, query.shape[1] - values.shape[1])), rows


def multi_head_subspace(head_subspaces: torch.Tensor, k: int) -> torch.Tensor:
    """The k directions that the heads' subspaces share most: top right singular vectors of their stack.

    (h, k', d) -> (k, d) float64, k <= k'; zeros where no head has a subspace. From the stack's small Gram matrix: its
    k-th eigenvalue is at least that of a single subspace, 1, so that squaring costs no accuracy.
    """
    stack = head_subspaces.flatten(0, 1).double()
    squares, left = torch.linalg.eigh(stack @ stack.mT)
    top, squares = left[:, -k:].flip(1), squares[-k:].flip(0)
    lengths = torch.where(squares > 0.5, squares, torch.inf).sqrt()  # zeros where no head has a subspace
    return top.mT @ stack / lengths[:, None]


def grassmann_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine of the principal angles, (1/k)‖V₁V₂ᵀ‖²; random expectation k/d. (..., k, d) twice -> (...)

    1 for a subspace and itself, 0 for orthogonal ones; the measure of Hu et al. 2021 (LoRA) for subspaces of one size.
    """
    return (first @ second.mT).square().sum((-2, -1)) / first.shape[-2]


def similarity_matrix(subspaces: torch.Tensor) -> torch.Tensor:
    """Grassmann similarity of all pairs from one product. (n, k, d) -> (n, n)"""
    count, k, _ = subspaces.shape
    rows = subspaces.flatten(0, 1)
    return (rows @ rows.T).square().view(count, k, count, k).sum((1, 3)) / k


def energy_share(matrix: torch.Tensor, subspaces: torch.Tensor) -> torch.Tensor:
    """‖W Vᵀ‖²/‖W‖² for each subspace; cheaper than a Gram matrix for fewer directions than d. -> (n,) float64

    matrix (m, d), subspaces (n, k, d). 0 for a zero matrix.
    """
    dtype, scale = working_dtype(matrix.shape[1]), safe_scale(matrix)
    rows = subspaces.flatten(0, 1).to(dtype)
    inside, total = rows.new_zeros(len(rows), dtype=torch.float64), rows.new_zeros((), dtype=torch.float64)
    for part in matrix.split(COLUMNS):
        part = scaled(part.contiguous(), dtype, scale)
        inside += product(rows, part).square().sum(1)
        total += part.square().sum()
    return inside.view(len(subspaces), -1).sum(1) / torch.where(total > 0, total, 1.0)


def gram_energy(lower: torch.Tensor, subspaces: torch.Tensor) -> torch.Tensor:
    """tr(V G Vᵀ) for each subspace: the share of energy inside where G has unit trace. -> (n,) float64

    lower (d, d) triangle of G, subspaces (n, k, d).
    """
    rows = subspaces.flatten(0, 1).to(lower.dtype)
    energy = 2 * lower_form(lower, rows) - rows.square() @ lower.diagonal()
    return energy.double().view(len(subspaces), -1).sum(1)


def lower_form(lower: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """vᵀ L v for each row v, half of the products as in `add_lower_gram`. (d, d), (n, d) -> (n,)"""
    half = len(lower) // 2
    if len(lower) <= BLOCK or rows.is_cuda:
        return (product(rows, lower) * rows).sum(1)
    first, second = rows[:, :half], rows[:, half:]
    across = (product(first, lower[half:, :half]) * second).sum(1)
    return lower_form(lower[:half, :half], first) + lower_form(lower[half:, half:], second) + across


def top_eigenvectors(lower: torch.Tensor, k: int) -> torch.Tensor:
    """The k leading eigenvectors as rows, float64: of a Gram matrix W Wᵀ the top left singular vectors of W. -> (k, d)

    lower (d, d) triangle.
    """
    if lower.is_cuda:
        return torch.linalg.eigh(lower)[1][:, -k:].flip(1).mT.double()
    width = len(lower)
    upper, last = lower.mT.numpy(), (width - k, width - 1)  # as in `eigenvalues`
    _, vectors = scipy.linalg.eigh(upper, lower=False, subset_by_index=last, check_finite=False)
    return torch.from_numpy(vectors[:, ::-1].T.copy()).double()


def project(x, basis):
    """The part of x inside the subspace. (..., d), orthonormal rows (k, d) or (m, k, d) -> (..., d); tensors or arrays."""
    return x @ basis.mT @ basis


def outside(x, basis):
    """The part of x orthogonal to the subspace. (..., d), orthonormal rows (k, d) or (m, k, d) -> (..., d)"""
    return x - project(x, basis)


def language_space(points: torch.Tensor) -> torch.Tensor:
    """M_s of arXiv 2505.15257: right singular vectors of the centred language means.

    (..., languages, problems, d) -> (..., languages - 1, d), rows orthonormal. The paper's code first finds the point
    that all means project to and subtracts that; with languages - 1 directions the span is the same.
    """
    means = points.mean(-2)
    _, _, right = torch.linalg.svd(means - means.mean(-2, keepdim=True), full_matrices=False)
    return right[..., : means.shape[-2] - 1, :]


def principal_subspace(points: torch.Tensor, k: int) -> torch.Tensor:
    """Top principal directions of all points, languages and problems alike. (languages, problems, d) -> (k, d)"""
    flat = points.flatten(0, 1)
    return torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:k]


def random_subspaces(generator: torch.Generator, count: int, k: int, d: int) -> torch.Tensor:
    """Haar-distributed subspaces, spans of Gaussian rows: (count, k, d), rows orthonormal, float64 on the CPU."""
    gaussian = torch.randn(count, d, k, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian)[0].mT


def matched_subspaces(generator: torch.Generator, count: int, k: int, centred: torch.Tensor) -> torch.Tensor:
    """Orthonormalised draws from N(0, Σ), Σ the covariance of centred vectors (n, d), shrunken by SHRINKAGE. -> (count, k, d)

    Shrunken toward a multiple of the identity, as by Ledoit & Wolf 2004 but to a fixed degree. Float64, of vectors on
    the CPU. The same generator gives different data the same Gaussian numbers: draws for two folds are then nearly the
    same subspace.
    """
    width = centred.shape[1]
    covariance = centred.double().T @ centred.double() / max(1, len(centred))
    even = SHRINKAGE * covariance.trace() / width
    covariance = (1 - SHRINKAGE) * covariance + even * torch.eye(width, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    gaussian = torch.randn(count, k, width, generator=generator, dtype=torch.float64)
    return torch.linalg.qr((gaussian @ root).mT)[0].mT
