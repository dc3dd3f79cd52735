"""Geometry of the hunt: effective ranks, attention kernels, subspaces, projectors and their similarity. Pure: tensors in, tensors out.

Conventions. A subspace is a matrix of orthonormal rows, (k, d). A weight matrix is stored as PyTorch's Linear has it,
(out, in), so its *right* singular vectors live on the side of the residual stream that it reads. The residual stream at
site s is the stream after s layers; `L33.in` is site 33, `L33.out` is site 34. Geometry is float64 inside.
Letters: L layers, d width, h query heads, g KV groups, dh head width.
"""

import torch

SHRINKAGE = 0.1  # share of a covariance that is spread evenly, where there are fewer vectors than dimensions


def effective_rank(singular_values: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of σ/Σσ over the last axis (Roy & Vetterli 2007); 0 for a zero matrix. (..., n) -> (...)"""
    values = singular_values.double().clamp_min(0)
    total = values.sum(-1, keepdim=True)
    shares = values / torch.where(total > 0, total, 1.0)
    rank = torch.special.entr(shares).sum(-1).exp()
    return torch.where(total.squeeze(-1) > 0, rank, 0.0)


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """Singular values, descending, from the Gram matrix of the smaller side in float64. (m, n) -> (min(m, n),)

    Squaring leaves an error of about sqrt(machine epsilon) on a zero singular value, and thousands of those would show
    in an effective rank: eigenvalues below the round-off of the largest are set to zero.
    """
    matrix = matrix.double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    eigenvalues = torch.linalg.eigvalsh(gram).flip(0)
    noise = eigenvalues[0].clamp_min(0) * len(gram) * torch.finfo(torch.float64).eps
    return torch.where(eigenvalues > noise, eigenvalues, 0.0).sqrt()


def kernel_factors(layer, head_width: int, fold_norm: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-head W_Q (h, dh, d) and per-group W_K (g, dh, d) in float64; with `fold_norm` as the raw stream meets them.

    Folding multiplies columns by the RMSNorm gain, and rows by the q_norm and k_norm gains where the model has them.
    """
    query = layer.query.double().unflatten(0, (-1, head_width))
    key = layer.key.double().unflatten(0, (-1, head_width))
    if fold_norm:
        query, key = query * layer.attention_gain.double(), key * layer.attention_gain.double()
        if layer.query_gain is not None:
            query = query * layer.query_gain.double()[:, None]
            key = key * layer.key_gain.double()[:, None]
    return query, key


def kernel_svd(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SVD of every head's kernel A = W_Qᵀ W_K without forming it: QR of both factors, SVD of the small core.

    query (h, dh, d), key (g, dh, d) -> singular values (h, dh) descending, right singular vectors (h, r, d) as rows,
    r = min(dh, d). Left vectors: swap the arguments (with key repeated per head).
    """
    repeats = query.shape[0] // key.shape[0]
    _, query_triangle = torch.linalg.qr(query.mT, mode="r")  # (h, r, dh)
    key_basis, key_triangle = torch.linalg.qr(key.mT)  # (g, d, r), (g, r, dh)
    core = query_triangle @ key_triangle.repeat_interleave(repeats, 0).mT  # (h, r, r)
    _, values, right = torch.linalg.svd(core)
    vectors = right @ key_basis.repeat_interleave(repeats, 0).mT  # (h, r, d)
    return torch.nn.functional.pad(values, (0, query.shape[1] - values.shape[1])), vectors


def multi_head_subspace(head_subspaces: torch.Tensor, k: int) -> torch.Tensor:
    """The k directions that the heads' subspaces share most: top right singular vectors of their stack.

    (h, k', d) -> (k, d)
    """
    stack = head_subspaces.flatten(0, 1).double()
    _, _, right = torch.linalg.svd(stack, full_matrices=False)
    return right[:k]


def grassmann_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine of the principal angles, (1/k)‖V₁V₂ᵀ‖²; random expectation k/d. (..., k, d) twice -> (...)"""
    return (first @ second.mT).square().sum((-2, -1)) / first.shape[-2]


def similarity_matrix(subspaces: torch.Tensor) -> torch.Tensor:
    """Grassmann similarity of all pairs from one product. (n, k, d) -> (n, n)"""
    count, k, _ = subspaces.shape
    rows = subspaces.flatten(0, 1)
    return (rows @ rows.T).square().view(count, k, count, k).sum((1, 3)) / k


def project(x, basis):
    """The part of x inside the subspace. (..., d), orthonormal rows (k, d) or (m, k, d) -> (..., d); tensors or arrays."""
    return x @ basis.mT @ basis


def outside(x, basis):
    """The part of x orthogonal to the subspace. (..., d), orthonormal rows (k, d) or (m, k, d) -> (..., d)"""
    return x - project(x, basis)


def language_space(points: torch.Tensor) -> torch.Tensor:
    """M_s of arXiv 2505.15257: right singular vectors of the centred language means.

    (..., languages, problems, d) -> (..., languages - 1, d). The paper's code first finds the point that all means project
    to and subtracts that; with languages - 1 directions the span is the same.
    """
    means = points.mean(-2)
    _, _, right = torch.linalg.svd(means - means.mean(-2, keepdim=True), full_matrices=False)
    return right[..., : means.shape[-2] - 1, :]


def principal_subspace(points: torch.Tensor, k: int) -> torch.Tensor:
    """Top principal directions of all points, languages and problems alike. (languages, problems, d) -> (k, d)"""
    flat = points.flatten(0, 1)
    return torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:k]


def random_subspaces(generator: torch.Generator, count: int, k: int, d: int) -> torch.Tensor:
    """Haar-distributed subspaces, (count, k, d) with orthonormal rows, float64."""
    gaussian = torch.randn(count, d, k, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian)[0].mT


def matched_subspaces(generator: torch.Generator, count: int, k: int, centred: torch.Tensor) -> torch.Tensor:
    """Orthonormalised draws from N(0, Σ), Σ the covariance of centred vectors (n, d), shrunken by SHRINKAGE. -> (count, k, d)

    The same generator gives different data the same Gaussian numbers: draws for two folds are then nearly the same subspace.
    """
    width = centred.shape[1]
    covariance = centred.double().T @ centred.double() / max(1, len(centred))
    even = SHRINKAGE * covariance.trace() / width
    covariance = (1 - SHRINKAGE) * covariance + even * torch.eye(width, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    gaussian = torch.randn(count, k, width, generator=generator, dtype=torch.float64)
    return torch.linalg.qr((gaussian @ root).mT)[0].mT
