"""The patching engine against full forward passes with a hook, token trees, its check of itself, and its memory bound."""

import pytest
import torch
from conftest import FAMILIES, SMALL, random_model
from gguf_files import write_gguf
from safetensors.torch import load_file

import utils
from lab import beginnings, checkpoints, engine, models, runs, statistics

ANSWERS = [(5,), (7, 8), (7, 9, 10), (7, 9, 11, 12), (3, 4), (20, 21, 22)]  # lengths 1 to 4, with shared beginnings
PARTINGS = {(): (3, 5, 7, 20), (7,): (8, 9), (7, 9): (10, 11)}  # beginning -> the tokens with which an answer goes on
PROMPTS = [
    "Question: five",
    "Question: Tom has 4 apples. Then Tom sells 3. How many?\nAnswer:",
    "问题：小明有4个苹果。答案：",
]
CPU = torch.device("cpu")
WINDOW = 9  # shorter than two of the prompts
LOCAL = {  # families with local layers, and what makes some or all of theirs so
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "mistral": {},
    "gemma2": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]},
    "phi3": {},
    "qwen2_moe": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3_moe": {"use_sliding_window": True},
}
KINDS = [*FAMILIES, *(f"{family}, local" for family in LOCAL)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """kind -> (model, tokenizer), made when first asked for; weights large enough for every key to matter."""

    class Loaded(dict):
        def __missing__(self, kind: str):
            family, _, local = kind.partition(", ")
            own = {"sliding_window": WINDOW} | LOCAL[family] if local else {}
            path = random_model(tmp_path_factory.mktemp("engine") / "model", family, initializer_range=0.2, **own)
            self[kind] = models.load_model(checkpoints.find_model(str(path)), CPU, torch.float32)
            return self[kind]

    return Loaded()


def hooked_logits(model, ids: torch.Tensor, last: int, site: int, vector: torch.Tensor) -> torch.Tensor:
    """The dense reference: one full pass over one unpadded sequence, position `last` replaced at the site by a hook."""

    def replace(_, args, kwargs):
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        stream[0, last] = vector
        return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": stream})

    hook = models.site_modules(model)[site].register_forward_pre_hook(replace, with_kwargs=True)
    with torch.set_grad_enabled(vector.requires_grad):
        logits = model(ids[None], use_cache=False).logits[0]
    hook.remove()
    return logits


def dense_scores(model, ids: torch.Tensor, site: int, vector: torch.Tensor) -> list[torch.Tensor]:
    """Every answer's log-probability within ANSWERS, from full passes over the prompt and each beginning."""
    last, at = len(ids) - 1, {}
    for start, tokens in PARTINGS.items():
        logits = hooked_logits(model, torch.cat([ids, ids.new_tensor(start)]), last, site, vector)[-1]
        at |= {(*start, token): value for token, value in zip(tokens, logits[list(tokens)].log_softmax(-1))}
    return [sum(at.get(answer[: end + 1], 0) for end in range(len(answer))) for answer in ANSWERS]


def patches(patcher, site: int, count: int = 5) -> torch.Tensor:
    """The prompt's own stream, and random changes of its size."""
    own = patcher.streams[:, site, None]
    noise = torch.randn(len(own), count - 1, own.shape[-1], generator=statistics.seeded(0, f"patches {site}"))
    return torch.cat([own, own + noise * own.norm(dim=-1, keepdim=True) / own.shape[-1] ** 0.5], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_engine_equals_a_full_hooked_pass(loaded, kind):
    """Next-token logits and answers' scores: padding, grouped queries, windows, answers of several tokens."""
    model, tokenizer = loaded[kind]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    lengths = {len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}
    assert len(lengths) == 3 and min(lengths) < WINDOW < max(lengths)
    every = kind in ("qwen2", "gemma3_text, local")
    for site in range(6) if every else (0, 3, 5):
        vectors = patches(patcher, site, 5 if every else 2)
        states = patcher.final_states(site, vectors)
        scores = patcher.scores(site, vectors)
        for row, prompt in enumerate(PROMPTS):
            ids = torch.tensor(tokenizer(prompt)["input_ids"])
            last = len(ids) - 1
            for condition, vector in enumerate(vectors[row]):
                logits = hooked_logits(model, ids, last, site, vector)[last]
                own = models.logits(model, states[row, condition, 0])
                torch.testing.assert_close(own, logits, rtol=0, atol=1e-4)
                expected = torch.stack(dense_scores(model, ids, site, vector))
                torch.testing.assert_close(scores[row, condition], expected, rtol=0, atol=1e-4)
                assert abs(scores[row, condition].exp().sum() - 1) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_those_of_a_full_pass(loaded, kind):
    model, tokenizer = loaded[kind]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS)
    for index, _, streams in models.residual_streams(model, tokenizer, PROMPTS, range(6), batch=1):
        torch.testing.assert_close(patcher.streams[index], streams[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gemma3_text, local", "gpt_neox", "qwen3_moe, local"])
def test_the_identity_changes_no_bit_and_other_conditions_do_not_matter(loaded, kind):
    model, tokenizer = loaded[kind]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    basis = utils.random_subspaces(statistics.seeded(0, "basis"), 1, 7, model.config.hidden_size)[0].float()
    for site in range(model.config.num_hidden_layers + 1):
        own = patcher.streams[:, site]
        identity = own + (own - own) @ basis.T @ basis
        assert torch.equal(patcher.scores(site, own[:, None]), patcher.scores(site, identity[:, None]))
        vectors = patches(patcher, site)
        assert not torch.equal(patcher.scores(site, vectors)[:, 0], patcher.scores(site, vectors)[:, 1])
        others = torch.cat([vectors[:, :1], 100 * vectors[:, 1:]], 1)
        assert torch.equal(patcher.scores(site, vectors)[:, 0], patcher.scores(site, others)[:, 0])


@pytest.mark.parametrize("kind", ["qwen2", "mistral, local", "qwen2_moe"])
def test_scores_do_not_depend_on_the_batch_or_on_pieces(loaded, monkeypatch, kind):
    model, tokenizer = loaded[kind]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    vectors = patches(patcher, 2)
    whole = patcher.scores(2, vectors)
    for size in (1, 2):
        engines = engine.patched_prompts(model, tokenizer, PROMPTS, ANSWERS, size)
        for rows, alone in engines:
            torch.testing.assert_close(alone.scores(2, vectors[rows]), whole[rows], rtol=0, atol=1e-4)
    monkeypatch.setattr(engine, "QUERIES_AT_ONCE", 1)
    monkeypatch.setattr(engine, "HEAD_ROWS", 2)
    torch.testing.assert_close(patcher.scores(2, vectors), whole, rtol=0, atol=1e-4)


def test_what_does_not_fit_is_halved_down_to_one_condition(loaded, monkeypatch):
    model, tokenizer = loaded["qwen2"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
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

    def limited(self, model, tokenizer, prompts, *rest):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(self, model, tokenizer, prompts, *rest)

    monkeypatch.setattr(engine.PatchedPrompts, "__init__", limited)
    engines = list(engine.patched_prompts(model, tokenizer, PROMPTS, ANSWERS, 3))
    assert sorted(rows for rows, _ in engines) == [[0], [1], [2]]


def test_answer_tree_shares_beginnings_and_ends_where_nothing_parts():
    tree = engine.AnswerTree(ANSWERS, CPU)
    assert tree.tokens.tolist() == [7, 9]
    assert tree.depth.tolist() == [0, 1, 2]
    assert tree.ancestors.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    vocabulary = tree.vocabulary.tolist()
    assert vocabulary == [3, 5, 7, 8, 9, 10, 11, 20]
    parted = [[token for token, goes_on in zip(vocabulary, row) if goes_on] for row in tree.goes_on]
    assert parted == [list(tokens) for tokens in PARTINGS.values()]
    ones = torch.tensor([[1.0], [10.0], [100.0]]).expand(3, 8)
    assert tree.along(ones).tolist() == [1, 11, 111, 111, 1, 1]


def test_a_node_that_only_leads_to_a_parting_is_run_but_not_scored():
    tree = engine.AnswerTree([(1, 2, 3), (1, 2, 4)], CPU)
    assert tree.tokens.tolist() == [1, 2]
    assert tree.goes_on.sum(1).tolist() == [0, 0, 2]
    assert tree.along(torch.ones(3, 2)).tolist() == [1, 1]


@pytest.mark.parametrize("answers", [[(1, 2), (1,)], [(1, 2), (3,), (1, 2)]])
def test_answers_that_cannot_be_told_apart_are_refused(answers):
    with pytest.raises(ValueError, match="cannot be told apart"):
        engine.AnswerTree(answers, CPU)


def test_the_mass_of_the_set_is_that_in_the_whole_vocabulary(loaded):
    model, tokenizer = loaded["gemma2"]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    for row, prompt in enumerate(PROMPTS):
        ids, at = torch.tensor(tokenizer(prompt)["input_ids"]), {}
        for start, tokens in PARTINGS.items():
            logits = model(torch.cat([ids, ids.new_tensor(start)])[None]).logits[0, -1].log_softmax(-1)
            at |= {(*start, token): logits[token] for token in tokens}
        expected = sum(sum(at.get(answer[: end + 1], 0) for end in range(len(answer))).exp() for answer in ANSWERS)
        assert abs(patcher.masses()[row] - expected) < 1e-5


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gemma3_text, local", "olmo2", "gpt_neox"])
def test_gradients_are_those_of_a_full_pass(loaded, kind):
    """Of an answer of several tokens, with respect to the vector at the last prompt position."""
    model, tokenizer = loaded[kind]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    for site in (0, 3, 5):
        vectors = patches(patcher, site, 2).requires_grad_()
        scores = patcher.scores(site, vectors)
        (ours,) = torch.autograd.grad(scores[..., 3].sum(), vectors)
        for row, prompt in enumerate(PROMPTS):
            ids = torch.tensor(tokenizer(prompt)["input_ids"])
            vector = vectors[row, 1].detach().requires_grad_()
            (theirs,) = torch.autograd.grad(dense_scores(model, ids, site, vector)[3], vector)
            torch.testing.assert_close(ours[row, 1], theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    assert not patcher.scores(3, vectors.detach()).requires_grad


EXEMPLARS = "".join(
    f"Question: {name} has {n} apples. How many?\nAnswer: {n}\n" for n, name in enumerate(("Tom", "Ann", "Bob"))
)
ALIKE = [
    EXEMPLARS + prompt
    for prompt in ("Question: five", "Question: five and six. How many are there?", "Q", "Questions 12 34")
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_beginning_that_prompts_share_is_run_once(loaded, monkeypatch, kind):
    """Scores and generations are those of every prompt by itself; among them the exemplars of another language."""
    model, tokenizer = loaded[kind]
    prompts = [*ALIKE, *(prompt.replace("Question", "问题") for prompt in ALIKE)]
    rows = tokenizer(prompts)["input_ids"]
    assert [length > 16 for _, length in beginnings.batches(rows, 4)] == [True, True]
    counted = []
    real = beginnings.Beginnings.cache

    def counting(self, ids, mask, length):
        known = len(self.kept)
        cache = real(self, ids, mask, length)
        counted.append(len(self.kept) > known)
        return cache

    monkeypatch.setattr(beginnings.Beginnings, "cache", counting)
    found = {}
    for chosen, patcher in engine.patched_prompts(model, tokenizer, prompts, ANSWERS, 2):
        vectors = 2 * patcher.streams[:, 2, None]
        found |= dict(zip(chosen, zip(vectors, patcher.scores(2, vectors))))
    assert counted == [True, False, True, False]
    together = models.generate(model, tokenizer, prompts, 4, 3)
    captured = {
        index: (ids, own) for index, ids, own in models.residual_streams(model, tokenizer, prompts, (0, 3, 5), 3)
    }
    for row, prompt in enumerate(prompts):
        ((_, ids, own),) = models.residual_streams(model, tokenizer, [prompt], (0, 3, 5), 1)
        assert torch.equal(captured[row][0], ids)
        torch.testing.assert_close(captured[row][1], own, rtol=1e-4, atol=1e-4)
        patcher = engine.PatchedPrompts(model, tokenizer, [prompt], ANSWERS)
        vectors, scores = found[row]
        torch.testing.assert_close(vectors, 2 * patcher.streams[0, 2, None], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores, patcher.scores(2, vectors[None])[0], rtol=0, atol=1e-4)
    assert together == models.generate(model, tokenizer, prompts, 4, 1)


def test_a_beginning_is_run_behind_what_a_kept_one_begins_with(loaded):
    """Kept keys and values serve longer and shorter beginnings, and those that go on otherwise; the oldest is let go."""
    model, tokenizer = loaded["qwen2"]
    shared, ids = beginnings.Beginnings(model), torch.tensor(tokenizer([EXEMPLARS])["input_ids"])
    ids = torch.cat([ids, ids.flip(1)[:, :6]], 1)
    other = torch.cat([ids[:, :20], ids[:, :5]], 1)
    wanted = [(ids, 24), (ids, 30), (ids, 18), (other, 23), (ids, 20), (ids, 25)]
    for own, length in wanted:
        cache = shared.cache(own, torch.ones_like(own), length)
        fresh = beginnings.Beginnings(model).cache(own, torch.ones_like(own), length)
        for kept, new in zip(cache.layers, fresh.layers):
            torch.testing.assert_close(kept.keys, new.keys, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(kept.values, new.values, rtol=1e-4, atol=1e-5)
        assert len(shared.kept) <= beginnings.KEPT
    assert {len(key) for key in shared.kept} == {18, 23, 20, 25}


def test_prompts_that_begin_alike_come_together():
    one, other = tuple(range(100, 120)), tuple(range(200, 230))
    prompts = [(*one, 1), (*other, 2, 3), (*one, 1, 2, 3), (*other, 4), (*one, 5, 6), (9, 9)]
    assert beginnings.batches(prompts, 2) == [([5], 0), ([0, 4], 20), ([2], 20), ([3, 1], 30)]
    assert beginnings.batches([one, one], 2) == [([0, 1], 19)]  # every prompt keeps its last token
    assert beginnings.batches([(1, 2, 3), (1, 4), (7,)], 8) == [([2, 1, 0], 0)]
    assert beginnings.batches([one], 8) == [([0], 0)]
    assert beginnings.batches([], 8) == []


def test_too_long_prompts_are_refused(loaded):
    model, tokenizer = loaded["qwen2"]
    with pytest.raises(runs.UserError, match="exceeds this model's positions of 512"):
        engine.PatchedPrompts(model, tokenizer, ["5 " * 600], [(1,)])


def state(model) -> list:
    """What a check must leave as it was."""
    modules = [(type(module), len(module._forward_pre_hooks)) for module in model.modules()]
    return modules + [(parameter.data_ptr(), parameter.dtype) for parameter in model.parameters()]


def displaced(self, tokens, real=engine.PatchedPrompts.node_pass):
    self.positions = self.positions + 1
    return real(self, tokens)


def first_token_hidden(self, rows, copies, real=engine.PatchedPrompts.masks):
    masks = real(self, rows, copies)
    for mask in masks.values():
        mask[..., 0] = torch.finfo(mask.dtype).min
    return masks


def called_otherwise(self, *_):
    raise RuntimeError("first line\nsecond line")


WRONG = {
    "windows": (engine, "windows", lambda config: [None] * config.num_hidden_layers),
    "a longer window": (engine, "windows", lambda config, real=engine.windows: [w and w + 1 for w in real(config)]),
    "positions": (engine.PatchedPrompts, "node_pass", displaced),
    "mask": (engine.PatchedPrompts, "masks", first_token_hidden),
    "head": (models, "logits", lambda model, states, *_, real=models.logits: 0.99 * real(model, states)),
    "layers": (engine.PatchedPrompts, "run", called_otherwise),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_model_that_scores_otherwise_in_its_own_pass_is_refused(loaded, monkeypatch, wrong, dtype):
    """Each of these stands for a family, or a version of transformers, whose layers are called in another way."""
    model, tokenizer = loaded["qwen2, local"]
    model = type(model)(model.config).to(dtype)
    model.load_state_dict(loaded["qwen2, local"][0].state_dict())
    before = state(model.eval())
    with monkeypatch.context() as patch, pytest.raises(runs.UserError, match="cannot be patched here") as caught:
        patch.setattr(*WRONG[wrong])
        engine.PatchedPrompts(model, tokenizer, PROMPTS)
    assert "\n" not in str(caught.value)
    assert state(model) == before
    assert model not in engine.CHECKED
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS)
    assert patcher.streams.dtype == dtype
    assert state(model) == before


def test_a_model_is_checked_once_and_again_beyond_its_window(loaded, families, monkeypatch):
    folder = checkpoints.find_model(str(families["mistral"]))
    folder.config.sliding_window = WINDOW
    model, tokenizer = models.load_model(folder, CPU, torch.float32)
    model.config.sliding_window = WINDOW
    asked, real = [], engine.difference

    def counted(patcher, row, prompt):
        asked.append(len(prompt))
        assert len(patcher.layers) == 2  # some layers of every kind
        return real(patcher, row, prompt)

    monkeypatch.setattr(engine, "difference", counted)
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    for prompts, seen in (
        (PROMPTS[:1], [lengths[0]] * 2),  # the longest and the shortest
        (PROMPTS[:1], []),
        (PROMPTS, [max(lengths), min(lengths)]),
        (PROMPTS, []),
        (PROMPTS[:1], []),
    ):
        asked.clear()
        engine.PatchedPrompts(model, tokenizer, prompts)
        assert asked == seen


def test_layers_of_every_kind_are_checked(loaded):
    for kind, count in (
        ("qwen2", 2),
        ("qwen2, local", 3),
        ("gemma3_text, local", 2),
        ("qwen2_moe", 2),
        ("gpt_neox", 2),
    ):
        model, _ = loaded[kind]
        with engine.few_layers(model):
            assert len(models.site_modules(model)) == count + 1, kind
        assert len(models.site_modules(model)) == 6


def test_no_memory_for_the_check_is_no_verdict_on_the_family(loaded, families, monkeypatch):
    model, tokenizer = models.load_model(checkpoints.find_model(str(families["qwen2"])), CPU, torch.float32)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(engine, "difference", full)
        engine.PatchedPrompts(model, tokenizer, PROMPTS)
    assert model not in engine.CHECKED
    assert len(models.site_modules(model)) == 6


def test_the_language_model_inside_one_that_also_sees(loaded, tmp_path):
    """Gemma 3 from 4B on."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    text = SMALL | FAMILIES["gemma3_text"][1] | LOCAL["gemma3_text"] | {"sliding_window": WINDOW}
    seeing = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    image = {"image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=seeing | image, **tokens)
    ).eval()
    tokenizer = loaded["qwen2"][1]
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    vectors = patches(patcher, 2)
    scores = patcher.scores(2, vectors)
    ids = torch.tensor(tokenizer(PROMPTS[1])["input_ids"])
    expected = torch.stack(dense_scores(model, ids, 2, vectors[1, 1]))
    torch.testing.assert_close(scores[1, 1], expected, rtol=0, atol=1e-4)


def test_a_single_token_prompt_has_an_empty_prefix(loaded):
    model, tokenizer = loaded["qwen2"]
    (ids,) = torch.tensor(tokenizer(["five"])["input_ids"])[:, :1]
    prompt = tokenizer.decode(ids)
    assert len(tokenizer(prompt)["input_ids"]) == 1
    patcher = engine.PatchedPrompts(model, tokenizer, [prompt], ANSWERS)
    vectors = patches(patcher, 1)
    expected = torch.stack(dense_scores(model, ids, 1, vectors[0, 2]))
    torch.testing.assert_close(patcher.scores(1, vectors)[0, 2], expected, rtol=0, atol=1e-4)


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
    assert not any(module._forward_pre_hooks for module in model.modules())


def half_on_disk(folder) -> dict:
    """from_pretrained's arguments for a model whose odd layers wait on disk until they run."""
    places = {f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(5)}
    others = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    return {"device_map": places | dict.fromkeys(others, "cpu"), "offload_folder": str(folder)}


def test_a_model_that_is_spread_over_devices_gives_the_same_scores(families, tmp_path, monkeypatch):
    """As accelerate dispatches a model that is too large."""
    folder = checkpoints.find_model(str(families["qwen3"]))
    model, tokenizer = models.load_model(folder, CPU, torch.float32)
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    vectors = patches(patcher, 2)
    whole, alone = patcher.scores(2, vectors), models.generate(model, tokenizer, PROMPTS, 4, 2)
    spread = half_on_disk(tmp_path)
    monkeypatch.setattr(models, "placement", lambda *_: spread)
    model, tokenizer = models.load_model(folder, CPU, torch.float32)
    assert any(parameter.is_meta for parameter in model.parameters())
    patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
    torch.testing.assert_close(patcher.scores(2, vectors), whole, rtol=0, atol=1e-5)
    assert models.generate(model, tokenizer, PROMPTS, 4, 2) == alone
    ((_, _, streams),) = models.residual_streams(model, tokenizer, PROMPTS[:1], [0, 5], 1)
    torch.testing.assert_close(streams[:, -1], patcher.streams[0, [0, 5]], rtol=1e-4, atol=1e-4)


def test_a_spread_model_is_checked_in_its_own_dtype(families, tmp_path, monkeypatch):
    """What waits on disk comes in bfloat16, so that the check cannot turn it into float32."""
    monkeypatch.setattr(models, "placement", lambda *_: half_on_disk(tmp_path))
    model, tokenizer = models.load_model(checkpoints.find_model(str(families["qwen3"])), CPU, torch.bfloat16)
    assert any(parameter.is_meta for parameter in model.parameters())
    with engine.few_layers(model) as tolerance:
        assert tolerance == engine.COARSE_TOLERANCE and model.dtype == torch.bfloat16
    engine.PatchedPrompts(model, tokenizer, PROMPTS)
    assert model in engine.CHECKED


def test_a_model_that_does_not_fit_is_spread(families, tmp_path, monkeypatch):
    folder = checkpoints.find_model(str(families["qwen2"]))
    size = sum(file.stat().st_size for file in folder.files)
    cuda, numbered = torch.device("cuda"), torch.device("cuda:0")
    for free, expected in ((2 * size, {}), (size, {"device_map": "auto"})):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10 * size))
        assert models.placement(folder, cuda, torch.float32) == expected
        assert models.placement(folder, cuda, torch.bfloat16) == {}  # half as large
        assert models.placement(folder, numbered, torch.float32) == {}
    assert models.placement(folder, CPU, torch.float32) == {}
    source = random_model(tmp_path / "source", hidden_size=64, num_attention_heads=4, intermediate_size=96)
    small = checkpoints.find_model(str(write_gguf(tmp_path / "model.gguf", source)))  # a file of bytes runs in floats
    dense = sum(tensor.numel() for tensor in load_file(source / "model.safetensors").values())
    assert dense < small.path.stat().st_size < 2 * dense
    for free, dtype, expected in (
        (4 * dense, torch.float32, {"device_map": "auto"}),
        (5 * dense, torch.float32, {}),
        (2 * dense, torch.bfloat16, {"device_map": "auto"}),
        (3 * dense, torch.bfloat16, {}),
    ):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        assert models.placement(small, cuda, dtype) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_engine_on_cuda_in_bfloat16(families):
    folder = checkpoints.find_model(str(families["qwen2"]))
    scores = {}
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float32), ("cuda", torch.bfloat16)):
        model, tokenizer = models.load_model(folder, torch.device(device), dtype)
        patcher = engine.PatchedPrompts(model, tokenizer, PROMPTS, ANSWERS)
        scores[device, dtype] = patcher.scores(2, 2 * patcher.streams[:, 2, None])
    torch.testing.assert_close(scores["cpu", torch.float32], scores["cuda", torch.float32], rtol=0, atol=1e-2)
    torch.testing.assert_close(scores["cpu", torch.float32], scores["cuda", torch.bfloat16], rtol=0, atol=0.3)
