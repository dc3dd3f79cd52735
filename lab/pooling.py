"""One vector a prompt and site: the residual stream pooled over a question's tokens, exemplars and attention sinks left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab import models, questions, runs

POOLINGS = ("mean", "last")  # over the tokens that are no sinks; the last prompt position, which phase 3 patches
UPDATES = ("attention", "ffn")  # what a layer adds to the stream, in two parts
CLOUD_TOKENS, CLOUD_PROBLEMS = 24, 40  # evenly spaced tokens of a prompt, and problems, that ARD-MMD sees
COMMONEST = 5  # sinks that are named


@dataclass
class Pooled:
    """What is kept of the prompts."""

    vectors: np.ndarray  # (languages, problems, sites, poolings, d) float32; site s is the stream after s layers
    updates: (
        np.ndarray
    )  # (languages, problems, layers, UPDATES, d) float32, their mean over tokens; no layers if not asked
    clouds: dict[int, torch.Tensor]  # site -> (languages, problems, tokens, d)
    sinks: (
        dict  # prompts, factor, per_site: prompts with one there; commonest: position in the question, token, prompts
    )


def capture(
    model,
    tokenizer,
    asked: questions.Asked,
    sites: Sequence[int],
    batch: int,
    what: str,
    cloud_sites: Sequence[int] = (),
    updates: bool = False,
) -> Pooled:
    """Run every problem in every language once. UserError where an activation is not finite.

    A position is left out at all sites if it is a sink at one: so the mean is over the same tokens along depth, and what two
    sites differ by is the mean of what the layers between them add.
    """
    languages, problems = list(asked.languages), asked.problems
    prefixes = [questions.exemplar_text(name, asked.languages, asked.exemplars) for name in languages]
    begin = [
        len(tokenizer(prefix)["input_ids"]) for prefix in prefixes
    ]  # without exemplars what stands before any text
    pairs = [(name, problem) for name in languages for problem in problems]
    prompts = [questions.prompt_text(problem, name, asked.languages, asked.exemplars) for name, problem in pairs]
    skip = [begin[languages.index(name)] for name, _ in pairs]
    between = [site + 0.5 for site in list(sites)[:-1]] if updates else []
    everything, count = [*sites, *between], len(list(sites))
    found = {}  # prompt -> pooled vectors, updates, tokens for the cloud, sinks
    for index, ids, stream in models.residual_streams(model, tokenizer, prompts, everything, batch, skip, what):
        sink = models.sinks(stream)
        kept = ~sink.any(0) if not sink.any(0).all() else torch.ones_like(sink[0])
        means = stream[:, kept].mean(1)
        halves = torch.stack([means[count:] - means[: count - 1], means[1:count] - means[count:]], 1) if updates else []
        named = [(int(p), tokenizer.decode([int(ids[p])]), int(site)) for site, p in sink[:count].nonzero()]
        cloud = None
        if cloud_sites and index % len(problems) < CLOUD_PROBLEMS:
            places = models.spaced(kept, min(CLOUD_TOKENS, int(kept.sum())))
            cloud = stream[[everything.index(site) for site in cloud_sites]][:, places]
        vectors = torch.stack([means[:count], stream[:count, -1]], 1)
        found[index] = vectors, torch.as_tensor(halves), cloud, named
    vectors, halves, clouds, named = zip(*runs.gathered(found).values())
    if not all(torch.isfinite(part).all() for part in vectors):
        raise runs.UserError("activations are not finite: try --dtype float32")
    shape = (len(languages), len(problems))
    vectors, halves = (torch.stack(parts).unflatten(0, shape).numpy() for parts in (vectors, halves))
    clouds = in_one_cloud([cloud for cloud in clouds if cloud is not None], cloud_sites, len(languages))
    return Pooled(vectors, halves, clouds, sink_summary(named, count))


def in_one_cloud(clouds: list[torch.Tensor], sites: Sequence[int], languages: int) -> dict[int, torch.Tensor]:
    """Clouds of prompts (sites, tokens, d), as many tokens of each as the shortest has: {site: (languages, n, tokens, d)}."""
    if not clouds:
        return {}
    size = min(cloud.shape[1] for cloud in clouds)
    rows = [cloud[:, models.spaced(torch.ones(cloud.shape[1], dtype=torch.bool), size)] for cloud in clouds]
    stack = torch.stack(rows).unflatten(0, (languages, -1))
    return {site: stack[:, :, place] for place, site in enumerate(sites)}


def sink_summary(sinks: Sequence[list[tuple]], sites: int) -> dict:
    """Prompts with a sink per site, and the commonest (position, token) at any site."""
    per_site = [sum(any(site == place for *_, place in row) for row in sinks) for site in range(sites)]
    seen = Counter((position, token) for row in sinks for position, token in {(p, t) for p, t, _ in row})
    ordered = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST]
    common = [{"position": position, "token": token, "prompts": count} for (position, token), count in ordered]
    return {"prompts": len(sinks), "factor": models.SINK_FACTOR, "per_site": per_site, "commonest": common}
