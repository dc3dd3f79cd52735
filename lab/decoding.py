"""What can be read from points (languages, problems, d): the problem, the answer, the language; and how alike languages are.

Each reader is a nearest neighbour or a nearest mean in another language, so nothing is trained that could fit by itself.
"""

from itertools import combinations, permutations

import torch

from lab import statistics


def retrieved(points: torch.Tensor, order: torch.Tensor | None = None) -> torch.Tensor:
    """Whether a problem's nearest neighbour in another language is itself, mean over language pairs: (n,) or (draws, n).

    points (l, n, d). Each language's mean, taken without the problem at hand, is subtracted first. order (draws, n):
    permutations of the other language's problems, which give the chance level; it is not 1/n, since such means push the
    true match away.
    """
    problems, hits = points.shape[1], []
    points = points - points.mean(1, keepdim=True)
    share = 1 / (problems - 1)
    orders = torch.arange(problems)[None] if order is None else order
    for one, other in permutations(range(len(points)), 2):
        across, within = (points[one] @ points[other].T).cpu(), (points[other] @ points[other].T).cpu()
        # the query is x_i less its mean without i, and the candidates' mean without their i brought to its side
        products = (1 + share) * across - share * within[orders]  # (draws, n, n)
        nearest = (within.diagonal() - 2 * products).argmin(-1)
        hits.append((nearest == orders).double())
    hits = torch.stack(hits).mean(0)
    return hits[0] if order is None else hits


def language_decoded(points: torch.Tensor) -> torch.Tensor:
    """Whether a point is nearest to its own language's centroid, taken without its problem. (l, n, d) -> (n,)

    The mean over languages, a share.
    """
    languages, problems, _ = points.shape
    means, right = points.mean(1, keepdim=True), []
    without = means - (points - means) / (problems - 1)  # (l, n, d): each problem's centroids
    for own in range(languages):
        distances = (points[own] - without).norm(dim=-1)
        right.append((distances.argmin(0) == own).double())
    return torch.stack(right).mean(0)


def answers_decoded(points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | None:
    """Whether the nearest mean of the other language's answers is a problem's own, its own translation left out of that mean.

    points (l, n, d), labels (..., n) integers -> (...): the share right, over problems whose answer another one has too; None
    where there is none. Language means are removed first.
    """
    classes = torch.nn.functional.one_hot(labels).double()  # (..., n, c)
    sizes = classes.sum(-2)  # (..., c)
    own_size = (classes * sizes[..., None, :]).sum(-1)  # (..., n)
    judged = own_size > 1
    if not judged.any():
        return None
    points, right = points - points.mean(1, keepdim=True), []
    weights = classes.mT / sizes[..., None].clamp_min(1)  # (..., c, n): a row makes a mean
    for one, other in permutations(range(len(points)), 2):
        across, within = (points[one] @ points[other].T).cpu(), (points[other] @ points[other].T).cpu()
        reach = across @ weights.mT  # (..., n, c): inner product with every mean
        to_means = within @ weights.mT
        norms = (weights * to_means.mT).sum(-1)  # (..., c)
        distances = norms[..., None, :] - 2 * reach
        mine = classes.bool()
        size = own_size.clamp_min(2)
        mean_reach, mean_to, mean_norm = (
            (part * classes).sum(-1) for part in (reach, to_means, classes * norms[..., None, :])
        )
        product = (size * mean_reach - across.diagonal()) / (size - 1)
        norm = (size.square() * mean_norm - 2 * size * mean_to + within.diagonal()) / (size - 1).square()
        distances = torch.where(mine, (norm - 2 * product)[..., None], distances)
        distances = torch.where(sizes[..., None, :] > 0, distances, torch.inf)
        hit = (distances.argmin(-1) == labels) & judged
        right.append(hit.sum(-1) / judged.sum(-1))
    return torch.stack(right).mean(0)


def control_labels(labels: torch.Tensor, seed: int, draws: int) -> torch.Tensor:
    """Control tasks of Hewitt & Liang 2019: the answers change places among the problems. (n,) -> (draws, n)"""
    draw = statistics.seeded(seed, "phase2: control tasks")
    return labels[torch.rand(draws, len(labels), generator=draw).argsort(1)]


def linear_cka(points: torch.Tensor, orders: torch.Tensor | None = None) -> torch.Tensor:
    """Linear CKA of two languages (Kornblith et al. 2019), mean over their pairs; orders (draws, n) shuffle the second's problems.

    points (l, n, d) -> () or (draws,). 0 where a language's points are all the same.
    """
    points = points - points.mean(1, keepdim=True)
    grams = (points @ points.mT).cpu()
    shuffled, found = torch.arange(points.shape[1])[None] if orders is None else orders, []
    for one, other in combinations(range(len(points)), 2):
        lengths = (grams[one].norm() * grams[other].norm()).clamp_min(1e-300)
        moved = grams[other][shuffled[:, :, None], shuffled[:, None, :]]
        found.append((grams[one] * moved).sum((-2, -1)) / lengths)
    found = torch.stack(found).mean(0)
    return found[0] if orders is None else found
