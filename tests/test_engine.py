"""The patching engine against full forward passes with a hook, token trees, and its memory bound."""

import pytest
import torch
from conftest import random_model

import utils
from lab import checkpoints, engine, models, runs, statistics

CANDIDATES = [  # lengths 1 to 4, with shared beginnings and one that begins another
    [(5,), (7, 8), (7, 9, 10), (7, 9, 11, 12)],
    [(3, 4), (3, 5), (6,), (20, 21, 22)],
    [(9,), (9, 1), (10,), (11,)],
]
PROMPTS = [
    "Question: five",
    "Question: Tom has 4 apples. Then Tom sells 3. How many?\nAnswer:",
    "问题：小明有4个苹果。答案：",
]


@pytest.fixture(scope="module")
def loaded(families):
    return {
        name: models.load_model(checkpoints.find_model(str(path)), torch.device("cpu"), torch.float32)
        for name, path in families.items()
    }


def hooked_logits(model, ids: torch.Tensor, last: int, site: int, vector: torch.Tensor) -> torch.Tensor:
    """The dense reference: one full pass over one unpadded sequence, position `last` replaced at the site by a hook."""

    def replace(_, args, kwargs):
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        stream[0, last] = vector
        return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": stream})

    modules = [*model.model.layers, model.model.norm]
    hook = modules[site].register_forward_pre_hook(replace, with_kwargs=True)
    with torch.no_grad():
        logits = model(ids[None], use_cache=False).logits[0]
    hook.remove()
    return logits


def patches(patcher, site: int, count: int = 5) -> torch.Tensor:
    """The prompt's own stream, and random changes of its size."""
    own = patcher.streams[:, site, None]
    noise = torch.randn(len(own), count - 1, own.shape[-1], generator=statistics.seeded(0, f"patches {site}"))
    return torch.cat([own, own + noise * own.norm(dim=-1, keepdim=True) / own.shape[-1] ** 0.5], 1)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
def test_engine_equals_a_full_hooked_pass_at_every_site(loaded, family):
    """Next-token logits and candidate scores: padding, grouped queries, candidates of several tokens."""
    model, tokenizer = loaded[family]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, CANDIDATES)
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}) == 3
    for site in range(model.config.num_hidden_layers + 1):
        vectors = patches(patcher, site)
        states = patcher.final_states(site, vectors)
        scores = patcher.scores(site, vectors)
        for row, prompt in enumerate(PROMPTS):
            ids = torch.tensor(tokenizer(prompt)["input_ids"])
            last = len(ids) - 1
            for condition, vector in enumerate(vectors[row]):
                logits = hooked_logits(model, ids, last, site, vector)[last]
                torch.testing.assert_close(model.lm_head(states[row, condition, 0]), logits, rtol=0, atol=1e-4)
                for index, candidate in enumerate(CANDIDATES[row]):
                    longer = torch.cat([ids, torch.tensor(candidate)])
                    logits = hooked_logits(model, longer, last, site, vector).log_softmax(-1)
                    expected = sum(logits[last + step, token] for step, token in enumerate(candidate))
                    assert abs(scores[row, condition, index] - expected) < 1e-4


def test_the_identity_changes_no_bit_and_other_conditions_do_not_matter(loaded):
    model, tokenizer = loaded["qwen2"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, CANDIDATES)
    basis = utils.random_subspaces(statistics.seeded(0, "basis"), 1, 7, model.config.hidden_size)[0].float()
    for site in range(model.config.num_hidden_layers + 1):
        own = patcher.streams[:, site]
        identity = own + (own - own) @ basis.T @ basis
        assert torch.equal(patcher.scores(site, own[:, None]), patcher.scores(site, identity[:, None]))
        vectors = patches(patcher, site)
        assert not torch.equal(patcher.scores(site, vectors)[:, 0], patcher.scores(site, vectors)[:, 1])
        others = torch.cat([vectors[:, :1], 100 * vectors[:, 1:]], 1)
        assert torch.equal(patcher.scores(site, vectors)[:, 0], patcher.scores(site, others)[:, 0])


def test_scores_do_not_depend_on_the_batch_or_on_pieces(loaded, monkeypatch):
    model, tokenizer = loaded["qwen2"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, CANDIDATES)
    vectors = patches(patcher, 2)
    whole = patcher.scores(2, vectors)
    for size in (1, 2):
        engines = engine.patched_prompts(model, tokenizer, PROMPTS, CANDIDATES, size)
        parts = torch.cat([alone.scores(2, vectors[rows]) for rows, alone in engines])
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)
    monkeypatch.setattr(engine, "QUERIES_AT_ONCE", 1)
    monkeypatch.setattr(engine, "HEAD_ROWS", 2)
    torch.testing.assert_close(patcher.scores(2, vectors), whole, rtol=0, atol=1e-4)


def test_what_does_not_fit_is_halved_down_to_one_condition(loaded, monkeypatch):
    model, tokenizer = loaded["qwen2"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, CANDIDATES)
    vectors = patches(patcher, 2)
    whole, real, tried = patcher.scores(2, vectors), engine.PatchedPrompts.final_states, []

    def limited(self, site, patched, rows):
        tried.append(patched.shape[:2])
        if patched.shape[0] * patched.shape[1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, site, patched, rows)

    monkeypatch.setattr(engine.PatchedPrompts, "final_states", limited)
    torch.testing.assert_close(patcher.scores(2, vectors), whole, rtol=0, atol=1e-4)
    assert tried[0] == (3, 5)
    assert tried.count((1, 1)) == 15

    def hopeless(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.PatchedPrompts, "final_states", hopeless)
    with pytest.raises(torch.OutOfMemoryError):
        patcher.scores(2, vectors)


def test_batches_of_prompts_that_do_not_fit_are_halved(loaded, monkeypatch):
    model, tokenizer = loaded["qwen2"]
    real = engine.PatchedPrompts.__init__

    def limited(self, model, tokenizer, prompts, candidates):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(self, model, tokenizer, prompts, candidates)

    monkeypatch.setattr(engine.PatchedPrompts, "__init__", limited)
    engines = list(engine.patched_prompts(model, tokenizer, PROMPTS, CANDIDATES, 3))
    assert [(rows.start, rows.stop) for rows, _ in engines] == [(0, 1), (1, 2), (2, 3)]


def test_streams_are_those_of_a_full_pass(loaded):
    model, tokenizer = loaded["qwen3"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS)
    sites = range(model.config.num_hidden_layers + 1)
    for index, _, streams in models.residual_streams(model, tokenizer, PROMPTS, sites, batch=1):
        torch.testing.assert_close(patcher.streams[index], streams[:, -1], rtol=1e-5, atol=1e-5)


def test_token_tree_shares_beginnings():
    tokens, parents, paths = engine.token_tree(0, [(1,), (2, 3), (2, 4, 5), (2, 4)])
    assert tokens == [0, 2, 4]
    assert parents == [-1, 0, 1]
    assert paths == [[(0, 1)], [(0, 2), (1, 3)], [(0, 2), (1, 4), (2, 5)], [(0, 2), (1, 4)]]


def test_too_long_prompts_and_sliding_windows_are_refused(loaded, tmp_path):
    model, tokenizer = loaded["qwen2"]
    with pytest.raises(runs.UserError, match="exceeds this model's positions of 512"):
        engine.PatchedPrompts(model, tokenizer, ["5 " * 600], [[(1,)]])
    folder = checkpoints.find_model(str(random_model(tmp_path / "sliding", "mistral", sliding_window=16)))
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    with pytest.raises(runs.UserError, match="window of 16"):
        engine.PatchedPrompts(model, tokenizer, ["5 " * 20], [[(1,)]])


def test_a_single_token_prompt_has_an_empty_prefix(loaded):
    model, tokenizer = loaded["qwen2"]
    (ids,) = torch.tensor(tokenizer(["five"])["input_ids"])[:, :1]
    prompt = tokenizer.decode(ids)
    assert len(tokenizer(prompt)["input_ids"]) == 1
    patcher = engine.PatchedPrompts(model, tokenizer, [prompt], [[(3, 4)]])
    vectors = patches(patcher, 1)
    scores = patcher.scores(1, vectors)
    logits = hooked_logits(model, torch.cat([ids, torch.tensor([3])]), 0, 1, vectors[0, 2]).log_softmax(-1)
    assert abs(scores[0, 2, 0] - logits[0, 3] - logits[1, 4]) < 1e-4


def test_generation_under_a_patch_follows_the_patched_logits(loaded):
    """The first new token is the argmax of the hooked pass, and the hook is gone afterwards."""
    model, tokenizer = loaded["qwen2"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS)
    vectors = patches(patcher, 3)[:, 1]
    inputs = models.padded_batch(tokenizer, PROMPTS, "cpu")
    edits = {3: lambda _: vectors[:, None]}
    with torch.inference_mode(), models.edited_stream(model, edits, "last"):
        tokens = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=2
        )
    new = tokens[:, inputs["input_ids"].shape[1] :]
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor(tokenizer(prompt)["input_ids"])
        last = len(ids) - 1
        first = hooked_logits(model, ids, last, 3, vectors[row])[last].argmax()
        assert new[row, 0] == first
        second = hooked_logits(model, torch.cat([ids, first[None]]), last, 3, vectors[row])[last + 1].argmax()
        assert new[row, 1] == second
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_a_model_that_is_spread_over_devices_gives_the_same_scores(loaded, families, tmp_path, monkeypatch):
    """As accelerate dispatches a model that is too large: here some layers wait on disk until they run."""
    model, tokenizer = loaded["qwen3"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, CANDIDATES)
    vectors = patches(patcher, 2)
    whole = patcher.scores(2, vectors)
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    places = dict.fromkeys(names, "cpu") | {
        f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(5)
    }
    spread = {"device_map": places, "offload_folder": str(tmp_path)}
    monkeypatch.setattr(models, "placement", lambda *_: spread)
    folder = checkpoints.find_model(str(families["qwen3"]))
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    assert any(parameter.is_meta for parameter in model.parameters())
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, CANDIDATES)
    torch.testing.assert_close(patcher.scores(2, vectors), whole, rtol=0, atol=1e-5)
    alone = models.generate(*loaded["qwen3"], PROMPTS, 4, 2)
    assert models.generate(model, tokenizer, PROMPTS, 4, 2) == alone
    ((_, _, streams),) = models.residual_streams(model, tokenizer, PROMPTS[:1], [0, 5], 1)
    torch.testing.assert_close(streams[:, -1], patcher.streams[0, [0, 5]], rtol=1e-4, atol=1e-4)


def test_a_model_that_does_not_fit_is_spread(families, monkeypatch):
    folder = checkpoints.find_model(str(families["qwen2"]))
    size = sum(file.stat().st_size for file in folder.files)
    cuda, numbered = torch.device("cuda"), torch.device("cuda:0")
    for free, expected in ((2 * size, {}), (size, {"device_map": "auto"})):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10 * size))
        assert models.placement(folder, cuda, torch.float32) == expected
        assert models.placement(folder, cuda, torch.bfloat16) == {}  # half as large
        assert models.placement(folder, numbered, torch.float32) == {}
    assert models.placement(folder, torch.device("cpu"), torch.float32) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_engine_on_cuda_in_bfloat16(families):
    folder = checkpoints.find_model(str(families["qwen2"]))
    scores = {}
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)):
        model, tokenizer = models.load_model(folder, torch.device(device), dtype)
        patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, CANDIDATES)
        scores[device, dtype] = patcher.scores(2, 2 * patcher.streams[:, 2, None])
    torch.testing.assert_close(scores["cpu", torch.float32], scores["cuda", torch.float32], rtol=0, atol=1e-2)
    torch.testing.assert_close(scores["cpu", torch.float32], scores["cuda", torch.bfloat16], rtol=0, atol=0.3)
