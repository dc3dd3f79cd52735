"""Ablation: edits against forward passes by hand, packs, known subspaces, nulls, the rule, models with a known truth."""

import json
import math
import shutil
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_model
from transformers import AutoModelForCausalLM

import utils
import verdicts
from bench import planted
from lab import answers, checkpoints, edits, engine, ladder, models, questions, room, runs, statistics
from reports import ablation_opening, ablation_tables

SITES = (2, 3)
PROMPTS = ["Question: Max has 7 eggs.\nAnswer:", "问题：小杰有7个鸡蛋，然后卖掉3个鸡蛋。\n答案："]


@pytest.fixture(scope="module")
def ablation(script):
    return script("ablation.py")


@pytest.fixture(scope="module")
def loaded(families):
    cpu = torch.device("cpu")
    return {
        name: models.load_model(checkpoints.find_model(str(path)), cpu, torch.float32)
        for name, path in families.items()
    }


def edits_of(width: int, strength: float = 0.7, complement: bool = False) -> dict:
    bases = utils.random_subspaces(torch.Generator().manual_seed(1), len(SITES), 3, width).float()
    return {site: edits.Edit(basis, strength, complement) for site, basis in zip(SITES, bases)}


def edited(model, chosen: dict, scope: str | None):
    """The stream edited as the script edits it."""
    return models.edited_stream(model, {site: edit.of for site, edit in chosen.items()}, scope)


def by_hand(model, ids: torch.Tensor, chosen: dict, places: torch.Tensor) -> torch.Tensor:
    """Logits of one sequence (T,) without cache or hooks, the stream edited at `places` (T,) bool."""
    length = len(ids)
    positions = torch.arange(length)[None]
    hidden = model.model.embed_tokens(ids[None])
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
    rotary = model.model.rotary_emb(hidden, positions)
    for site in range(len(model.model.layers) + 1):
        if site in chosen:
            edit = chosen[site]
            projector = (edit.basis.T @ edit.basis).double()
            if edit.complement:
                projector = torch.eye(len(projector)).double() - projector
            changed = hidden.double() - edit.strength * hidden.double() @ projector
            hidden = torch.where(places[None, :, None], changed.float(), hidden)
        if site < len(model.model.layers):
            hidden = model.model.layers[site](
                hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary
            )
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return model.lm_head(model.model.norm(hidden))[0]


@pytest.mark.parametrize("scope", ["last", "prefill", "all"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
@pytest.mark.parametrize("complement", [False, True])
@torch.inference_mode()
def test_every_scope_equals_a_forward_pass_by_hand(loaded, scope, family, complement):
    """A padded batch with cache, prompt and then three tokens one by one, against each sequence alone from scratch."""
    model, tokenizer = loaded[family]
    chosen = edits_of(model.config.hidden_size, complement=complement)
    inputs = models.padded_batch(tokenizer, PROMPTS, model.device)
    lengths = inputs["attention_mask"].sum(1).tolist()
    assert lengths[0] != lengths[1]
    new = torch.tensor([[5, 77, 130], [400, 9, 12]])
    steps = []
    with edited(model, chosen, scope):
        mask, positions = inputs["attention_mask"], inputs["position_ids"]
        output = model(**inputs, use_cache=True)
        steps.append(output.logits[:, -1])
        for token in new.T:
            mask = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], 1)
            positions = positions[:, -1:] + 1
            cache = output.past_key_values
            output = model(token[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache)
            steps.append(output.logits[:, -1])
    found = torch.stack(steps, 1)  # (prompts, steps, vocabulary)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor(tokenizer(prompt)["input_ids"])
        ids, length = torch.cat([ids, new[row]]), len(ids)
        scoped = {"last": [length - 1], "prefill": range(length), "all": range(length + 3)}[scope]
        places = torch.tensor([place in scoped for place in range(length + 3)])
        expected = by_hand(model, ids, chosen, places)[length - 1 :]
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)
    assert (found - by_hand(model, ids, {}, places)[length - 1 :]).abs().max() > 0.01  # the edit does something


@pytest.mark.parametrize("scope", ["last", "prefill", "all"])
@torch.inference_mode()
def test_complete_removal_leaves_nothing_at_the_scoped_positions_and_touches_no_other(loaded, scope):
    model, tokenizer = loaded["qwen2"]
    chosen = edits_of(model.config.hidden_size, strength=1.0)
    inputs = models.padded_batch(tokenizer, PROMPTS[:1], model.device)
    seen = {site: [] for site in SITES}
    with edited(model, chosen, scope):
        hooks = [
            model.model.layers[site].register_forward_pre_hook(
                lambda _, args, site=site: seen[site].append((args[0] @ chosen[site].basis.T).norm(dim=-1)[0])
            )
            for site in SITES
        ]
        output = model(**inputs, use_cache=True)
        model(torch.tensor([[5]]), past_key_values=output.past_key_values)
        for hook in hooks:
            hook.remove()
    for prompt, token in seen.values():
        gone = {"last": prompt[-1:], "prefill": prompt, "all": torch.cat([prompt, token])}[scope]
        assert gone.max() < 1e-5
        kept = {"last": torch.cat([prompt[:-1], token]), "prefill": token, "all": torch.ones(1)}[scope]
        assert kept.min() > 1e-2


def test_strength_zero_changes_no_bit(loaded):
    model, tokenizer = loaded["qwen2"]
    for complement in (False, True):
        chosen = edits_of(model.config.hidden_size, strength=0.0, complement=complement)
        inputs = models.padded_batch(tokenizer, PROMPTS, model.device)
        with torch.inference_mode():
            plain = model(**inputs).logits
            with edited(model, chosen, "all"):
                assert torch.equal(model(**inputs).logits, plain)
        outputs = models.generate(model, tokenizer, PROMPTS, 6, 2)
        during = lambda _, chosen=chosen: edited(model, chosen, "all")  # noqa: E731
        assert models.generate(model, tokenizer, PROMPTS, 6, 2, during) == outputs


def test_every_batch_of_a_generation_is_edited_alike(loaded):
    """The hooks start afresh with each batch, and the batch size does not matter."""
    model, tokenizer = loaded["qwen2"]
    chosen = edits_of(model.config.hidden_size, strength=1.5)
    prompts = PROMPTS * 3
    during = lambda _: edited(model, chosen, "last")  # noqa: E731
    alone = [models.generate(model, tokenizer, [prompt], 6, 1, during)[0] for prompt in prompts]
    assert models.generate(model, tokenizer, prompts, 6, 2, during) == alone
    assert models.generate(model, tokenizer, prompts, 6, 6, during) == alone


def test_hooks_are_gone_after_use_and_after_an_error(loaded):
    model, tokenizer = loaded["qwen2"]
    modules = [*model.model.layers, model.model.norm]
    good = edits_of(model.config.hidden_size)
    with edited(model, good, "all"):
        assert sum(len(module._forward_pre_hooks) for module in modules) == len(SITES)
    assert not any(module._forward_pre_hooks for module in modules)
    with pytest.raises(KeyError), edited(model, good, "all"):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in modules)
    wrong = {2: edits.Edit(torch.eye(3, 7), 1.0)}
    with pytest.raises(RuntimeError):
        models.generate(model, tokenizer, PROMPTS, 3, 2, lambda _: edited(model, wrong, "all"))
    assert not any(module._forward_pre_hooks for module in modules)
    with pytest.raises(IndexError), edited(model, good | {99: good[2]}, "all"):
        pass
    assert not any(module._forward_pre_hooks for module in modules)


def clouds(languages: int = 3, problems: int = 24, width: int = 20, apart: float = 5.0) -> torch.Tensor:
    """(languages, problems, 2 sites, d): noise around language means, at the second site other ones."""
    generator = torch.Generator().manual_seed(0)
    means = apart * torch.randn(languages, 1, 2, width, generator=generator, dtype=torch.float64)
    shift = 3 * torch.randn(width, generator=generator, dtype=torch.float64)
    return means + shift + torch.randn(languages, problems, 2, width, generator=generator, dtype=torch.float64)


def test_the_language_subspace_spans_the_differences_of_the_means(ablation):
    streams = clouds()
    bases = ablation.language_bases(streams)
    assert bases.shape == (2, 2, 20)
    torch.testing.assert_close(bases @ bases.mT, torch.eye(2).double().expand(2, 2, 2))
    means = streams.mean(1)
    for site, basis in enumerate(bases):
        difference = means[1:, site] - means[0, site]
        torch.testing.assert_close(difference @ basis.T @ basis, difference)


def test_the_papers_two_steps_give_the_same_span(ablation):
    """Its code looks for the point that every mean has in common, orthogonal to the subspace, and takes that away first."""
    streams = clouds()
    for site, basis in enumerate(ablation.language_bases(streams)):
        means = streams.mean(1)[:, site]  # (languages, d)
        common = torch.linalg.pinv(means) @ torch.ones(3).double()
        common = common / common.square().sum()
        right = torch.linalg.svd(means - common)[2][:2]
        assert utils.grassmann_similarity(right, basis) == pytest.approx(1)
        torch.testing.assert_close(basis @ common, torch.zeros(2).double(), atol=1e-9, rtol=0)


def test_shuffled_languages_leave_the_language_direction_out(ablation):
    """An uneven shuffle would not: its groups differ in how much of each language they hold."""
    streams = clouds(languages=2, width=100, apart=20.0)
    language, similar, uneven = ablation.language_bases(streams), [], []
    for draw in range(10):
        shuffled = ablation.shuffled_bases(streams, torch.Generator().manual_seed(draw))
        assert shuffled.shape == language.shape
        similar.append(utils.grassmann_similarity(shuffled, language).mean())
        order = torch.randperm(48, generator=torch.Generator().manual_seed(draw))
        free = ablation.language_bases(streams.flatten(0, 1)[order].unflatten(0, (2, 24)))
        uneven.append(utils.grassmann_similarity(free, language).mean())
    assert np.mean(similar) < 0.03 < 0.5 < np.mean(uneven)
    again = ablation.shuffled_bases(streams, torch.Generator().manual_seed(9))
    assert torch.equal(shuffled, again)


def write_phase2(path, out, basis: torch.Tensor, site: int, fitted_on: tuple = ()) -> None:
    """The files of phase 2 that the script reads, with a Z of our own."""
    out.mkdir(parents=True, exist_ok=True)
    z = {
        "method": "weight",
        "layer": site - 1,
        "site": site,
        "k": len(basis),
        "passed": True,
        "fitted_on": [*fitted_on],
        "fitted_answers": [],
    }
    folder = checkpoints.find_model(str(path))
    results = {
        "script": "phase2",
        "model": folder.identity,
        "settings": {"layer": site - 1, "languages": ["en", "zh"]},
        "layer_chosen": "given",
        "z_dimensions": [len(basis)],
        "tests": {},
    }
    (out / "phase2_results.json").write_text(json.dumps(results | {"z": z, "fingerprint": "0" * 16}))
    np.save(out / "phase2_z_basis.npy", basis.float().numpy())
    np.save(out / "phase2_layer_subspaces.npy", np.zeros((folder.layers, len(basis), folder.width), np.float32))


ANSWERS = [(5,), (77,), (130, 9), (130, 12), (400, 9, 4), (400, 9, 5)]
TEXTS = ["Question: Max has 7 eggs.\nAnswer:", "Question: Max has 12 eggs, and sells 3 of them.\nAnswer:"]


def packed_texts(model, tokenizer, texts: list[str], sites: list[int] = SITES) -> edits.Pack:
    """One pack of texts that are read from their third token on, run once."""
    rows = tokenizer(texts)["input_ids"]
    pack = edits.Pack(model, rows, [3] * len(rows), engine.AnswerTree(ANSWERS, model.device), 0)
    pack.run_unedited(sites)
    return pack


def alone(model, ids: list[int], answers_: list, logits_of) -> tuple[np.ndarray, float]:
    """(log-probabilities of answers in the whole vocabulary, nats per token from the third on), each answer in a pass of its own."""
    found = []
    for answer in answers_:
        logits = logits_of(torch.tensor([*ids, *answer])).log_softmax(-1)
        found.append(sum(float(logits[len(ids) - 1 + place, token]) for place, token in enumerate(answer)))
    logits = logits_of(torch.tensor(ids)).log_softmax(-1)
    return np.array(found), -float(np.mean([float(logits[place - 1, ids[place]]) for place in range(3, len(ids))]))


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("scope", ["last", "prefill"])
@torch.inference_mode()
def test_a_pack_equals_every_prompt_alone_by_hand(loaded, scope, complement):
    """Prompts that share their beginning in one sequence, answers of several tokens below them, edits behind two layers."""
    model, tokenizer = loaded["qwen2"]
    chosen = edits_of(model.config.hidden_size, complement=complement)
    pack = packed_texts(model, tokenizer, TEXTS)
    assert len(pack.tokens) < sum(len(path) for path in pack.paths) + 2 * 3  # a beginning once
    found, _ = pack.run(chosen, scope)
    for text, (scores, mass, nats) in zip(TEXTS, found):
        ids = tokenizer(text)["input_ids"]

        def logits_of(tokens: torch.Tensor, length: int = len(ids)) -> torch.Tensor:
            places = torch.arange(len(tokens)) < length
            return by_hand(
                model, tokens, chosen, places if scope == "prefill" else torch.arange(len(tokens)) == length - 1
            )

        logs, text_nats = alone(model, ids, ANSWERS, logits_of)
        assert mass == pytest.approx(branching(model, ids, logits_of), rel=1e-3)
        assert nats == pytest.approx(text_nats, abs=1e-4)
        np.testing.assert_allclose(scores, within_set(model, ids, logits_of), atol=2e-4)
        assert logs.shape == scores.shape


def within_set(model, ids: list[int], logits_of) -> np.ndarray:
    """Log-probabilities within the answer set: at every parting shared among the tokens that go on with an answer."""
    found = []
    for answer in ANSWERS:
        total = 0.0
        for place, token in enumerate(answer):
            going = sorted(
                {other[place] for other in ANSWERS if other[:place] == answer[:place] and len(other) > place}
            )
            logits = logits_of(torch.tensor([*ids, *answer[:place]]))[-1][going]
            total += float(logits.log_softmax(-1)[going.index(token)])
        found.append(total)
    return np.array(found)


def branching(model, ids: list[int], logits_of) -> float:
    """Probability of the set, at partings only."""
    total = 0.0
    for answer in ANSWERS:
        log = 0.0
        for place, token in enumerate(answer):
            if len({other[place] for other in ANSWERS if other[:place] == answer[:place]}) > 1:
                log += float(logits_of(torch.tensor([*ids, *answer[:place]]))[-1].log_softmax(-1)[token])
        total += math.exp(log)
    return total


@torch.inference_mode()
def test_packs_of_every_family_equal_the_models_own_pass(loaded):
    """Windows, norms and parallel blocks included; edited as `edited_stream` edits a prompt alone."""
    families = ("qwen3", "llama", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt_neox", "qwen2_moe")
    for name, scope in product(families, edits.SCOPES):
        model, tokenizer = loaded[name]
        chosen = edits_of(model.config.hidden_size)
        found, _ = packed_texts(model, tokenizer, TEXTS).run(chosen, scope)
        for text, (scores, *_) in zip(TEXTS, found):
            ids = torch.tensor(tokenizer(text)["input_ids"])[None]
            with edited(model, chosen, scope):
                logits = model(ids).logits[0, -1].float()
            first = logits[[5, 77, 130, 400]].log_softmax(-1)
            np.testing.assert_allclose(np.exp(scores[:2]), first[:2].exp(), atol=1e-4, err_msg=name)
            np.testing.assert_allclose(np.exp(scores[2:4]).sum(), first[2].exp(), atol=1e-4, err_msg=name)


def test_strength_zero_runs_through_the_edits_and_changes_no_bit_of_a_pack(loaded):
    model, tokenizer = loaded["qwen2"]
    pack = packed_texts(model, tokenizer, TEXTS)
    plain, nothing = pack.run({}, "prefill")
    assert not nothing
    for complement in (False, True):
        same, lengths = pack.run(edits_of(model.config.hidden_size, 0.0, complement), "prefill")
        assert {site for _, site in lengths} == set(SITES)
        assert all((length == 0).all() for length in lengths.values())
        for (scores, *other), (own, *rest) in zip(same, plain):
            assert np.array_equal(scores, own) and other == rest
    moved, _ = pack.run(edits_of(model.config.hidden_size, 1.0), "prefill")
    assert np.abs(moved[0][0] - plain[0][0]).max() > 1e-3


def test_random_directions_change_every_place_as_much_as_the_edit(loaded):
    model, tokenizer = loaded["qwen2"]
    pack = packed_texts(model, tokenizer, TEXTS)
    chosen = edits_of(model.config.hidden_size, 0.4)
    bases = torch.stack([edit.basis for edit in chosen.values()])
    _, lengths = pack.run(chosen, "prefill")
    turned = edits.turned(bases, torch.Generator().manual_seed(3))
    drawn = {site: edits.Matched(basis, lengths) for site, basis in zip(SITES, turned)}
    found, own = pack.run(drawn, "prefill")
    assert own.keys() == lengths.keys()
    for place, length in lengths.items():
        assert length.min() > 0
        torch.testing.assert_close(own[place], length, rtol=1e-4, atol=1e-5)
    assert np.abs(found[0][0] - pack.run(chosen, "prefill")[0][0][0]).max() > 1e-4


def test_a_rotation_leaves_the_layers_subspaces_to_each_other_as_they_were():
    bases = utils.random_subspaces(torch.Generator().manual_seed(0), 6, 2, 40).float()
    turned = edits.turned(bases, torch.Generator().manual_seed(1))
    torch.testing.assert_close(turned @ turned.mT, torch.eye(2).expand(6, 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(utils.similarity_matrix(turned), utils.similarity_matrix(bases), atol=1e-5, rtol=0)
    away = [
        utils.grassmann_similarity(edits.turned(bases, torch.Generator().manual_seed(seed)), bases).mean().item()
        for seed in range(40)
    ]
    assert np.mean(away) == pytest.approx(2 / 40, abs=0.02)  # as of Haar subspaces


def test_mean_ablation_puts_the_mean_in_the_parts_place_and_leaves_the_rest():
    basis = utils.random_subspaces(torch.Generator().manual_seed(0), 1, 3, 20)[0].float()
    states, toward = torch.randn(7, 20), torch.randn(2, 3)
    for language in (0, 1):
        edit = edits.Edit(basis, 1.0, toward=toward)
        after = states - edit.part(states, language)
        torch.testing.assert_close(after @ basis.T, toward[language].expand(7, 3), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(utils.outside(after, basis), utils.outside(states, basis), atol=1e-5, rtol=1e-4)
        own = edits.Edit(basis, 1.0, toward=(states[:1] @ basis.T).repeat(2, 1))
        torch.testing.assert_close(own.part(states[:1], language), torch.zeros(1, 20), atol=1e-5, rtol=0)
    means = torch.randn(2, 20)
    rest = edits.Edit(basis, 1.0, complement=True, toward=means)
    after = states - rest.part(states, 1)
    expected = utils.project(states, basis) + utils.outside(means[1], basis)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    half = edits.Edit(basis, 0.5, toward=toward)
    between = states - half.strength * half.part(states)
    torch.testing.assert_close(between @ basis.T, (states @ basis.T + toward[0]) / 2, atol=1e-5, rtol=1e-4)


def test_an_answer_counts_in_any_language_and_its_odds_are_against_all_others():
    """(1 language pair, 1 problem, 2 answers): probabilities .1 .3 | .4 .2 of the answers in en and zh."""
    scores = np.log(np.array([[[[0.1, 0.3], [0.4, 0.2]]], [[[0.5, 0.1], [0.1, 0.3]]]]))
    outcome = edits.Outcome(scores, np.zeros((2, 1)), None, np.array([0]))
    assert outcome.right.tolist() == [[False], [True]]
    assert outcome.kept.tolist() == [[True], [False]]  # its most probable answer is English; asked in Chinese
    np.testing.assert_allclose(outcome.odds, np.log([[0.4 / 0.6], [0.6 / 0.4]]))


def problem(index: int, answer: str = "a"):
    text = {"en": f"question {index}", "zh": f"问题 {index}"}
    return questions.Problem(str(index), "", answer, text, {"en": answer, "zh": answer + "字"})


def test_halves_share_no_answer_and_the_fitted_ones_are_for_development():
    problems = [problem(index, f"w{index % 7}") for index in range(30)]
    draw = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    development = room.by_answer(problems, frozenset(), draw())
    parts = [{one.answer for one, mine in zip(problems, development) if mine is half} for half in (True, False)]
    assert parts[0] and parts[1] and not parts[0] & parts[1]
    assert development == room.by_answer(problems, frozenset(), draw())
    fitted = room.by_answer(problems, frozenset({"w1", "w2"}), draw())
    assert {one.answer for one, mine in zip(problems, fitted) if mine} == {"w1", "w2"}


def test_the_rung_with_most_room_is_taken_and_of_equals_the_hardest(monkeypatch):
    wanted = room.Wanted(low=0.2, high=0.8, precheck=4, most=8, least=2)

    def chosen(*shares) -> tuple[int, int]:
        rungs = [
            questions.Asked(
                {}, [SimpleNamespace(stem=f"rung{place}")], [problem(index, f"w{index}") for index in range(8)], [], {}
            )
            for place in range(len(shares))
        ]
        known = answers.AnswerSet([f"w{index}" for index in range(8)], ["en", "zh"], [], [])
        monkeypatch.setattr(answers, "answer_set", lambda *_: known)
        asker = ladder.Asker(None, None, {"en": {}, "zh": {}}, 4)
        earlier = {f"rung{place}": [round(100 * share), 100] for place, share in enumerate(shares)}
        rung, rows = room.choose_rung(asker, rungs, wanted, earlier, set(), torch.Generator().manual_seed(0))
        assert rows[rung.number]["share"] == shares[rung.number]
        return rung.number, len(rows)

    assert chosen(0.0, 0.6, 1.0) == (1, 2)  # the walk ends at a rung with room
    assert chosen(0.0, 0.95, 0.9) == (2, 3)
    assert chosen(0.0, 0.9, 0.9) == (1, 3)
    assert chosen(0.0, 0.0) == (0, 2)
    assert chosen(0.15, 1.0) == (0, 2)


def results_with(odds: tuple, difference: float = 0.0, p: float = 1.0, text: float = 0.0, **changes) -> dict:
    """What the rule reads, with a primary row of that change of log-odds (value, low, high), of accuracy and of the text."""

    def row(role: str, **values) -> dict:
        plain = {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
        own = {"roles": [role], "difference": 0.0, "p": 1.0, "odds": plain, "text": plain, "largest": 0.0}
        return own | {"kept_difference_interval": [0.0, 0.0], "difference_interval": [0.0, 0.0]} | values

    record = dict(zip(("value", "low", "high"), odds)) | {"p": changes.pop("odds_p", 0.001)}
    damage = {"value": text, "low": text - 0.01, "high": text + 0.01}
    rows = [row("primary", odds=record, text=damage, difference=difference, p=p)]
    rows += [row(role) for role in ("complete", "nothing", "reinjected", "z_perp", "z_perp_last", "z_perp_mean")]
    null = {"draws": 20, "low": -0.1, "middle": 0.0, "high": 0.1, "p": changes.pop("p_rise", 1 / 21)}
    draws = {"draws": 20, "low": -2.1, "middle": -2.0, "high": -1.9, "p": 1 / 21}
    few = draws | {"draws": 6, "p": 1 / 7}
    nulls = [{"role": "primary", "odds": null, "p_fall": changes.pop("p_fall", 1 / 21), "text": null}]
    nulls += [{"role": role, "odds": few, "p_fall": 1 / 7, "text": few} for role in ("complete", "z_perp")]
    nulls.append({"role": "z_perp_mean", "odds": draws, "p_fall": 1 / 21, "text": draws})
    problems = {"room": changes.pop("room", 10), "solved": changes.pop("solved", 10), "test": changes.pop("test", 48)}
    guess = {"p": changes.pop("guess", 0.001)}
    return {"rows": rows, "nulls": nulls, "problems": problems, "guessing": guess, "measured": True} | changes


@pytest.mark.parametrize(
    "given, verdict, holds",
    [
        ({"odds": (0.6, 0.2, 1.0), "difference": 0.1}, "ablation_helps", True),
        ({"odds": (0.6, 0.2, 1.0), "difference": 0.1, "p_rise": 0.3}, "inconclusive", None),  # so do random directions
        ({"odds": (0.6, 0.2, 1.0), "difference": 0.1, "room": 5}, "untestable", None),  # nothing more can become right
        ({"odds": (0.6, 0.2, 1.0), "difference": -0.1}, "inconclusive", None),  # odds and answers contradict
        ({"odds": (-0.6, -1.0, -0.2), "difference": -0.1}, "ablation_hurts", False),
        ({"odds": (-0.6, -1.0, -0.2), "difference": -0.1, "p_fall": 0.8}, "ablation_hurts", False),
        ({"odds": (-0.6, -1.0, -0.2), "difference": -0.1, "room": 0}, "ablation_hurts", False),
        ({"odds": (-0.6, -1.0, -0.2), "difference": -0.1, "odds_p": 0.06}, "inconclusive", None),  # too few problems
        ({"odds": (0.6, 0.2, 1.0), "difference": 0.1, "odds_p": 0.06}, "inconclusive", None),
        ({"odds": (0.0, -0.3, 0.3)}, "no_effect", False),  # a factor of 1.5 is excluded on both sides
        ({"odds": (0.0, -0.3, 0.3), "room": 0}, "no_effect", None),
        ({"odds": (0.2, 0.1, 0.3)}, "no_effect", False),  # surely above 0, and surely too small to speak of
        ({"odds": (0.0, -0.3, 0.3), "difference": -0.4, "p": 0.01}, "inconclusive", None),
        ({"odds": (0.3, -0.2, 0.8)}, "inconclusive", None),  # wide
        ({"odds": (0.0, 0.0, 0.0), "measured": False, "solved": 0, "guess": 0.5}, "untestable", None),
    ],
)
def test_verdict_by_the_rule(given, verdict, holds):
    judgement = verdicts.ablation(results_with(**given))
    assert judgement["verdict"] == verdict
    assert judgement["holds"]["language"] is holds
    assert all(isinstance(passed, bool) for passed in judgement["tests"].values())


@pytest.mark.parametrize(
    "middle, low, holds",
    [
        (-2.0, -0.1, True),  # random subspaces lose the answer, Z keeps it
        (-0.3, -0.1, None),  # so do random ones: nothing there is needed
        (-0.3, -2.0, False),  # random ones keep what Z loses
        (-2.0, -2.0, False),
    ],
)
def test_z_keeps_only_what_random_subspaces_lose(middle, low, holds):
    results = results_with((0.0, -0.3, 0.3))
    row = next(row for row in results["rows"] if "z_perp_mean" in row["roles"])
    row["odds"] = {"value": low, "low": low, "high": low + 0.1, "p": 1.0}
    results["nulls"][-1]["odds"]["middle"] = middle
    assert verdicts.ablation(results)["holds"]["z_perp"] is holds


def test_damage_to_plain_text_and_the_null_are_told_apart():
    falls = {"odds": (-0.6, -1.0, -0.2), "difference": -0.1}
    effect = verdicts.ablation(results_with(**falls, text=0.2))["effects"]["primary"]
    assert effect["text"] and effect["beyond_fall"]
    effect = verdicts.ablation(results_with(**falls, text=0.02, p_fall=0.5))["effects"]["primary"]
    assert not effect["text"] and not effect["beyond_fall"]
    results = results_with(**falls)
    primary = next(row for row in results["rows"] if "primary" in row["roles"])
    assert verdicts.ablation(results)["holds"]["reinjected"] is None  # removal alone changes no language
    primary["kept_difference_interval"] = [-0.4, -0.2]
    for role, low, expected in (("z_perp_mean", -0.3, True), ("z_perp_mean", -0.6, None), ("reinjected", 0.0, True)):
        row = next(row for row in results["rows"] if role in row["roles"])
        row["odds"] = {"value": 0.0, "low": low, "high": 0.1, "p": 1.0}
        assert verdicts.ablation(results)["holds"][role.removesuffix("_mean")] is expected
    row["kept_difference_interval"] = [-0.4, -0.2]
    assert verdicts.ablation(results)["holds"]["reinjected"] is False
    results["nulls"][-1]["odds"]["p"] = 2 / 21  # a random subspace does as well
    results["rows"][-1]["odds"]["low"] = 0.0
    assert verdicts.ablation(results)["holds"]["z_perp"] is None  # the answer stays, as without random subspaces
    row["kept_difference_interval"] = [0, 0]
    assert verdicts.ablation(results | {"problems": results["problems"] | {"test": 48}})["holds"]["reinjected"] is True
    few = results | {"problems": results["problems"] | {"test": 24}}  # none lost of 24: up to 14 % may be
    assert verdicts.ablation(few)["holds"]["reinjected"] is None


def test_the_nulls_can_reach_the_level(ablation):
    assert statistics.permutation_p(0, ablation.NULLS["primary"][1]) < verdicts.LEVEL
    assert verdicts.fewest_wins(99) == ablation.SOLVED
    assert statistics.mcnemar_p(6, 0) < verdicts.LEVEL <= statistics.mcnemar_p(5, 0)


@pytest.mark.parametrize("strength", [0.2, 0.4, 1.0])
def test_every_role_is_played_by_one_row(ablation, strength):
    """Also where the chosen strength is complete removal, which is then scored once."""
    best = ablation.Setting("language", "middle", "prefill", strength)
    chosen = {"language": best, "language_reinjected": replace(best, condition="language_reinjected", reinjection=0.2)}
    rows = list(ablation.settings(chosen))
    assert len(set(rows)) == len(rows)
    played = [role for setting in rows for role in ablation.roles(setting, setting in chosen.values())]
    assert sorted(set(played)) == sorted(ablation.ROLES)
    assert len(played) == len(ablation.ROLES)
    assert ablation.STRENGTHS[0] == 0 and list(ablation.STRENGTHS) == sorted(ablation.STRENGTHS)


def test_random_subspaces_beside_random_directions_are_significant_as_often_as_chance(loaded):
    """A language subspace that is no more than a random one: p below .05 in at most 8 % of draws, within sampling."""
    model, tokenizer = loaded["qwen2"]
    pack, width = packed_texts(model, tokenizer, TEXTS), model.config.hidden_size
    hits, rounds, draws = 0, 60, 20

    def odds(drawn: dict) -> tuple[float, dict]:
        found, lengths = pack.run(drawn, "prefill", mass=False)
        return float(np.mean([scores[0] - np.log(np.exp(scores[1:]).sum()) for scores, *_ in found])), lengths

    for number in range(rounds):
        bases = utils.random_subspaces(torch.Generator().manual_seed(number), len(SITES), 1, width).float()
        own, lengths = odds({site: edits.Edit(basis, 1.0) for site, basis in zip(SITES, bases)})
        null = []
        for draw in range(draws):
            turned = edits.turned(bases, torch.Generator().manual_seed(1000 * number + draw + 77))
            null.append(odds({site: edits.Matched(basis, lengths) for site, basis in zip(SITES, turned)})[0])
        hits += sum(side >= draws for side in ((np.array(null) < own).sum(), (np.array(null) > own).sum()))
    # two sides of 1/21 each; 60 rounds of .095 stay below 12 in 99 % of cases
    assert hits <= 12, hits


def run(ablation, path, out, *flags) -> dict:
    ablation.main(["--model", str(path), "--out", str(out), "--device", "cpu", *flags])
    return json.loads((out / "ablation_results.json").read_text())


def row_of(results: dict, role: str) -> dict:
    return next(row for row in results["rows"] if role in row["roles"])


def headings_are_the_steps(ablation, text: str) -> bool:
    steps = " ".join(ablation.__doc__.split("headings:")[1].split())
    found = [line[3:] for line in text.splitlines() if line.startswith("## ") and line[3].isdigit()]
    return " ".join(found).lower() == steps.lower()


def test_random_weights_are_untestable(ablation, small, tmp_path, monkeypatch, capsys):
    basis = utils.random_subspaces(torch.Generator().manual_seed(0), 1, 5, 48)[0]
    write_phase2(small, tmp_path, basis, 3)
    results = run(ablation, small, tmp_path)
    assert results["verdict"] == "untestable"
    assert results["rows"] == [] and results["none"]["accuracy"] < 0.2
    assert [claim["holds"] for claim in results["claims"]] == [None] * 3
    text = (tmp_path / "ablation_output.md").read_text()
    assert "no edit can be judged" in text and "cannot be tested" in text and "ablation_test.png" not in text
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"}
    monkeypatch.setattr(models, "load_model", None)  # neither of the two needs a model
    ablation.main(["--out", str(tmp_path), "--report-only"])
    run(ablation, small, tmp_path)
    assert "there already" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"} == files


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """The answer's code knows nothing of the language."""
    return planted.write_planted(tmp_path_factory.mktemp("free") / "model", "planted", 0)


@pytest.fixture(scope="module")
def bound(free, tmp_path_factory):
    """The same, but the language itself opens the gates through which the code becomes the output word's."""
    path = tmp_path_factory.mktemp("bound") / "model"
    shutil.copytree(free.path, path)
    model = AutoModelForCausalLM.from_pretrained(path)
    mlp, rank = model.model.layers[planted.KINDS["planted"].translates].mlp, planted.RANK
    with torch.no_grad():
        for start, sign in ((0, 1), (rank, -1)):
            mlp.gate_proj.weight[start : start + rank] = sign * planted.OPEN * free.language.float()
            mlp.up_proj.weight[start : start + rank] = mlp.up_proj.weight[:rank]
            mlp.down_proj.weight[:, start : start + rank] = mlp.down_proj.weight[:, :rank]
    model.save_pretrained(path)
    return path


def test_where_the_answer_knows_no_language_removing_it_changes_nothing(ablation, free, tmp_path):
    write_phase2(free.path, tmp_path, free.answers, free.bottleneck + 1)
    results = run(ablation, free.path, tmp_path)
    assert results["verdict"] == "no_effect"
    assert results["tests"]["no edit and λ 0 are the same"]
    assert row_of(results, "nothing")["largest"] == 0
    bare = row_of(results, "complete")
    assert abs(bare["odds"]["value"]) < 0.2 and bare["accuracy"] == results["none"]["accuracy"] == 1
    assert 0.2 < bare["kept"] < 0.8  # what is left decides by noise
    assert (
        row_of(results, "z_perp_mean")["accuracy"] == 1
    )  # Z holds the answer; without the rest's mean no gate is open
    assert row_of(results, "z_perp_last")["accuracy"] < 0.5
    assert results["effects"]["z_perp_mean"]["intact"] and results["effects"]["z_perp_mean"]["beyond_rise"]
    assert all(layer["stability"] > 0.9 for layer in results["subspaces"][2:])
    holds = {claim["id"]: claim["holds"] for claim in results["claims"]}
    assert holds["language"] is None  # no room to improve
    for null in results["nulls"]:
        for measure, values in null["changes"].items():
            record = null[measure]
            assert record["draws"] == len(values) == ablation.NULLS[null["role"]][1]
            assert min(values) <= record["low"] <= record["middle"] <= record["high"] <= max(values)
    others = [row for row in results["rows"] if row["strength"] and "primary" not in row["roles"]]
    adjusted = statistics.holm([row["odds"]["p"] for row in others])
    assert [row["odds"]["p_holm"] for row in others] == pytest.approx(adjusted, rel=2e-3)
    text = (tmp_path / "ablation_output.md").read_text()
    assert headings_are_the_steps(ablation, text) and "the same to the last bit" in text
    assert holds["z_perp"] is True and "All but Z can go at the last position" in text
    null = next(null for null in results["nulls"] if null["role"] == "z_perp_mean")
    null["odds"] |= {"low": -0.06, "middle": -0.05, "high": -0.04}
    _, text = again(ablation, tmp_path, results)
    assert "nothing follows for Z" in text and "or with Haar-random subspaces of its size kept (-0.06 to -0.04" in text
    assert "which lose nothing either" in text and "All but Z can go" not in text


def test_where_the_answer_needs_the_language_removing_it_hurts(ablation, free, bound, tmp_path):
    write_phase2(bound, tmp_path, free.answers, free.bottleneck + 1)
    results = run(ablation, bound, tmp_path)
    assert results["none"]["accuracy"] == 1
    assert results["verdict"] == "ablation_hurts"
    effect = results["effects"]["primary"]
    assert effect["beyond_fall"] and not effect["text"]
    bare = row_of(results, "complete")
    assert bare["accuracy"] < 0.3 and bare["odds"]["high"] < -3
    (null,) = (null for null in results["nulls"] if null["role"] == "complete")
    assert null["odds"]["low"] > bare["odds"]["high"]
    assert "makes answers worse, more than random directions" in (tmp_path / "ablation_output.md").read_text()
    late = next(row for row in results["rows"] if row["place"] == "late" and row["strength"] == 1)
    assert late["accuracy"] == 1  # by then the output word is there
    judged_again_from_the_file(ablation, tmp_path, results)
    rival_said(ablation, tmp_path, results)


def test_of_all_but_z_the_page_asks_whether_random_subspaces_keep_as_much():
    """What lowers the odds is asked whether draws lower them as far; Z, whether any draw keeps the answer as well."""
    fallen = {"draws": 6, "p": 1 / 7}
    null = {"tested": {"odds": -0.3}, "odds": fallen, "p_fall": 1.0}
    assert ablation_tables.null_p(null | {"role": "z_perp_mean"}) == "< .143 (6 draws)"
    assert ablation_tables.null_p(null | {"role": "primary"}) == "1 (6 draws)"


def test_beyond_few_draws_is_not_said_to_be_beyond_random_directions():
    """Eight draws can show no p below .11, twenty can."""
    said = {n: ablation_opening.beyond_draws({"odds": {"draws": n}}, True, "further") for n in (8, 18, 19, 20)}
    assert all("each of" in said[n] and "too few to tell" in said[n] for n in (8, 18, 19))
    assert said[20] == "further than random directions as large do"
    assert ablation_opening.beyond_draws({"odds": {"draws": 8}}, False, "more").startswith("no more than")


def rival_said(ablation, out, results: dict) -> None:
    """Where made-up languages hurt as much, the page leads with that and shows nothing specific to language."""
    changed = json.loads(json.dumps(results))
    strength = row_of(changed, "primary")["strength"]
    for row in changed["rows"]:
        if row["condition"] == "shuffled" and row["strength"] == strength:
            row["odds"]["value"] = row_of(changed, "primary")["odds"]["value"] - 1
    _, text = again(ablation, out, changed)
    assert "so does the same along made-up languages" in text.split("\n\n")[1]
    assert "nothing specific to language is shown" in text.split("\n\n")[1]
    for row in changed["rows"]:
        if row["condition"] == "shuffled":
            row["odds"]["value"] = 0.0
    _, text = again(ablation, out, changed)
    assert "the answer needs what is removed, and made-up languages less" in text.split("\n\n")[1]
    assert "Random draws stand beside 4 of " in text and "yes (the recipe's hypothesis)" in text
    for row in changed["development"][1:]:
        row["odds"] = changed["development"][0]["odds"] - 1
    _, text = again(ablation, out, changed)
    assert "Here every strength hurt" in text
    complete = row_of(changed, "complete")["odds"]["value"]
    for value, words in (
        (complete - 1, "made-up languages lower them more ("),
        (0.0, "made-up languages change them by +0.00"),
    ):
        next(row for row in changed["rows"] if row["condition"] == "shuffled" and row["strength"] == 1)["odds"][
            "value"
        ] = value
        _, text = again(ablation, out, changed)
        assert words in text.split("\n\n")[1]
        assert "further than each of 8 random draws as large, which are too few to tell" in text.split("\n\n")[1]


def judged_again_from_the_file(ablation, out, results: dict) -> None:
    """Verdict and page follow the saved numbers and today's rule; every kind of no has its own words."""
    fall = {"value": -1.0, "low": -1.5, "high": -0.5, "p": 0.001}
    damaged = {"value": 0.4, "low": 0.3, "high": 0.5, "p": 0.001}
    cases = [
        ({"odds": fall, "difference": -0.2}, {"p_fall": 0.6}, "ablation_hurts", "no more than random directions do"),
        ({"odds": fall, "difference": -0.2, "text": damaged}, {}, "ablation_hurts", "breaks the model rather than"),
        ({"odds": fall, "difference": 0.2}, {}, "inconclusive", "opposite directions"),
        (
            {"odds": fall | {"p": 0.06}, "difference": -0.2},
            {},
            "inconclusive",
            "sign-flip test over problems does not: p .06",
        ),
        (
            {"odds": fall | {"low": -2.0, "high": 2.0}},
            {},
            "inconclusive",
            "holds both no effect and one of a factor 1.5",
        ),
        (
            {"odds": fall | {"low": -0.1, "high": 0.1}},
            {},
            "no_effect",
            "an effect that changes the odds by a factor of 1.5",
        ),
        ({"odds": {"value": 1.0, "low": 0.5, "high": 1.5, "p": 0.001}, "difference": 0.2}, {}, "untestable", "already"),
    ]
    for values, null, verdict, words in cases:
        changed = json.loads(json.dumps(results))
        row_of(changed, "primary").update({"p": 1.0} | values)
        changed["nulls"][0].update(null)
        changed["nulls"][0]["odds"]["p"] = 1 / 21
        found, text = again(ablation, out, changed)
        assert found == verdict and words in text
        if found in ("no_effect", "ablation_hurts", "inconclusive"):
            assert f"at λ {row_of(changed, 'primary')['strength']:g}, the strength chosen" in text
        weaker = "primary" not in row_of(changed, "complete")["roles"]  # where all is removed, the answer is lost
        assert ("; at λ 1 it is not: " in text) is (verdict == "no_effect" and weaker)
    changed["problems"]["room"] = 10
    verdict, text = again(ablation, out, changed)
    assert verdict == "ablation_helps" and "makes the model answer better" in text


def again(ablation, out, results: dict) -> tuple[str, str]:
    """Verdict and page of changed results."""
    (out / "ablation_results.json").write_text(json.dumps(results))
    ablation.main(["--out", str(out), "--report-only"])
    return json.loads((out / "ablation_results.json").read_text())["verdict"], (out / "ablation_output.md").read_text()


def test_what_phase_3_counted_serves_where_it_asked_the_same(ablation, small, tmp_path):
    folder = checkpoints.find_model(str(small))
    asked = SimpleNamespace(settings={"problems": [["sums.jsonl", "0"]], "share": 1 / 3})
    row = {"rung": "sums", "asked": 24, "solved": {"en": 20, "zh": 10}}
    phase3 = {"script": "phase3", "model": folder.identity, "tests": {}, "tried": [row, {"rung": "words", "asked": 0}]}
    for settings, found in (([runs.significant(asked.settings)], {"sums": [30, 48]}), ([], {})):
        (tmp_path / "phase3_results.json").write_text(json.dumps(phase3 | {"settings": {"ladder": settings}}))
        assert ablation.solved_before(tmp_path, folder, [asked]) == found
    assert ablation.solved_before(tmp_path / "none", folder, [asked]) == {}


def test_bad_input_is_named(ablation, small, tmp_path):
    basis = utils.random_subspaces(torch.Generator().manual_seed(0), 1, 5, 48)[0]
    with pytest.raises(runs.UserError, match="run phase2_z_extraction.py"):
        run(ablation, small, tmp_path)
    write_phase2(small, tmp_path, basis[:, :-1], 3)
    with pytest.raises(runs.UserError, match=r"phase2_z_basis.npy has shape \(5, 47\), expected \(5, 48\)"):
        run(ablation, small, tmp_path)
    write_phase2(small, tmp_path, basis, 3)
    with pytest.raises(runs.UserError, match="at least 4 are needed"):
        run(ablation, small, tmp_path, "--limit", "4")
    digits = [
        {"id": str(index), "answer": index, "question": {"en": f"{index}?", "zh": f"{index}？"}} for index in range(9)
    ]
    file = tmp_path / "digits.jsonl"
    file.write_text("\n".join(map(json.dumps, digits)))
    with pytest.raises(runs.UserError, match="no answer_text for en, zh"):
        run(ablation, small, tmp_path, "--problems", str(file))
    flat = random_model(tmp_path / "flat", num_hidden_layers=2)
    write_phase2(flat, tmp_path, basis, 1)
    with pytest.raises(runs.UserError, match="2 layer"):
        run(ablation, flat, tmp_path)
    assert not list(tmp_path.glob("ablation*"))


def test_the_thirds_cover_every_layer(ablation):
    folder = SimpleNamespace(layers=36, name="")
    assert ablation.layer_parts(folder) == {"early": [*range(12)], "middle": [*range(12, 24)], "late": [*range(24, 36)]}
    folder.layers = 8
    assert ablation.layer_parts(folder) == {"early": [0, 1], "middle": [2, 3, 4], "late": [5, 6, 7]}
    folder.layers = 3
    assert ablation.layer_parts(folder) == {"early": [0], "middle": [1], "late": [2]}
