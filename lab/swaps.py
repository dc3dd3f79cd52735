"""Swaps: a donor's stream, or its part inside or outside of subspaces, in place of the recipient's, for many pairs at once."""

from collections.abc import Sequence

import numpy as np
import torch

import utils
from lab import engine, runs


class Patching:
    """Problems asked in every language, ready for each other's streams at the last prompt position.

    Recipients and donors are the same problems, in one order.
    """

    def __init__(
        self,
        model,
        tokenizer,
        prompts: Sequence[Sequence[str]],
        answers: Sequence[tuple],
        batch: int,
        groups: Sequence[np.ndarray],
    ):
        """prompts (languages, problems); `answers`: the columns of the answer set, as token ids (see lab/answers.py).

        `groups` part the problems: those that are swapped without the others run without them.
        """
        self.languages, self.problems, self.columns = len(prompts), len(prompts[0]), len(answers)
        self.engines, parts, masses = [], {}, {}
        for group in groups:
            flat = [language * self.problems + int(problem) for language in range(self.languages) for problem in group]
            texts = [prompts[index // self.problems][index % self.problems] for index in flat]
            engines = engine.patched_prompts(model, tokenizer, texts, answers, batch)
            self.engines += [([flat[place] for place in chosen], patcher) for chosen, patcher in engines]
        for chosen, patcher in self.engines:
            parts |= dict(zip(chosen, patcher.streams.float().cpu()))
            masses |= dict(zip(chosen, patcher.masses().tolist()))
        streams = torch.stack(list(runs.gathered(parts).values())).to(model.device)
        self.streams = streams.unflatten(0, (self.languages, self.problems))  # (languages, problems, L + 1, d)
        self.mass = float(np.mean(list(runs.gathered(masses).values())))  # of the answer set, unpatched

    def scores(
        self,
        site: int,
        donors: np.ndarray,
        bases: torch.Tensor | None = None,
        outside: bool = False,
        onto: torch.Tensor | None = None,
        given: torch.Tensor | None = None,
    ) -> np.ndarray:
        """Log-probabilities of the answer set with donors' parts inside (or outside of) every subspace, or their whole streams.

        donors (recipients, donors) bool; bases (m, k, d) orthonormal rows -> (m, b, R, a, N, columns) float32, recipient r
        asked in language b, donor i in language a; without bases (1, ...) of the full swap. `onto` (c, d): of what a swap
        would change only the part in that subspace is changed. `given` (a, N, d): other donors' streams at the site than
        those of the same problems. NaN where there is no donor.
        """
        count, given = 1 if bases is None else len(bases), self.streams[:, :, site] if given is None else given
        shape = (self.languages, self.problems, count, *given.shape[:2], self.columns)
        found, parts = np.full(shape, np.nan, np.float32), {}
        for chosen, patcher in self.engines:
            senders = [np.flatnonzero(donors[index % self.problems]).tolist() for index in chosen]
            rows = [row for row, some in enumerate(senders) if some]
            if not rows:
                continue
            chosen, senders = [chosen[row] for row in rows], [senders[row] for row in rows]
            most, own = max(map(len, senders)), patcher.streams[rows, site].float()
            filled = torch.tensor([[*row, *[0] * (most - len(row))] for row in senders], device=own.device)
            sent = given.to(own)[:, filled].transpose(0, 1)  # (rows, languages, most, d)
            changed = changes(own[:, None, None], sent, bases, outside, onto)  # (rows, m, languages, most, d)
            scores = patcher.scores(site, changed.flatten(1, 3), rows).unflatten(1, changed.shape[1:4])
            parts |= {index: scores[row, :, :, : len(senders[row])].numpy() for row, index in enumerate(chosen)}
        for index, scores in runs.gathered(parts).items():
            language, problem = divmod(index, self.problems)
            found[language, problem][:, :, donors[problem]] = scores
        return found.transpose(2, 0, 1, 3, 4, 5)

    def unpatched(self, site: int) -> np.ndarray:
        """The same without a swap, run from a site: (languages, problems, columns)."""
        own = self.scores(site, np.eye(self.problems, dtype=bool))[0]
        languages, problems = np.arange(self.languages)[:, None], np.arange(self.problems)
        return own[languages, problems, languages, problems]


def changes(
    own: torch.Tensor,
    sent: torch.Tensor,
    bases: torch.Tensor | None,
    outside: bool = False,
    onto: torch.Tensor | None = None,
) -> torch.Tensor:
    """Recipients' streams with the donors' parts: own (rows, 1, 1, d), sent (rows, a, i, d) -> (rows, m, a, i, d)

    bases (m, k, d) and `onto` (c, d) as `Patching.scores` has them. Without both, what was sent itself, so that a
    donor's own stream changes no bit.
    """
    if bases is None and onto is None:
        return sent[:, None]
    change = (sent - own)[:, None]
    if bases is not None:
        parts = utils.project(change.flatten(2, 3), bases.to(sent)).unflatten(2, sent.shape[1:3])
        change = change - parts if outside else parts
    return own[:, None] + (change if onto is None else utils.project(change, onto.to(sent)))


def within_languages(streams: torch.Tensor) -> torch.Tensor:
    """Streams less their language's mean: (languages, problems, d) -> (languages * problems, d) float64"""
    return (streams - streams.mean(1, keepdim=True)).flatten(0, 1).double()


def participation_ratio(centred: torch.Tensor) -> float:
    """(sum of λ)² / sum of λ² over the covariance's eigenvalues λ: how many directions the vectors (n, d) use evenly.

    The measure of Gao et al. 2017, of vectors that are centred already.
    """
    squares = torch.linalg.svdvals(centred).square()
    return float(squares.sum().square() / squares.square().sum().clamp_min(1e-300))


def answer_means(streams: torch.Tensor, answers: Sequence[int], k: int) -> torch.Tensor:
    """Principal directions of the answers' mean streams, each language's mean removed. (languages, problems, d) -> (k', d)

    k' = min(k, different answers - 1): so many directions do the means of that many answers span.
    """
    centred = (streams - streams.mean(1, keepdim=True)).mean(0).double()
    groups = torch.as_tensor(answers)
    means = torch.stack([centred[groups == answer].mean(0) for answer in groups.unique()])
    size = min(k, len(means) - 1)
    return torch.linalg.svd(means - means.mean(0), full_matrices=False)[2][:size]


def halves(answers: Sequence[int], generator: torch.Generator) -> np.ndarray:
    """Which problems (n,) are the development half: half of the different answers at random, with all their problems."""
    distinct = sorted(set(answers))
    order = torch.randperm(len(distinct), generator=generator).tolist()
    development = {distinct[place] for place in order[: len(distinct) // 2]}
    return np.array([answer in development for answer in answers])
