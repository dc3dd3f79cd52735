"""A subspace learned by gradients: distributed alignment search (Geiger et al. 2024, arXiv 2303.02536).

What it finds was sought for its effect, so it is no ceiling and no discovery by itself: it counts on answers that it has not
seen, and beside a search for answers that nobody gave (a control task, Hewitt & Liang 2019).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lab import engine, runs, swaps

STEPS = 150
PAIRS = 32  # of a recipient and a donor, in a step
RATE = 0.02


class Search:
    """Problems that may give each other their streams at a site, ready for the search of a subspace whose swap does something."""

    def __init__(
        self, asker, prompts: Sequence[Sequence[str]], answers: Sequence, streams: torch.Tensor, donors: np.ndarray
    ):
        """prompts (languages, problems), `answers` the columns, streams (languages, problems, d) unpatched at the site.

        donors (recipients, donors) bool, of the same problems: who may give to whom, asked in any languages. Every process
        searches for itself, so that all find the same.
        """
        self.streams, self.donors, self.problems = streams, donors, len(donors)
        able = [
            language * self.problems + int(one)
            for language in range(len(prompts))
            for one in np.flatnonzero(donors.any(1))
        ]
        texts = [prompts[index // self.problems][index % self.problems] for index in able]
        engines = engine.patched_prompts(asker.model, asker.tokenizer, texts, answers, asker.batch, everyone=True)
        self.engines = [([able[place] for place in chosen], patcher) for chosen, patcher in engines]

    def subspace(
        self, site: int, k: int, inside: torch.Tensor, target: Callable[[int, int], int], generator: torch.Generator
    ) -> torch.Tensor:
        """Orthonormal rows (k, d) within a subspace, whose swap makes the target the most probable: by Adam on -log p.

        inside (c, d): where the rows lie; k is at most c. target(donor, recipient's language): the column that a swap
        should bring. Float64 on the CPU, alike in all processes.
        """
        k, inside = min(k, len(inside)), inside.to(self.streams)
        with torch.random.fork_rng(devices=[]):  # the parametrisation draws from torch's own generator
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            frame = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(len(inside), k, bias=False))
            frame.weight = torch.linalg.qr(torch.randn(len(inside), k))[0].T
        frame = frame.to(inside.device)
        adam = torch.optim.Adam(frame.parameters(), RATE)
        for _ in range(STEPS):
            loss = self.loss(site, frame.weight @ inside, target, generator)
            adam.zero_grad()
            loss.backward()
            adam.step()
        found = torch.linalg.qr((frame.weight @ inside).detach().double().cpu().mT)[0].mT
        return next(iter(runs.gathered({runs.processes()[0]: found}).values()))  # equal but for a GPU's rounding

    def loss(self, site: int, basis: torch.Tensor, target: Callable, generator: torch.Generator) -> torch.Tensor:
        """Mean of -log p(target) over random donors of the recipients of one engine, drawn at random."""

        def drawn(high: int, shape: tuple) -> torch.Tensor:
            return torch.randint(high, shape, generator=generator)

        chosen, patcher = self.engines[int(drawn(len(self.engines), ()))]
        tongues, recipients = np.divmod(chosen, self.problems)
        each = max(1, PAIRS // len(chosen))
        possible = [np.flatnonzero(self.donors[recipient]) for recipient in recipients]
        given = torch.stack([torch.as_tensor(some)[drawn(len(some), (each,))] for some in possible])  # (rows, each)
        sent = self.streams[drawn(len(self.streams), given.shape), given]
        own = patcher.streams[:, site].to(sent)
        changed = swaps.changes(own[:, None, None], sent[:, None], basis[None])[:, 0, 0]
        columns = [[target(int(donor), int(tongue)) for donor in row] for row, tongue in zip(given, tongues)]
        return -patcher.scores(site, changed).gather(2, torch.tensor(columns)[..., None]).mean()
