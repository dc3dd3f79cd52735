"""The patching engine: a prompt is run once, and its last position's stream then replaced at any site, many times over."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from lab import beginnings, ending, models, runs

QUERIES_AT_ONCE = 256  # query tokens of a pass attend to one another in vain: longer passes cost more than they save
HEAD_ROWS = 256  # rows of logits in memory at once: 148 MiB in float32 at Qwen2.5's vocabulary
TOLERANCE = 1e-4  # between log-probabilities here and in the model's own pass, in float32
COARSE_TOLERANCE = (
    0.5  # in bfloat16, where real models differ from themselves by up to 0.3 when tokens are batched otherwise
)
CHECKED: WeakKeyDictionary = WeakKeyDictionary()  # model -> whether it was checked on a prompt beyond its window


class PatchedPrompts:
    """A batch of prompts, run once; the stream at their last position can then be replaced at any site, many times over.

    Attention is causal, so a replacement changes nothing at earlier positions. Their keys and values are computed once;
    a condition is then one query token in the last position's place, which sees the prompt and itself but no other
    condition, and passes only the layers above the site, the final norm and the answers' rows of the head. Answers of
    several tokens hang below it as a tree, in which shared beginnings are computed once; their streams below the site are
    those of the unpatched run. A layer is called as the model itself calls it, for more tokens at a time and with another
    mask; that this gives the model's own numbers is checked once for every model.

    engine = PatchedPrompts(model, tokenizer, prompts, answers)
    engine.scores(site, engine.streams[:, site, None] + change)
    """

    @torch.no_grad()
    def __init__(
        self,
        model,
        tokenizer,
        prompts: Sequence[str],
        answers: Sequence[Sequence[int]] = (),
        shared: beginnings.Beginnings | None = None,
        length: int = 0,
    ):
        """`answers`: the whole set that a prompt may be answered with, as token ids; none may begin another.

        `shared`: the keys and values of the first `length` tokens, which all prompts have in common. Raises UserError for a
        prompt that does not fit the model's positions or its embedding, for answers that cannot be told apart, and for a
        model that scores otherwise in its own pass.
        """
        inputs = models.padded_batch(tokenizer, prompts, model.device)
        ids, mask, positions = (inputs[name] for name in ("input_ids", "attention_mask", "position_ids"))
        models.check_tokens(model, [ids.max().item(), *(token for answer in answers for token in answer)])
        check_length(model.config.get_text_config(), ids.shape[1] + max(map(len, answers), default=0))
        check_once(model, tokenizer, prompts, ids, mask)
        self.model, (*self.layers, self.norm) = model, models.site_modules(model)
        self.windows = windows(model.config)
        self.prefix_mask, self.prefix_positions = mask[:, :-1].bool(), positions[:, :-1]
        given = shared.cache(ids, mask, length) if shared else None
        self.cache = prefix_cache(model, ids[:, :-1], mask[:, :-1], self.prefix_positions, given)
        self.tree = AnswerTree(answers, model.device)
        tokens = torch.cat([ids[:, -1:], self.tree.tokens.expand(len(ids), -1)], 1)
        self.positions = positions[:, -1:] + self.tree.depth  # (b, m)
        self.node_streams = self.node_pass(tokens)  # (b, sites, m, d)

    @property
    def streams(self) -> torch.Tensor:
        """The unpatched residual stream at the last position, (b, L + 1, d), in the model's dtype."""
        return self.node_streams[:, :, 0]

    def final_states(self, site: int, patched: torch.Tensor, rows: slice | list[int] = slice(None)) -> torch.Tensor:
        """Normed final stream of every node under every condition. patched (b, c, d) -> (b, c, m, d)"""
        nodes = self.node_streams[rows, site]
        hidden = nodes[:, None].repeat(1, patched.shape[1], 1, 1)
        hidden[:, :, 0] = patched.to(hidden)
        return self.norm(self.run(rows, site, hidden))

    def node_pass(self, tokens: torch.Tensor) -> torch.Tensor:
        """The model's own pass over the nodes (b, m): their stream at every site, (b, L + 1, m, d); notes its layers' calls."""
        masks, self.calls = self.masks(slice(None), 1), []

        def note(_, args: tuple, kwargs: dict):
            if len(args) != 1 or "attention_mask" not in kwargs:
                raise runs.UserError(cannot_be_patched(self.model))
            mask = masks[self.windows[len(self.calls)]]
            self.calls.append({name: value for name, value in kwargs.items() if name != "attention_mask"})
            return args, kwargs | {"attention_mask": mask}

        hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        decoder = self.model.get_decoder()
        cache = {beginnings.cache_argument(decoder): PrefixCache(self.cache)}
        try:
            with models.captured_sites(self.model, range(len(self.layers) + 1)) as streams:
                mask = next(iter(masks.values()))  # of this shape the model hands it on as it is
                decoder(input_ids=tokens, attention_mask=mask, position_ids=self.positions, use_cache=True, **cache)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([streams[site].to(self.model.device) for site in sorted(streams)], 1)

    def masks(self, rows: slice | list[int], copies: int) -> dict[int | None, torch.Tensor]:
        """What nodes under every condition see, by the layer's window: (b, 1, c * m, T - 1 + c * m) to add to attention."""
        dtype, device = self.model.dtype, self.positions.device
        apart = torch.eye(copies, dtype=torch.bool, device=device)[:, None, :, None]
        own = (apart & self.tree.ancestors[None, :, None, :]).flatten(2, 3).flatten(0, 1)
        queries = self.positions[rows].repeat(1, copies)
        before = self.prefix_mask[rows][:, None].expand(-1, queries.shape[1], -1)
        seen = torch.cat([before, own.expand(len(queries), -1, -1)], -1)
        distance = queries[:, :, None] - torch.cat([self.prefix_positions[rows], queries], 1)[:, None]
        masks = {}
        for window in dict.fromkeys(self.windows):
            hidden_from = ~(seen if window is None else seen & (distance < window))[:, None]
            mask = torch.zeros(hidden_from.shape, dtype=dtype, device=device)
            masks[window] = mask.masked_fill_(hidden_from, torch.finfo(dtype).min)
        return masks

    def run(self, rows: slice | list[int], site: int, hidden: torch.Tensor) -> torch.Tensor:
        """Nodes under conditions, (b, c, m, d), through the layers above the site."""
        copies, nodes = hidden.shape[1:3]
        cache = PrefixCache([(keys[rows], values[rows]) for keys, values in self.cache])
        masks, repeated = self.masks(rows, copies), {}  # layers share what they are handed

        def handed(value):
            """What a layer was handed for the nodes, now for all copies of them."""
            if isinstance(value, PrefixCache):
                return cache
            if isinstance(value, tuple):
                return tuple(map(handed, value))
            if not isinstance(value, torch.Tensor) or value.shape[:2] != self.positions.shape:
                return value
            if id(value) not in repeated:
                repeated[id(value)] = value[rows].repeat(1, copies, *[1] * (value.dim() - 2))
            return repeated[id(value)]

        hidden = hidden.flatten(1, 2)
        for layer, call, window in list(zip(self.layers, self.calls, self.windows))[site:]:
            kwargs = {name: handed(value) for name, value in call.items()}
            hidden = layer(hidden, attention_mask=masks[window], **kwargs)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden.to(self.model.device).unflatten(1, (copies, nodes))

    def scores(self, site: int, patched: torch.Tensor, rows: Sequence[int] | None = None) -> torch.Tensor:
        """Log-probability of every answer within the answer set, the last position's stream at the site replaced.

        patched (b, c, d), of all prompts or of those in `rows` -> (b, c, answers) float32 on the CPU, with gradients where
        `patched` wants them. At every node of the tree the probability is shared among the tokens that go on with an answer
        of the set, so that an answer's is 1 with no other beside it. Conditions are passed in pieces; a piece that does not
        fit into memory is halved, down to one condition of one prompt.
        """
        size = max(1, QUERIES_AT_ONCE // self.positions.shape[1])
        rows = list(range(len(patched))) if rows is None else list(rows)
        with torch.set_grad_enabled(patched.requires_grad):
            pieces = [self.scores_that_fit(rows, site, piece) for piece in patched.split(size, 1)]
            return torch.cat(pieces, 1)

    def scores_that_fit(self, rows: list[int], site: int, patched: torch.Tensor) -> torch.Tensor:
        """`scores` of some prompts, in halves where memory does not suffice."""
        chosen = (
            slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows
        )  # neighbours need no copy
        result = unless_out_of_memory(
            lambda: self.answer_scores(self.final_states(site, patched, chosen)).cpu(),
            last=patched.shape[:2] == (1, 1),
        )
        if result is not None:
            return result
        if patched.shape[1] > 1:
            half = patched.shape[1] // 2
            parts = [self.scores_that_fit(rows, site, part) for part in (patched[:, :half], patched[:, half:])]
            return torch.cat(parts, 1)
        middle = len(rows) // 2
        parts = [(rows[:middle], patched[:middle]), (rows[middle:], patched[middle:])]
        return torch.cat([self.scores_that_fit(half, site, part) for half, part in parts])

    def answer_scores(self, states: torch.Tensor) -> torch.Tensor:
        """Every answer's log-probability within the set. (..., m, d) -> (..., answers)"""
        logits = models.logits(self.model, states, self.tree.vocabulary).to(self.tree.goes_on.device)
        among = logits.masked_fill(~self.tree.goes_on, -torch.inf).log_softmax(-1)  # (..., m, tokens)
        return self.tree.along(among)

    @torch.no_grad()
    def masses(self) -> torch.Tensor:
        """Unpatched probability of the answer set in the whole vocabulary, (b,) float32 on the CPU.

        Of an answer those tokens count at which the set branches: they tell it from the others.
        """
        states = self.norm(self.node_streams[:, -1])
        normaliser = [models.logits(self.model, row).logsumexp(-1) for row in states.flatten(0, 1).split(HEAD_ROWS)]
        normaliser = torch.cat(normaliser).view(states.shape[:2])[..., None].to(self.tree.goes_on.device)
        logits = models.logits(self.model, states, self.tree.vocabulary).to(normaliser)
        return self.tree.along(logits - normaliser).exp().sum(-1).cpu()


class AnswerTree:
    """The answers of a set below a prompt's last token: every beginning that several share is one node.

    Node 0 is the prompt's last token; another is a beginning below which answers part. What follows an answer's last parting
    has probability 1 within the set and is not run.
    """

    def __init__(self, answers: Sequence[Sequence[int]], device):
        """ValueError where an answer is another's beginning, or the same."""
        children, answers = {}, list(map(tuple, answers))  # beginning -> the tokens with which an answer goes on
        for answer in answers:
            for length, token in enumerate(answer):
                children.setdefault(answer[:length], set()).add(token)
        if children.keys() & set(answers) or len(set(answers)) < len(answers):
            raise ValueError("answers begin one another: they cannot be told apart")
        parting = [start for start, tokens in children.items() if len(tokens) > 1]
        kept = {start[:length] for start in parting for length in range(len(start) + 1)} | {()}
        nodes = sorted(kept, key=lambda start: (len(start), start))
        vocabulary = sorted({token for start in parting for token in children[start]})
        column = {token: place for place, token in enumerate(vocabulary)}
        goes_on = [[start in parting and token in children[start] for token in vocabulary] for start in nodes]
        above = [[start[: len(other)] == other for other in nodes] for start in nodes]
        paths = [
            [number * len(vocabulary) + column[answer[len(start)]] for number, start in enumerate(nodes)
             if start in parting and answer[: len(start)] == start]
            for answer in answers
        ]  # fmt: skip
        longest, nothing = max(map(len, paths), default=0), len(nodes) * len(vocabulary)
        self.tokens = torch.tensor([start[-1] for start in nodes[1:]], dtype=torch.long, device=device)  # (m - 1,)
        self.depth = torch.tensor([len(start) for start in nodes], device=device)  # (m,)
        self.ancestors = torch.tensor(above, device=device)  # (m, m): what a node sees, itself and above
        self.vocabulary = torch.tensor(vocabulary, dtype=torch.long, device=device)  # (v,)
        self.goes_on = torch.tensor(goes_on, dtype=torch.bool, device=device).view(len(nodes), -1)  # (m, v)
        padded = [path + [nothing] * (longest - len(path)) for path in paths]
        self.paths = torch.tensor(padded, dtype=torch.long, device=device).view(len(answers), longest)

    def along(self, values: torch.Tensor) -> torch.Tensor:
        """Sum along each answer's path of what its tokens have at their nodes. (..., m, v) -> (..., answers)"""
        flat = torch.nn.functional.pad(values.flatten(-2), (0, 1))
        return flat[..., self.paths].sum(-1)


class PrefixCache:
    """Keys and values of the prompts as layers read them; the tokens of a pass leave no trace in it."""

    def __init__(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]] | dict[int, tuple]):
        self.layers = layers  # by their number

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_, **__) -> tuple:
        """The prompt's keys and values of a layer, then those of this pass."""
        if not self.layers:  # prompts of a single token
            return keys, values
        return tuple(torch.cat(pair, 2) for pair in zip(self.layers[layer], (keys, values)))


def check_once(model, tokenizer, prompts: Sequence, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """UserError for a model whose own pass gives other log-probabilities; asked once, and again where its window matters.

    How layers are called is in question, not what rounding, or a near tie among experts, does to a deep model: some layers
    of every kind, in float32. The longest prompt and the shortest, which is padded, are asked.
    """
    lengths = mask.sum(1).tolist()
    beyond = any(window and window < max(lengths) for window in windows(model.config))
    if model in CHECKED and CHECKED[model] >= beyond:
        return
    CHECKED[model] = True  # so that the engine that is checked is not
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    rows = [order[-1], order[0]]
    own = [ids[row][mask[row].bool()] for row in rows]
    first, last = own[0][0].item(), own[0][-1].item()
    answers = [(first, last, 0), (first, last, 1)]  # any will do
    try:
        with few_layers(model) as tolerance:
            patcher = PatchedPrompts(model, tokenizer, [prompts[row] for row in rows], answers)
            found = max(difference(patcher, row, tokens) for row, tokens in enumerate(own))
    except Exception as error:  # a layer that misses an argument, or gets one of another shape, raises any type
        if ending.no_memory(error) or isinstance(error, runs.UserError):
            raise
        raise runs.UserError(f"{cannot_be_patched(model)} ({runs.first_line(error)})") from None
    finally:
        del CHECKED[model]
    if found > tolerance:
        raise runs.UserError(
            f"{cannot_be_patched(model)} (log-probabilities differ from its own pass by {found:.2g}, allowed are {tolerance:g})"
        )
    CHECKED[model] = beyond


def cannot_be_patched(model) -> str:
    """What is said of a family, or a version of transformers, that calls its layers otherwise than is known here."""
    return f"{type(model).__name__} cannot be patched here: it calls its layers otherwise than lab/engine.py does"


@contextmanager
def few_layers(model) -> Iterator[float]:
    """The model with its first layers only, some of every kind, in float32; yields the tolerance that this allows.

    Parameters that wait on disk come in their own dtype, so that such a model stays in it.
    """
    decoder = model.get_decoder()
    layers, kinds = decoder.layers, list(map(kind, decoder.layers))
    decoder.layers = layers[: max(2, 1 + max(map(kinds.index, kinds)))]
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    exact = not any(parameter.is_meta for parameter, _ in parameters) or model.dtype == torch.float32
    try:
        if exact:
            for parameter, data in parameters:
                parameter.data = data.float()
        yield TOLERANCE if exact else COARSE_TOLERANCE
    finally:
        for parameter, data in parameters:
            parameter.data = data
        decoder.layers = layers


def kind(layer: torch.nn.Module) -> list[tuple]:
    """What a layer and its parts are, and how they are set; not which number they have."""
    found = []
    for part in layer.modules():
        settings = {name: value for name, value in vars(part).items() if isinstance(value, int | float | str)}
        settings.pop("layer_idx", None)
        found.append((type(part), settings))
    return found


@torch.no_grad()
def difference(patcher: PatchedPrompts, row: int, prompt: torch.Tensor) -> float:
    """Largest between log-probabilities here and in the model's own pass of one prompt, (T,) without pads.

    Of the answers' last tokens at every node, with the stream of site 0 at the last position as it is, and turned end to end.
    """
    own, tree = patcher.streams[row : row + 1, 0], patcher.tree
    vectors = torch.stack([own, own.flip(-1)], 1)
    states = patcher.final_states(0, vectors, slice(row, row + 1))[0]
    ours = models.logits(patcher.model, states).log_softmax(-1)
    whole = torch.cat([prompt, tree.tokens.to(prompt)]).repeat(2, 1)

    def patch(stream: torch.Tensor) -> None:
        stream[:, len(prompt) - 1] = vectors[0]

    with models.edited_stream(patcher.model, {0: patch}):
        theirs = patcher.model(input_ids=whole, use_cache=False, logits_to_keep=len(tree.depth)).logits
    apart = ours - theirs.to(ours).log_softmax(-1)
    return apart[..., tree.vocabulary.to(apart.device)].abs().max().item()


def prefix_cache(model, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache=None) -> list[tuple]:
    """Every layer's keys and values of the prompts without their last token, (b, T - 1) each; empty where nothing is left.

    `cache`: transformers' cache of the first columns, already run.
    """
    from transformers import DynamicCache

    decoder, given = model.get_decoder(), cache.get_seq_length() if cache else 0
    cache = cache or DynamicCache()  # one that knows no windows keeps all keys
    if ids.shape[1] > given:
        inputs = {"input_ids": ids[:, given:], "attention_mask": mask.long(), "position_ids": positions[:, given:]}
        decoder(**inputs, use_cache=True, **{beginnings.cache_argument(decoder): cache})
    return [(layer.keys, layer.values) for layer in cache.layers]


def windows(config) -> list[int | None]:
    """How many positions back each layer sees, itself included; None without a limit. As transformers' own caches have it."""
    from transformers import DynamicCache

    return [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]


def unless_out_of_memory(attempt: Callable, last: bool):
    """What `attempt` returns, or None if memory did not suffice; with `last` that error is passed on."""
    try:
        return attempt()
    except torch.OutOfMemoryError:
        if last:
            raise
    torch.cuda.empty_cache()  # only here has the failed attempt's memory been released
    return None


def check_length(config, length: int) -> None:
    """UserError if a prompt with its answer exceeds the model's positions."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit and length > limit:
        raise runs.UserError(f"a prompt of {length} tokens with its answer exceeds this model's positions of {limit}")


def patched_prompts(
    model,
    tokenizer,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    batch: int,
    everyone: bool = False,
    shared: beginnings.Beginnings | None = None,
) -> Iterator[tuple[list[int], PatchedPrompts]]:
    """(indices of a batch's prompts, their engine); prompts that begin alike come together, and their beginning runs once.

    A batch that does not fit into memory is halved. Under `accelerate launch` each process yields its share, unless everyone
    runs all of them; what is made of shares has to be `gathered`. `shared`: beginnings that earlier prompts had, for more.
    """
    shared, rows = shared or beginnings.Beginnings(model), tokenizer(list(prompts))["input_ids"] if prompts else []
    batches = beginnings.batches(rows, batch)
    waiting = (batches if everyone else list(runs.own_turns(batches)))[::-1]
    while waiting:
        chosen, length = waiting.pop()
        texts = [prompts[index] for index in chosen]
        engine = unless_out_of_memory(
            lambda texts=texts, length=length: PatchedPrompts(model, tokenizer, texts, answers, shared, length),
            last=len(chosen) == 1,
        )
        if engine is None:
            middle = len(chosen) // 2
            waiting += [(chosen[middle:], length), (chosen[:middle], length)]
        else:
            yield chosen, engine


def last_streams(model, tokenizer, prompts: Sequence[str], batch: int) -> torch.Tensor:
    """Unpatched streams at the last position of every prompt, (prompts, L + 1, d) float32 on the CPU; in all processes.

    Raises UserError where they are not finite.
    """
    parts = {}
    for chosen, patcher in patched_prompts(model, tokenizer, prompts, (), batch):
        parts |= dict(zip(chosen, patcher.streams.float().cpu()))
    streams = torch.stack(list(runs.gathered(parts).values()))
    if not torch.isfinite(streams).all():
        raise runs.UserError("activations are not finite: try --dtype float32")
    return streams
