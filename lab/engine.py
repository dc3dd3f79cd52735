"""The patching engine: a prompt is run once, and its last position's stream then replaced at any site, many times over."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from lab import models, runs

QUERIES_AT_ONCE = 128  # query tokens of a pass attend to one another in vain: longer passes cost more than they save
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
    condition, and passes only the layers above the site, the final norm and the head. Candidate answers of several
    tokens hang below it as a tree, in which shared beginnings are computed once; their streams below the site are those
    of the unpatched run. A layer is called as the model itself calls it, for more tokens at a time and with another mask;
    that this gives the model's own numbers is checked once for every model.

    engine = PatchedPrompts(model, tokenizer, prompts, candidates)
    engine.scores(site, engine.streams[:, site, None] + change)
    """

    @torch.inference_mode()
    def __init__(self, model, tokenizer, prompts: Sequence[str], candidates: Sequence[Sequence[Sequence[int]]] = ()):
        """`candidates`: for every prompt the same number of answers, each a sequence of token ids.

        Raises UserError for a prompt that does not fit the model's positions or its embedding, and for a model that scores
        otherwise in its own pass.
        """
        inputs = models.padded_batch(tokenizer, prompts, model.device)
        ids, mask, positions = (inputs[name] for name in ("input_ids", "attention_mask", "position_ids"))
        answers = candidates or [()] * len(ids)
        given = [answer for own in answers for answer in own]
        models.check_tokens(model, [ids.max().item(), *(token for answer in given for token in answer)])
        check_length(model.config.get_text_config(), ids.shape[1] + max(map(len, given), default=0))
        check_once(model, tokenizer, prompts, ids, mask)
        self.model, (*self.layers, self.norm) = model, models.site_modules(model)
        self.windows = windows(model.config)
        self.prefix_mask, self.prefix_positions = mask[:, :-1].bool(), positions[:, :-1]
        self.cache = prefix_cache(model, ids[:, :-1], mask[:, :-1], self.prefix_positions)
        trees = [token_tree(int(row[-1]), own) for row, own in zip(ids, answers)]
        self.paths = [paths for _, _, paths in trees]
        tokens, depth, self.ancestors = (part.to(model.device) for part in stacked_trees(trees))
        self.positions = positions[:, -1:] + depth  # (b, m)
        self.node_streams = self.node_pass(tokens)  # (b, sites, m, d)

    @property
    def streams(self) -> torch.Tensor:
        """The unpatched residual stream at the last position, (b, L + 1, d), in the model's dtype."""
        return self.node_streams[:, :, 0]

    def final_states(self, site: int, patched: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
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
        cache = {cache_argument(decoder): PrefixCache(self.cache)}
        try:
            with models.captured_sites(self.model, range(len(self.layers) + 1)) as streams:
                mask = next(iter(masks.values()))  # of this shape the model hands it on as it is
                decoder(input_ids=tokens, attention_mask=mask, position_ids=self.positions, use_cache=True, **cache)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([streams[site].to(self.model.device) for site in sorted(streams)], 1)

    def masks(self, rows: slice, copies: int) -> dict[int | None, torch.Tensor]:
        """What nodes under every condition see, by the layer's window: (b, 1, c * m, T - 1 + c * m) to add to attention."""
        dtype, device = self.model.dtype, self.positions.device
        apart = torch.eye(copies, dtype=torch.bool, device=device)[None, :, None, :, None]
        own = (apart & self.ancestors[rows][:, None, :, None, :]).flatten(3, 4).flatten(1, 2)
        queries = self.positions[rows].repeat(1, copies)
        before = self.prefix_mask[rows][:, None].expand(-1, queries.shape[1], -1)
        seen = torch.cat([before, own], -1)
        distance = queries[:, :, None] - torch.cat([self.prefix_positions[rows], queries], 1)[:, None]
        masks = {}
        for window in dict.fromkeys(self.windows):
            hidden_from = ~(seen if window is None else seen & (distance < window))[:, None]
            mask = torch.zeros(hidden_from.shape, dtype=dtype, device=device)
            masks[window] = mask.masked_fill_(hidden_from, torch.finfo(dtype).min)
        return masks

    def run(self, rows: slice, site: int, hidden: torch.Tensor) -> torch.Tensor:
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

    @torch.inference_mode()
    def scores(self, site: int, patched: torch.Tensor) -> torch.Tensor:
        """Log-probability of every candidate with the last position's stream at the site replaced.

        patched (b, c, d) -> (b, c, candidates) float32 on the CPU. Conditions are passed in pieces; a piece that does not
        fit into memory is halved, down to one condition of one prompt.
        """
        size = max(1, QUERIES_AT_ONCE // self.positions.shape[1])
        pieces = [self.scores_that_fit(slice(0, len(patched)), site, piece) for piece in patched.split(size, 1)]
        return torch.cat(pieces, 1)

    def scores_that_fit(self, rows: slice, site: int, patched: torch.Tensor) -> torch.Tensor:
        """`scores` of some prompts, in halves where memory does not suffice."""
        result = unless_out_of_memory(
            lambda: self.candidate_scores(rows, self.final_states(site, patched, rows)),
            last=patched.shape[:2] == (1, 1),
        )
        if result is not None:
            return result
        if patched.shape[1] > 1:
            half = patched.shape[1] // 2
            parts = [self.scores_that_fit(rows, site, part) for part in (patched[:, :half], patched[:, half:])]
            return torch.cat(parts, 1)
        middle = (rows.start + rows.stop) // 2
        parts = [(slice(rows.start, middle), patched[: middle - rows.start])]
        parts += [(slice(middle, rows.stop), patched[middle - rows.start :])]
        return torch.cat([self.scores_that_fit(half, site, part) for half, part in parts])

    def candidate_scores(self, rows: slice, states: torch.Tensor) -> torch.Tensor:
        """Sum of log-probabilities along each candidate's path. (b, c, m, d) -> (b, c, candidates)"""
        batch, copies, nodes, _ = states.shape
        paths = self.paths[rows]
        steps = max(len(path) for row in paths for path in row)
        padded = torch.tensor([[[*path, *[(-1, 0)] * (steps - len(path))] for path in row] for row in paths])
        node, token = padded.to(states.device).unbind(-1)  # (b, candidates, steps)
        wanted = token.flatten(1)  # every row of logits is asked for every token of its prompt's candidates
        flat, owner = states.flatten(0, 2), torch.arange(batch, device=states.device).repeat_interleave(copies * nodes)
        found = []
        for piece, index in zip(flat.split(HEAD_ROWS), owner.split(HEAD_ROWS)):
            logits = models.logits(self.model, piece)
            log_probabilities = logits.gather(1, wanted[index].to(logits.device)) - logits.logsumexp(-1, keepdim=True)
            found.append(log_probabilities.to(states.device))
        found = torch.cat(found).view(batch, copies, nodes, *node.shape[1:])
        index = node.clamp_min(0)[:, None, None].expand(-1, copies, -1, -1, -1)
        values = found.gather(2, index)[:, :, 0].masked_fill((node < 0)[:, None], 0)  # (b, c, candidates, steps)
        return values.sum(-1).cpu()


class PrefixCache:
    """Keys and values of the prompts as layers read them; the tokens of a pass leave no trace in it."""

    def __init__(self, layers: list[tuple[torch.Tensor, torch.Tensor]]):
        self.layers = layers

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
    answers = [[tuple(tokens[:3].tolist()), tuple(tokens[:2].flip(0).tolist())] for tokens in own]  # any will do
    try:
        with few_layers(model) as tolerance:
            patcher = PatchedPrompts(model, tokenizer, [prompts[row] for row in rows], answers)
            found = max(difference(patcher, row, tokens) for row, tokens in enumerate(own))
    except Exception as error:  # a layer that misses an argument, or gets one of another shape, raises any type
        if models.no_memory(error) or isinstance(error, runs.UserError):
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


def difference(patcher: PatchedPrompts, row: int, prompt: torch.Tensor) -> float:
    """Largest between log-probabilities here and in the model's own pass of one prompt, (T,) without pads.

    Of every token of its first answer, with the stream of site 0 at the last position as it is, and turned end to end.
    """
    nodes, tokens = (list(part) for part in zip(*patcher.paths[row][0]))
    own = patcher.streams[row : row + 1, 0]
    vectors = torch.stack([own, own.flip(-1)], 1)
    states = patcher.final_states(0, vectors, slice(row, row + 1))[0][:, nodes]
    ours = models.logits(patcher.model, states).log_softmax(-1)
    whole = torch.cat([prompt, prompt.new_tensor(tokens[:-1])]).repeat(2, 1)

    def patch(stream: torch.Tensor) -> None:
        stream[:, len(prompt) - 1] = vectors[0]

    with models.edited_stream(patcher.model, {0: patch}):
        theirs = patcher.model(input_ids=whole, use_cache=False, logits_to_keep=len(nodes)).logits
    apart = ours - theirs.to(ours).log_softmax(-1)
    return apart.gather(-1, torch.tensor(tokens, device=ours.device).expand(2, -1)[..., None]).abs().max().item()


def cache_argument(decoder) -> str:
    """What the decoder calls the keys and values that it is given."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def prefix_cache(model, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> list[tuple]:
    """Every layer's keys and values of the prompts without their last token, (b, T - 1) each; empty where nothing is left."""
    from transformers import DynamicCache

    cache, decoder = DynamicCache(), model.get_decoder()  # one that knows no windows keeps all keys
    if ids.shape[1]:
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions, "use_cache": True}
        decoder(**inputs, **{cache_argument(decoder): cache})
    return [(layer.keys, layer.values) for layer in cache.layers]


def windows(config) -> list[int | None]:
    """How many positions back each layer sees, itself included; None without a limit. As transformers' own caches have it."""
    from transformers import DynamicCache

    return [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]


def stacked_trees(trees: Sequence[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (b, m) and depths (b, m) of every prompt's tree, and which nodes each one sees, (b, m, m): itself and above."""
    nodes = max(len(tokens) for tokens, _, _ in trees)
    tokens, depth = torch.zeros(2, len(trees), nodes, dtype=torch.long)
    ancestors = torch.eye(nodes, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, (row_tokens, parents, _) in enumerate(trees):
        tokens[row, : len(row_tokens)] = torch.tensor(row_tokens)
        for node, parent in enumerate(parents[1:], 1):
            ancestors[row, node] |= ancestors[row, parent]
            depth[row, node] = depth[row, parent] + 1
    return tokens, depth, ancestors


def token_tree(last: int, candidates: Sequence[Sequence[int]]) -> tuple[list, list, list]:
    """(tokens, parents, paths): the prompt's last token and below it every proper beginning of a candidate, once.

    paths[c] lists (node, next token): the log-probabilities of these tokens behind these nodes add up to candidate c's.
    """
    tokens, parents, children, paths = [last], [-1], {}, []
    for candidate in candidates:
        node, path = 0, []
        for token in candidate:
            path.append((node, token))
            if len(path) < len(candidate):
                if (node, token) not in children:
                    children[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = children[node, token]
        paths.append(path)
    return tokens, parents, paths


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
    model, tokenizer, prompts: Sequence[str], candidates: Sequence, batch: int
) -> Iterator[tuple[slice, PatchedPrompts]]:
    """(which prompts, their engine) for batches in order; a batch that does not fit into memory is halved.

    Under `accelerate launch` each process yields its share; what is made of them has to be `gathered`.
    """
    waiting = [slice(start, min(start + batch, len(prompts))) for start in runs.own_batches(len(prompts), batch)][::-1]
    while waiting:
        rows = waiting.pop()
        engine = unless_out_of_memory(
            lambda rows=rows: PatchedPrompts(model, tokenizer, prompts[rows], candidates[rows]),
            last=rows.stop - rows.start == 1,
        )
        if engine is None:
            middle = (rows.start + rows.stop) // 2
            waiting += [slice(middle, rows.stop), slice(rows.start, middle)]
        else:
            yield rows, engine


def last_streams(model, tokenizer, prompts: Sequence[str], batch: int) -> torch.Tensor:
    """Unpatched streams at the last position of every prompt, (prompts, L + 1, d) float32 on the CPU; in all processes.

    Raises UserError where they are not finite.
    """
    engines = patched_prompts(model, tokenizer, prompts, [()] * len(prompts), batch)
    parts = runs.gathered({rows.start: patcher.streams.float().cpu() for rows, patcher in engines})
    streams = torch.cat(list(parts.values()))
    if not torch.isfinite(streams).all():
        raise runs.UserError("activations are not finite: try --dtype float32")
    return streams
