"""Steps of distributed alignment search, as phase 3's --learned takes them, against pyvene's and a hooked pass, in one run.

A step takes recipients and donors, swaps the part of the last position's stream that lies in k learned directions, scores the
answers, and follows the gradient of -log p(target) back to these directions (Adam on an orthogonal parametrisation). All get
the same weights, prompts, pairs in a step, site and k. pyvene (LowRankRotatedSpaceIntervention) runs donors and recipients
whole; the hooked pass runs recipients whole and keeps the donors' streams; ours (lab/learned.py) runs one query token through
the layers above the site. Before anything is timed the three must give the same loss for the same directions and pairs.

pyvene is no requirement of the suite: install it in an environment of its own, after requirements.txt.
Run        python -m bench.learning [--model tiny | FOLDER | FILE.gguf] [--site 5] [--k 16] [--pairs 32] [--steps 5]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from bench import patching, peers
from lab import ladder, learned, models, runs, statistics, swaps

TOLERANCE = 2e-3  # of a mean log-probability in float32


class Task:
    """The model, its prompts as a left-padded batch, their streams at the site, and who gives to whom."""

    def __init__(self, arguments: argparse.Namespace):
        device = runs.choose_device("auto")
        found = patching.few_shot(arguments.model, device, arguments.prompts)
        self.model, self.tokenizer, self.prompts, self.answers = (
            found.model,
            found.tokenizer,
            found.prompts,
            found.answers,
        )
        layers = len(models.site_modules(self.model)) - 1
        self.site = arguments.site if arguments.site is not None else layers * 5 // 6
        self.inputs = models.padded_batch(self.tokenizer, self.prompts, device)
        with models.captured_sites(self.model, [self.site]) as streams, torch.no_grad():
            self.model(**self.inputs, use_cache=False)
        self.streams = streams[self.site][:, -1].clone()
        draw = statistics.seeded(0, "pairs")
        self.recipients = torch.arange(arguments.pairs) % len(self.prompts)
        self.donors = (self.recipients + torch.randint(1, len(self.prompts), (arguments.pairs,), generator=draw)) % len(
            self.prompts
        )
        self.targets = self.donors % len(self.answers)
        self.k, width = arguments.k, self.streams.shape[1]
        self.basis = torch.linalg.qr(torch.randn(width, self.k, generator=draw))[0].T.to(self.streams)

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Of the last position's logits (pairs, vocabulary)."""
        columns = torch.tensor(self.answers, device=logits.device)[:, 0]
        scores = logits[:, columns].float().log_softmax(-1)
        return -scores.gather(1, self.targets.to(scores.device)[:, None]).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--site", type=int, help="default: five sixths of the layers")
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=learned.PAIRS, help="in a step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task, losses, seconds = Task(arguments), {}, {}
    print(
        f"{arguments.model}: site {task.site}, k {task.k}, {arguments.pairs} pairs a step, {arguments.threads} thread(s)"
    )
    for name, way in {"ours": engine_step, "hooked pass": hooked_step, "pyvene": pyvene_step}.items():
        try:
            step = way(task)
            losses[name] = step()
            assert abs(losses[name] - losses["ours"]) < TOLERANCE, f"loss {losses[name]:.4f}, ours {losses['ours']:.4f}"
            seconds[name] = min(timed(step) for _ in range(arguments.steps))
        except ImportError as error:
            print(f"  {name}: not installed ({runs.first_line(error)})")
        except Exception as error:  # a library that does not know a model, or this transformers, raises any type
            print(f"  {name}: not timed, {type(error).__name__}: {runs.first_line(error)}")
    for name, taken in seconds.items():
        print(
            f"  {name}: {1000 * taken:.1f} ms a step, {taken / seconds['ours']:.1f} times ours; first loss {losses[name]:.4f}"
        )


def timed(step: Callable) -> float:
    start = time.monotonic()
    step()
    return time.monotonic() - start


def learner(task: Task) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Directions that begin at the task's basis, orthogonal by parametrisation, and what moves them."""
    frame = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(task.basis.shape[1], task.k, bias=False))
    frame.weight = task.basis.cpu()
    frame = frame.to(task.basis.device)
    return frame, torch.optim.Adam(frame.parameters(), learned.RATE)


def stepped(frame: torch.nn.Module, adam: torch.optim.Optimizer, loss_of: Callable) -> Callable[[], float]:
    """One step: the loss before it."""

    def step() -> float:
        loss = loss_of(frame.weight)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return step


def engine_step(task: Task) -> Callable[[], float]:
    """As learned.Search does it, with these pairs."""
    asker = ladder.Asker(task.model, task.tokenizer, {"en": {}}, len(task.prompts))
    everyone = ~np.eye(len(task.prompts), dtype=bool)
    search = learned.Search(asker, [task.prompts], task.answers, task.streams[None], everyone)
    places = [[(task.recipients == row).nonzero().flatten() for row in chosen] for chosen, _ in search.engines]

    def loss(basis: torch.Tensor) -> torch.Tensor:
        parts = []
        for (chosen, patcher), rows in zip(search.engines, places):
            pairs = torch.stack(rows)  # (rows of the engine, pairs of each)
            own = task.streams[chosen][:, None, None]
            changed = swaps.changes(own, task.streams[task.donors[pairs]][:, None], basis[None])[:, 0, 0]
            scores = patcher.scores(task.site, changed)
            parts.append(-scores.gather(2, task.targets[pairs][..., None]).flatten())
        return torch.cat(parts).mean()

    return stepped(*learner(task), loss)


def hooked_step(task: Task) -> Callable[[], float]:
    """The recipients' whole pass with a hook at the site; the donors' streams are kept."""
    inputs = {name: value[task.recipients] for name, value in task.inputs.items()}
    apart = task.streams[task.donors] - task.streams[task.recipients]
    reader = models.site_modules(task.model)[task.site]

    def loss(basis: torch.Tensor) -> torch.Tensor:
        def patch(_, args: tuple, kwargs: dict) -> tuple:
            stream = args[0] if args else kwargs["hidden_states"]
            last = stream[:, -1:] + (apart @ basis.T @ basis)[:, None]
            stream = torch.cat([stream[:, :-1], last], 1)
            return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": stream})

        hook = reader.register_forward_pre_hook(patch, with_kwargs=True)
        try:
            return task.loss(task.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1])
        finally:
            hook.remove()

    return stepped(*learner(task), loss)


def pyvene_step(task: Task) -> Callable[[], float]:
    """pyvene's own intervention for this: donors and recipients run whole in every step."""
    import pyvene as library

    layers = task.model.config.get_text_config().num_hidden_layers
    place = (task.site, "block_input") if task.site < layers else (task.site - 1, "block_output")
    wanted = {"layer": place[0], "component": place[1], "low_rank_dimension": task.k}
    wanted |= {"intervention_type": library.LowRankRotatedSpaceIntervention}
    wrapped = library.IntervenableModel(library.IntervenableConfig([wanted]), model=peers.own_modules(task.model))
    wrapped.set_device(str(task.streams.device))
    wrapped.disable_model_gradients()
    (intervention,) = (getattr(one, "intervention", one) for one in wrapped.interventions.values())
    intervention = intervention[0] if isinstance(intervention, list | tuple) else intervention
    intervention.rotate_layer.weight = task.basis.T
    adam = torch.optim.Adam(wrapped.get_trainable_parameters(), learned.RATE)
    base, source = (
        {name: value[rows] for name, value in task.inputs.items()} for rows in (task.recipients, task.donors)
    )
    last = task.inputs["input_ids"].shape[1] - 1

    def step() -> float:
        _, found = wrapped(base, [source], {"sources->base": (last, last)}, use_cache=False)
        loss = task.loss(found.logits[:, -1])
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
