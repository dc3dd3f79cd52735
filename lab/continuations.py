"""Free generation after a swap: what the model writes, read as text."""

from collections.abc import Callable, Sequence

import torch

import utils
from lab import designs, ladder, models, questions

RECIPIENTS = 6  # problems, each asked in every language
WHOSE = ("donor", "recipient")


def parts_of(basis: torch.Tensor, haar: torch.Tensor) -> dict[str, Callable]:
    """What swaps make of a change (n, d): all of it, its part in a subspace (k, d), outside, and in a random one."""
    return {
        "full": lambda change: change,
        "z": lambda change: utils.project(change, basis.to(change)),
        "complement": lambda change: utils.outside(change, basis.to(change)),
        "haar": lambda change: utils.project(change, haar.to(change)),
    }


def continuations(
    asker: ladder.Asker,
    problems: Sequence,
    design: designs.Design,
    streams: torch.Tensor,
    site: int,
    parts: dict,
    most: int,
    half: str,
) -> dict:
    """Whose answer in whose language greedy continuations give after swaps at the last prompt position: counts by swap.

    problems: of the rung; streams (languages, problems, d) of the patched ones at the site. Some problems of a half, each with
    one donor asked in the next language. parts: those of `parts_of`. `most`: new tokens. In the result's `swaps`, for
    `unpatched` and every part: {kind: how many outputs}, see `kind`.
    """
    names, donors, rows = asker.names, design.within(half, RECIPIENTS), []
    for language in range(len(names)):
        for recipient in donors.any(1).nonzero()[0].tolist():
            rows.append((language, recipient, (language + 1) % len(names), int(donors[recipient].argmax())))
    texts = [design.prompts[language][recipient] for language, recipient, *_ in rows]
    sent = [streams[asked, donor] for *_, asked, donor in rows]
    found = {"prompts": len(rows), "tokens": most, "swaps": {}}
    kinds = [f"{whose}_{where}" for whose in WHOSE for where in WHOSE] + ["other"]
    for swap, part in {"unpatched": None, **parts}.items():
        during = part and patched(asker.model, site, part, sent)
        outputs = models.generate(asker.model, asker.tokenizer, texts, most, asker.batch, during, last=True)
        told = [kind(asker, problems, design, row, output) for row, output in zip(rows, outputs)]
        found["swaps"][swap] = {name: told.count(name) for name in kinds}
    return found


def patched(model, site: int, part: Callable, sent: Sequence[torch.Tensor]):
    """For models.generate: the context in which a batch's last prompt positions change by a part of what was sent."""

    def during(chosen: Sequence[int]):
        def edit(stream: torch.Tensor) -> torch.Tensor:
            change = torch.stack([sent[index] for index in chosen])[:, None].to(stream) - stream
            return stream + part(change[:, 0].float())[:, None].to(stream)

        return models.edited_stream(model, {site: edit}, "last")

    return during


def kind(asker: ladder.Asker, problems: Sequence, design: designs.Design, row: tuple, output: str) -> str:
    """<whose answer>_<whose language> of an output, or other."""
    language, recipient, asked, donor = row
    spoken = {asker.names[asked]: "donor", asker.names[language]: "recipient"}
    for whose, place in zip(WHOSE, (donor, recipient)):
        problem = problems[design.scored[place]]
        if questions.grade(problem, output)[1]:
            where = spoken.get(questions.answer_language(output, problem, asker.languages))
            return f"{whose}_{where}" if where else "other"
    return "other"
