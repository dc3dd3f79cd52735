"""Edits of the stream behind many layers and at many positions: what becomes of the answer, of its language and of the text.

Prompts of one language are packed into one sequence: what they begin with once, then each one's own tokens, and below these the
beginnings of answers. The unedited pass is kept where edits begin, so that an edit costs only the layers above its first site; and
an edit of last positions only these and what hangs below them, beside the keys and values of all others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import logsumexp

import utils
from lab import answers, beginnings, engine, ladder, models, questions, room, runs

TEXTS = 16  # problems whose questions are read as text, evenly spaced: that takes the whole vocabulary
SCOPES = ("last", "prefill")  # the last position of every prompt; all of its positions


@dataclass(frozen=True)
class Edit:
    """h <- h - strength · part, the part inside the rows of `basis`, or in all that they leave out.

    That is the edit of arXiv 2505.15257 where the rows are its M_s. With `toward` the part is what lies beyond these
    coordinates, so that strength 1 puts them in its place; for what the rows leave out it is a whole vector of which
    strength 1 puts that part there.
    """

    basis: torch.Tensor  # (k, d) orthonormal rows, float32
    strength: float  # 1 removes the part, a negative strength enlarges it
    complement: bool = False
    toward: torch.Tensor | None = None  # (languages, k), or (languages, d) with `complement`

    def part(self, states: torch.Tensor, language: int = 0) -> torch.Tensor:
        """What is removed at strength 1: (..., d) float32"""
        basis = self.basis.to(states)
        if self.complement:
            return utils.outside(states if self.toward is None else states - self.toward[language].to(states), basis)
        if self.toward is None:
            return utils.project(states, basis)
        return (states @ basis.mT - self.toward[language].to(states)) @ basis

    def change(self, states: torch.Tensor, pack: "Pack", site: int) -> torch.Tensor:
        """What is taken away from a pack's states at a site: (n, d)"""
        return self.strength * self.part(states, pack.language)

    def of(self, stream: torch.Tensor) -> torch.Tensor:
        """The edited stream, (..., d) in its own dtype, for `models.edited_stream`."""
        whole = stream.float()
        return (whole - self.strength * self.part(whole)).to(stream)


@dataclass(frozen=True)
class Matched:
    """Takes as much away along other directions: at every place a vector as long as another edit's change there."""

    basis: torch.Tensor  # (k, d) orthonormal rows, float32
    lengths: dict  # (pack's number, site) -> (n,), as `Outcome.lengths` of the other edit

    def change(self, states: torch.Tensor, pack: "Pack", site: int) -> torch.Tensor:
        """What is taken away from a pack's states at a site: (n, d)"""
        part = utils.project(states, self.basis.to(states))
        unit = part / part.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(part.dtype).tiny)
        return self.lengths[pack.number, site][:, None] * unit


@dataclass
class Outcome:
    """What came of all prompts under an edit."""

    scores: np.ndarray  # (languages, problems, answers, languages) log-probabilities within the answer set
    text: np.ndarray  # (languages, questions read) nats that a token of the question costs
    mass: np.ndarray | None  # (languages, problems) probability of the answer set
    places: np.ndarray  # (problems,) each problem's right answer
    lengths: dict = field(default_factory=dict)  # (pack's number, site) -> (n,) of the change, of this process's packs

    @property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The most probable answer's place and language, (languages, problems) each."""
        return np.divmod(self.scores.reshape(*self.scores.shape[:2], -1).argmax(-1), self.scores.shape[-1])

    @property
    def right(self) -> np.ndarray:
        """Whether the most probable answer is the right one, in whichever language. (languages, problems)"""
        return self.best[0] == self.places

    @property
    def kept(self) -> np.ndarray:
        """Whether the most probable answer is in the language asked. (languages, problems)"""
        return self.best[1] == np.arange(len(self.scores))[:, None]

    @property
    def odds(self) -> np.ndarray:
        """Log-odds of the right answer, in whichever language, against all others. (languages, problems) nats"""
        scores = logsumexp(self.scores.astype(float), axis=-1)  # (languages, problems, answers)
        own = np.arange(scores.shape[-1]) == self.places[:, None]
        right, others = (logsumexp(np.where(chosen, scores, -np.inf), axis=-1) for chosen in (own[None], ~own[None]))
        return right - others


class Pack:
    """Prompts of one language in one sequence, run once; they can then be edited behind any layers, many times over.

    Every token sees its own prompt up to itself and no other prompt; answers hang below a prompt's last token as a tree, as in
    the patching engine. A layer is called as the model itself calls it, with another mask.
    """

    def __init__(self, model, rows: Sequence[list[int]], starts: Sequence[int], tree: engine.AnswerTree, language: int):
        """rows: the prompts' token ids; starts: where what is read as text begins in each, up to its end."""
        self.model, self.tree, self.language, self.number = model, tree, language, 0
        *self.layers, self.norm = models.site_modules(model)
        length = min(beginnings.common(rows[0], row) for row in rows)
        length = min(length, *(len(row) - 1 for row in rows))
        self.tokens, self.depths, self.paths, nodes = list(rows[0][:length]), list(range(length)), [], []
        for row in rows:
            first, last = len(self.tokens), len(self.tokens) + len(row) - length
            self.paths.append([*range(length), *range(first, last)])
            nodes.append([last - 1, *range(last, last + len(tree.tokens))])
            self.tokens += [*row[length:], *tree.tokens.tolist()]
            self.depths += [*range(length, len(row)), *(len(row) - 1 + tree.depth[1:]).tolist()]
        models.check_tokens(model, self.tokens)
        engine.check_length(model.config.get_text_config(), max(self.depths) + 1)
        self.nodes = torch.tensor(nodes, device=model.device)  # (prompts, m)
        self.places = {"last": self.nodes[:, 0], "prefill": torch.tensor(sorted(set(sum(self.paths, []))))}
        self.places = {scope: places.to(model.device) for scope, places in self.places.items()}
        pairs = [
            [(path[place - 1], row[place]) for place in range(max(1, start), len(row))]
            for row, path, start in zip(rows, self.paths, starts)
        ]
        self.text = pairs  # of each prompt: where a token of its question is told, and which it is
        self.passed = {"last": self.nodes.flatten(), "prefill": torch.arange(len(self.tokens), device=model.device)}
        self.own_texts = None  # what the unedited pass gives for them, once it was read

    @torch.no_grad()
    def run_unedited(self, sites: Sequence[int]) -> dict[int, torch.Tensor]:
        """The model's own pass: notes how it calls its layers, and keeps the stream at `sites` and at the last one. {site: (N, d)}"""
        windows, masks, self.calls = engine.windows(self.model.config), self.masks(), []
        decoder, self.cache = self.model.get_decoder(), NotedCache()

        def note(_, args: tuple, kwargs: dict):
            if len(args) != 1 or "attention_mask" not in kwargs:
                raise runs.UserError(engine.cannot_be_patched(self.model))
            window = windows[len(self.calls)]
            self.calls.append((window, {name: value for name, value in kwargs.items() if name != "attention_mask"}))
            return args, kwargs | {"attention_mask": masks[window]}

        hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        ids, depths = (torch.tensor([part], device=self.model.device) for part in (self.tokens, self.depths))
        try:
            with models.captured_sites(self.model, sorted({*sites, len(self.layers)})) as streams:
                mask, cache = next(iter(masks.values())), {beginnings.cache_argument(decoder): self.cache}
                decoder(input_ids=ids, attention_mask=mask, position_ids=depths, use_cache=True, **cache)
        finally:
            for hook in hooks:
                hook.remove()
        self.streams = {site: stream[0] for site, stream in streams.items()}
        self.seen = {"prefill": masks, "last": {window: self.beside_noted(mask) for window, mask in masks.items()}}
        return self.streams

    def beside_noted(self, mask: torch.Tensor) -> torch.Tensor:
        """What last positions and the nodes below them see: of what was noted all others, and themselves. -> (1, 1, S, N + S)"""
        rows = mask[:, :, self.passed["last"]]
        own, others = rows[..., self.passed["last"]], rows.clone()
        others[..., self.passed["last"]] = torch.finfo(mask.dtype).min
        return torch.cat([others, own], -1)

    def through(self, number: int, hidden: torch.Tensor, scope: str) -> torch.Tensor:
        """A layer on all tokens of a scope's pass, (1, n, d)."""
        window, call = self.calls[number]
        cache = engine.PrefixCache({number: self.cache.noted[number]} if scope == "last" else {})

        def handed(value):
            """What the layer was handed for all tokens, now for those passed."""
            if value is self.cache:
                return cache
            if isinstance(value, tuple):
                return tuple(map(handed, value))
            if isinstance(value, torch.Tensor) and value.shape[:2] == (1, len(self.tokens)):
                return value[:, self.passed[scope].to(value.device)]
            return value

        kwargs = {name: handed(value) for name, value in call.items()}
        hidden = self.layers[number](hidden, attention_mask=self.seen[scope][window], **kwargs)
        return hidden[0] if isinstance(hidden, tuple) else hidden

    def masks(self) -> dict[int | None, torch.Tensor]:
        """What every token sees, by the layer's window: (1, 1, N, N) to add to attention."""
        count, device = len(self.tokens), self.model.device
        seen = torch.zeros(count, count, dtype=torch.bool, device=device)
        for path, nodes in zip(self.paths, self.nodes):
            path = torch.tensor(path, device=device)
            seen[path[:, None], path] = torch.ones(len(path), len(path), dtype=torch.bool, device=device).tril()
            seen[nodes[1:, None], path] = True
            seen[nodes[1:, None], nodes] = self.tree.ancestors[1:]
        depths, masks = torch.tensor(self.depths, device=device), {}
        for window in dict.fromkeys(engine.windows(self.model.config)):
            near = seen if window is None else seen & (depths[:, None] - depths < window)
            mask = torch.zeros(near.shape, dtype=self.model.dtype, device=device)
            masks[window] = mask.masked_fill_(~near, torch.finfo(mask.dtype).min)[None, None]
        return masks

    @torch.no_grad()
    def run(self, edits: dict, scope: str, mass: bool = True) -> tuple[list[tuple], dict]:
        """(scores (columns,), mass, text) of every prompt under edits {site: edit}, and the lengths of their changes by site."""
        start, lengths = min(edits, default=len(self.layers)), {}
        passed = self.passed[scope]
        places = (passed[:, None] == self.places[scope]).any(1).nonzero()[:, 0]  # edited, among those passed
        hidden = self.streams[start][None, passed.to(self.streams[start].device)]
        for site in range(start, len(self.layers) + 1):
            if site in edits:
                states = hidden[0, places.to(hidden.device)].float()
                change = edits[site].change(states, self, site)
                lengths[self.number, site] = change.norm(dim=-1)
                hidden[0, places.to(hidden.device)] = (states - change).to(hidden)
            if site < len(self.layers):
                hidden = self.through(site, hidden, scope)
        whole = self.streams[len(self.layers)].to(self.model.device, copy=True)
        whole[passed] = hidden[0].to(whole)
        states = self.norm(whole[None])[0]
        if scope == "last":  # an edit behind the text leaves that as it is
            self.own_texts = self.own_texts or self.read_text(states)
        texts = self.own_texts if scope == "last" else self.read_text(states)
        return list(zip(*self.read_answers(states[self.nodes], mass), texts)), lengths

    def read_answers(self, states: torch.Tensor, mass: bool) -> tuple[np.ndarray, list]:
        """Of every prompt scores (columns,) and the mass of the set, None unless asked for, as it takes the whole vocabulary.

        states (prompts, m, d): normed final ones of all nodes.
        """
        tree, masses = self.tree, [None] * len(self.paths)
        logits = models.logits(self.model, states, tree.vocabulary).to(states.device)  # (prompts, m, v)
        if mass:
            normaliser, _ = self.over_vocabulary(states.flatten(0, 1), [])
            masses = tree.along(logits - normaliser.view(*states.shape[:2], 1).to(logits)).exp().sum(-1).tolist()
        return tree.along(logits.masked_fill(~tree.goes_on, -torch.inf).log_softmax(-1)).cpu().numpy(), masses

    def read_text(self, states: torch.Tensor) -> list[float | None]:
        """Nats per token of every prompt's question, None where that is not read; from normed final states (N, d)."""
        told = sorted({place for pairs in self.text for place, _ in pairs})
        wanted = sorted({token for pairs in self.text for _, token in pairs})
        row, column = ({value: place for place, value in enumerate(values)} for values in (told, wanted))
        normaliser, found = self.over_vocabulary(states[told], wanted)
        table = (found - normaliser[:, None]).numpy().astype(float)  # (told, wanted) log-probabilities
        return [
            -float(np.mean([table[row[place], column[token]] for place, token in pairs])) if pairs else None
            for pairs in self.text
        ]

    def over_vocabulary(self, states: torch.Tensor, wanted: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithm of what all logits' exponentials add up to (n,), and logits of some tokens (n, wanted); on the CPU."""
        chosen, found, normaliser = torch.tensor(wanted, dtype=torch.long, device=states.device), [], []
        for part in states.split(engine.HEAD_ROWS):
            whole = models.logits(self.model, part)
            normaliser.append(whole.logsumexp(-1).cpu())
            found.append(whole[:, chosen.to(whole.device)].cpu())
        return torch.cat(normaliser), torch.cat(found)


class NotedCache(engine.PrefixCache):
    """Keys and values of a pass, by layer, as they come."""

    def __init__(self):
        super().__init__({})
        self.noted = {}

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_, **__) -> tuple:
        """The same, and noted."""
        self.noted[layer] = keys, values
        return keys, values


class Packed:
    """Problems asked in every language, ready for edits; under `accelerate launch` each process has its share of the packs."""

    def __init__(
        self, asker: ladder.Asker, exemplars: list, problems: list, known: answers.AnswerSet, sites: Sequence[int]
    ):
        """`sites`: where edits may begin."""
        self.places = np.array([known.place(problem) for problem in problems])
        self.languages, self.sites = len(asker.names), list(sites)
        tree = engine.AnswerTree(known.tokens, asker.model.device)
        parts, read = [], set(room.spaced(range(len(problems)), TEXTS))
        for language in range(self.languages):
            for start in range(0, len(problems), 2 * asker.batch):  # without pads, and what they begin with once
                parts.append((language, list(range(start, min(start + 2 * asker.batch, len(problems))))))
        self.packs = []
        for number, (language, chosen) in list(runs.own_turns(list(enumerate(parts)))):
            name = asker.names[language]
            before = asker.tokenizer(questions.exemplar_text(name, asker.languages, exemplars))["input_ids"]
            texts = [questions.prompt_text(problems[place], name, asker.languages, exemplars) for place in chosen]
            rows = asker.tokenizer(texts)["input_ids"]
            starts = [beginnings.common(before, row) if exemplars else 0 for row in rows]
            starts = [start if place in read else len(row) for place, start, row in zip(chosen, starts, rows)]
            pack = Pack(asker.model, rows, starts, tree, language)
            pack.number, pack.prompts = number, [(language, place) for place in chosen]
            self.packs.append(pack)

    def unedited(self) -> Iterator[tuple[Pack, dict[int, torch.Tensor]]]:
        """Every pack's own pass, with its streams {site: (N, d)}; to be gone through before anything is asked."""
        for pack in self.packs:
            yield pack, pack.run_unedited(self.sites)

    def ask(self, edits: dict, scope: str = "prefill", mass: bool = True) -> Outcome:
        """What comes of all prompts under edits {site: edit}; in all processes. Without `mass` that is left out, for speed."""
        parts, lengths = {}, {}
        for pack in self.packs:
            found, own = pack.run(edits, scope, mass)
            parts |= dict(zip(pack.prompts, found))
            lengths |= own
        scores, masses, text = zip(*runs.gathered(parts).values())
        shape = (self.languages, len(self.places))
        scores = np.array(scores).reshape(*shape, -1, self.languages)
        told = np.array([value for value in text if value is not None]).reshape(self.languages, -1)
        whole = np.array(masses, float).reshape(shape) if mass else None
        return Outcome(scores, told, whole, self.places, lengths)


def mean_coordinates(packed: Packed, bases: torch.Tensor, sites: Sequence[int]) -> torch.Tensor:
    """Mean coordinates of the prompts' streams in every site's basis, by language: (L + 1, languages, r) float32.

    bases (L + 1, r, d); zeros at other sites than `sites`. Attention sinks are left out: one would be most of a mean.
    """
    sums = {}
    for pack, streams in packed.unedited():
        for site in sites:
            stream = streams[site][pack.places["prefill"]].float()
            inside = stream[~models.sinks(stream)] @ bases[site].to(stream).mT
            sums[pack.number, site] = (pack.language, inside.sum(0).cpu().double(), len(inside))
    means = torch.zeros(len(bases), packed.languages, bases.shape[1], dtype=torch.float64)
    counts = torch.zeros(len(bases), packed.languages, 1, dtype=torch.float64)
    for (_, site), (language, total, count) in runs.gathered(sums).items():
        means[site, language] += total
        counts[site, language] += count
    return (means / counts.clamp_min(1)).float()


def turned(bases: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Subspaces turned by one random rotation, so that they lie to each other as before. (sites, r, d) float32 -> the same

    Only the directions that they span need an image: as many of a random subspace.
    """
    flat = bases.flatten(0, 1).double()
    frame = torch.linalg.svd(flat, full_matrices=False)[2]
    (image,) = utils.random_subspaces(generator, 1, len(frame), flat.shape[1])
    return (flat @ frame.mT @ image).view(bases.shape).float()
