"""The patching engine: a prompt is run once, and its last position's stream then replaced at any site, many times over."""

from collections.abc import Callable, Iterator, Sequence

import torch

from lab import models, runs

QUERIES_AT_ONCE = 128  # query tokens of a pass attend to one another in vain: longer passes cost more than they save
HEAD_ROWS = 256  # rows of logits in memory at once: 148 MiB in float32 at Qwen2.5's vocabulary


class PatchedPrompts:
    """A batch of prompts, run once; the stream at their last position can then be replaced at any site, many times over.

    Attention is causal, so a replacement changes nothing at earlier positions. Their keys and values are computed once;
    a condition is then one query token in the last position's place, which sees the prompt and itself but no other
    condition, and passes only the layers above the site, the final norm and the head. Candidate answers of several
    tokens hang below it as a tree, in which shared beginnings are computed once; their streams below the site are those
    of the unpatched run.

    engine = PatchedPrompts(model, tokenizer, prompts, candidates)
    engine.scores(site, engine.streams[:, site, None] + change)
    """

    @torch.inference_mode()
    def __init__(self, model, tokenizer, prompts: Sequence[str], candidates: Sequence[Sequence[Sequence[int]]] = ()):
        """`candidates`: for every prompt the same number of answers, each a sequence of token ids.

        Raises UserError for a prompt that does not fit the model's positions or sliding window.
        """
        from transformers import DynamicCache

        self.model, self.layers = model, model.model.layers
        inputs = models.padded_batch(tokenizer, prompts, model.device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        trees = [token_tree(int(row[-1]), answers) for row, answers in zip(ids, candidates or [()] * len(ids))]
        nodes = max(len(tokens) for tokens, _, _ in trees)
        check_length(
            model.config, ids.shape[1] + max(map(len, (path for _, _, paths in trees for path in paths)), default=0)
        )
        self.prefix_mask = mask[:, :-1]
        cache = DynamicCache()
        if ids.shape[1] > 1:
            model.model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1].long(),
                position_ids=inputs["position_ids"][:, :-1],
                past_key_values=cache,
                use_cache=True,
            )
        self.cache = [(layer.keys, layer.values) for layer in cache.layers]
        tokens = torch.zeros(len(ids), nodes, dtype=torch.long)
        depth = torch.zeros(len(ids), nodes, dtype=torch.long)
        self.ancestors = torch.eye(nodes, dtype=torch.bool).repeat(len(ids), 1, 1)  # (b, m, m), a node is its own
        for row, (row_tokens, parents, _) in enumerate(trees):
            tokens[row, : len(row_tokens)] = torch.tensor(row_tokens)
            for node, parent in enumerate(parents[1:], 1):
                self.ancestors[row, node] |= self.ancestors[row, parent]
                depth[row, node] = depth[row, parent] + 1
        self.ancestors = self.ancestors.to(model.device)
        self.positions = inputs["position_ids"][:, -1:] + depth.to(model.device)  # (b, m)
        self.paths = [paths for _, _, paths in trees]
        self.node_streams = self.run(
            slice(None), 0, model.model.embed_tokens(tokens.to(model.device))[:, None], keep=True
        )
        self.node_streams = torch.stack(self.node_streams, 1)[:, :, 0]  # (b, sites, m, d)

    @property
    def streams(self) -> torch.Tensor:
        """The unpatched residual stream at the last position, (b, L + 1, d), in the model's dtype."""
        return self.node_streams[:, :, 0]

    def final_states(self, site: int, patched: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """Normed final stream of every node under every condition. patched (b, c, d) -> (b, c, m, d)"""
        nodes = self.node_streams[rows, site]
        hidden = nodes[:, None].repeat(1, patched.shape[1], 1, 1)
        hidden[:, :, 0] = patched.to(hidden)
        return self.model.model.norm(self.run(rows, site, hidden))

    def run(self, rows: slice, site: int, hidden: torch.Tensor, keep: bool = False):
        """Nodes (b, c, m, d) through the layers above the site; with `keep` the stream at every site from there on."""
        batch, copies, nodes, _ = hidden.shape
        own = torch.eye(copies, dtype=torch.bool, device=hidden.device)[None, :, None, :, None]
        own = (own & self.ancestors[rows][:, None, :, None, :]).view(batch, copies * nodes, copies * nodes)
        before = self.prefix_mask[rows][:, None].expand(-1, copies * nodes, -1)
        hidden_from = ~torch.cat([before, own], -1)[:, None]  # (b, 1, c * m, T - 1 + c * m)
        mask = torch.zeros(hidden_from.shape, dtype=hidden.dtype, device=hidden.device)
        mask.masked_fill_(hidden_from, torch.finfo(hidden.dtype).min)
        positions = self.positions[rows].repeat(1, copies)
        hidden = hidden.flatten(1, 2)
        rotary = self.model.model.rotary_emb(hidden, positions)
        cache = PrefixCache([(keys[rows], values[rows]) for keys, values in self.cache])
        kept = [hidden]
        for layer in self.layers[site:]:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=rotary,
            )
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            kept.append(hidden.to(self.model.device))
        kept = [stream.unflatten(1, (copies, nodes)) for stream in (kept if keep else kept[-1:])]
        return kept if keep else kept[0]

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
            logits = self.model.lm_head(piece).float()
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

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.layers:  # prompts of a single token
            return keys, values
        return tuple(torch.cat(pair, 2) for pair in zip(self.layers[layer], (keys, values)))


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
    """UserError if a prompt with its answer exceeds the model's positions, or its sliding window."""
    for limit, kind in (
        (config.max_position_embeddings, "positions"),
        (getattr(config, "sliding_window", None), "window"),
    ):
        if limit and length > limit:
            raise runs.UserError(f"a prompt of {length} tokens with its answer exceeds this model's {kind} of {limit}")


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
