"""Ablation: edits of the stream against a forward pass by hand, known subspaces, the choice of strengths, the verdict."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_model
from controls import BOTTLENECK, LAYERS, write_control

import utils
import verdicts
from lab import checkpoints, models, questions, runs, statistics, subspaces

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


def edits_of(ablation, width: int, strength: float = 0.7, complement: bool = False) -> dict:
    bases = utils.random_subspaces(torch.Generator().manual_seed(1), len(SITES), 3, width).float()
    return {site: ablation.Edit(basis, strength, complement) for site, basis in zip(SITES, bases)}


def edited(model, edits: dict, scope: str | None):
    """The stream edited as the script edits it."""
    return models.edited_stream(model, {site: edit.of for site, edit in edits.items()}, scope)


def by_hand(model, ids: torch.Tensor, edits: dict, places: torch.Tensor) -> torch.Tensor:
    """Logits of one sequence (T,) without cache or hooks, the stream edited at `places` (T,) bool."""
    length = len(ids)
    positions = torch.arange(length)[None]
    hidden = model.model.embed_tokens(ids[None])
    mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
    rotary = model.model.rotary_emb(hidden, positions)
    for site in range(len(model.model.layers) + 1):
        if site in edits:
            edit = edits[site]
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
def test_every_scope_equals_a_forward_pass_by_hand(ablation, loaded, scope, family, complement):
    """A padded batch with cache, prompt and then three tokens one by one, against each sequence alone from scratch."""
    model, tokenizer = loaded[family]
    edits = edits_of(ablation, model.config.hidden_size, complement=complement)
    inputs = models.padded_batch(tokenizer, PROMPTS, model.device)
    lengths = inputs["attention_mask"].sum(1).tolist()
    assert lengths[0] != lengths[1]
    new = torch.tensor([[5, 77, 130], [400, 9, 12]])
    steps = []
    with edited(model, edits, scope):
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
        places = {"last": [length - 1], "prefill": range(length), "all": range(length + 3)}[scope]
        chosen = torch.tensor([place in places for place in range(length + 3)])
        expected = by_hand(model, ids, edits, chosen)[length - 1 :]
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)
    assert (found - by_hand(model, ids, {}, chosen)[length - 1 :]).abs().max() > 0.01  # the edit does something


@pytest.mark.parametrize("scope", ["last", "prefill", "all"])
@torch.inference_mode()
def test_complete_removal_leaves_nothing_at_the_scoped_positions_and_touches_no_other(ablation, loaded, scope):
    model, tokenizer = loaded["qwen2"]
    edits = edits_of(ablation, model.config.hidden_size, strength=1.0)
    inputs = models.padded_batch(tokenizer, PROMPTS[:1], model.device)
    seen = {site: [] for site in SITES}
    with edited(model, edits, scope):
        hooks = [
            model.model.layers[site].register_forward_pre_hook(
                lambda _, args, site=site: seen[site].append((args[0] @ edits[site].basis.T).norm(dim=-1)[0])
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


def test_strength_zero_changes_no_bit(ablation, loaded):
    model, tokenizer = loaded["qwen2"]
    for complement in (False, True):
        edits = edits_of(ablation, model.config.hidden_size, strength=0.0, complement=complement)
        inputs = models.padded_batch(tokenizer, PROMPTS, model.device)
        with torch.inference_mode():
            plain = model(**inputs).logits
            with edited(model, edits, "all"):
                assert torch.equal(model(**inputs).logits, plain)
        outputs = models.generate(model, tokenizer, PROMPTS, 6, 2)
        during = lambda _, edits=edits: edited(model, edits, "all")  # noqa: E731
        assert models.generate(model, tokenizer, PROMPTS, 6, 2, during) == outputs


def test_every_batch_of_a_generation_is_edited_alike(ablation, loaded):
    """The hooks start afresh with each batch, and the batch size does not matter."""
    model, tokenizer = loaded["qwen2"]
    edits = edits_of(ablation, model.config.hidden_size, strength=1.5)
    prompts = PROMPTS * 3
    during = lambda _: edited(model, edits, "last")  # noqa: E731
    alone = [models.generate(model, tokenizer, [prompt], 6, 1, during)[0] for prompt in prompts]
    assert models.generate(model, tokenizer, prompts, 6, 2, during) == alone
    assert models.generate(model, tokenizer, prompts, 6, 6, during) == alone


def test_hooks_are_gone_after_use_and_after_an_error(ablation, loaded):
    model, tokenizer = loaded["qwen2"]
    modules = [*model.model.layers, model.model.norm]
    good = edits_of(ablation, model.config.hidden_size)
    with edited(model, good, "all"):
        assert sum(len(module._forward_pre_hooks) for module in modules) == len(SITES)
    assert not any(module._forward_pre_hooks for module in modules)
    with pytest.raises(KeyError), edited(model, good, "all"):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in modules)
    wrong = {2: ablation.Edit(torch.eye(3, 7), 1.0)}
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


def study_of(ablation, path, batch: int = 16):
    """(study, problems) of a model folder with problems and exemplars of its own."""
    folder = checkpoints.find_model(str(path))
    languages = questions.load_languages(["en", "zh"])
    problems = questions.load_problems([path / "problems.jsonl"], list(languages))
    exemplars, _ = questions.load_exemplars(None, folder, languages, [path / "problems.jsonl"], problems)
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    exemplars = [replace(exemplar, solution={}) for exemplar in exemplars]
    return ablation.Study(model, tokenizer, languages, exemplars, batch, 0), problems


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "model"
    return write_control(path, "planted", noise=0.5, problems=40, language_share=0.1)


def test_the_planted_language_direction_is_found_behind_every_layer(ablation, planted):
    study, problems = study_of(ablation, planted.path)
    bases = ablation.language_bases(study.last_streams(problems[:20]))
    cosines = bases[1:, 0] @ planted.language
    assert cosines.abs().min() > 0.98


def test_edits_lie_behind_the_middle_and_upper_layers(ablation):
    bases = utils.random_subspaces(torch.Generator().manual_seed(0), 10, 1, 12).float()
    z = subspaces.HandedZ(bases[0], bases, 4, 3, set(), set(), ["en", "zh"], {})
    spaces = ablation.Subspaces(z, bases, [3, 4, 5], [6, 7, 8])
    removed = spaces.edits(ablation.Setting("language", "all", 0.4))
    assert {site: edit.strength for site, edit in removed.items()} == {4: 0.4, 5: 0.4, 6: 0.4}
    assert all(edit.basis is not None and torch.equal(edit.basis, bases[site]) for site, edit in removed.items())
    both = spaces.edits(ablation.Setting("language_reinjected", "all", 0.4, 0.2))
    assert {site: edit.strength for site, edit in both.items()} == {4: 0.4, 5: 0.4, 6: 0.4, 7: -0.2, 8: -0.2, 9: -0.2}
    (perp,) = spaces.edits(ablation.Setting("z_perp", "all", 1.0)).items()
    assert (perp[0], perp[1].complement) == (4, True)
    streams = clouds(2, 8, 12)[:, :, :1].expand(-1, -1, 10, -1)
    for name in ("random", "shuffled"):
        null = spaces.null(name, 0, streams, 0)
        assert null.language.shape == bases.shape
        assert torch.equal(null.language, spaces.null(name, 0, streams, 0).language)
        assert not torch.equal(null.language, spaces.null(name, 1, streams, 0).language)
    assert spaces.null("random_perp", 0, streams, 0).z.basis.shape == z.basis.shape


def problem(index: int):
    return questions.Problem(str(index), "", "a", {"en": f"question {index}", "zh": f"问题 {index}"})


def test_halves_are_seeded_and_the_test_half_is_free_of_fitted_problems(ablation):
    problems = [problem(index) for index in range(21)]
    development, test = ablation.split(problems, set(), 0, [])
    assert (len(development), len(test)) == (10, 11)
    assert {one.id for one in development}.isdisjoint(one.id for one in test)
    assert ablation.split(problems, set(), 0, []) == (development, test)
    assert ablation.split(problems, set(), 1, []) != (development, test)
    fitted = {questions.problem_hash(one) for one in problems[5:19]}
    development, test = ablation.split(problems, fitted, 0, [])
    assert len(test) == 7
    assert fitted.isdisjoint(questions.problem_hash(one) for one in test)
    with pytest.raises(runs.UserError, match="leave 3 to test on"):
        ablation.split(problems, {questions.problem_hash(one) for one in problems[:18]}, 0, ["some.jsonl"])


def test_the_best_strength_wins_and_of_equals_the_weakest(ablation):
    settings = [ablation.Setting("language", "all", strength) for strength in ablation.STRENGTHS]
    assert list(ablation.STRENGTHS) == sorted(ablation.STRENGTHS)
    assert list(ablation.REINJECTIONS) == sorted(ablation.REINJECTIONS)
    for right, best in (((3, 5, 4), 1), ((5, 5, 4), 0), ((0, 0, 0), 0), ((1, 2, 2), 1)):
        assert ablation.choose(dict(zip(settings, right))) == settings[best]


def test_differences_are_paired_by_problem(ablation):
    """Both prompts of a problem count once in McNemar's test; one gained and one lost within a problem is neither."""
    study = ablation.Study(None, None, {"en": {}, "zh": {}}, [], 1, 0)
    base = {"right": np.array([[1, 1, 0, 0, 1], [1, 1, 0, 1, 1]], bool), "kept": np.ones((2, 5), bool)}
    new = {"right": np.array([[0, 0, 0, 1, 1], [0, 1, 1, 0, 1]], bool), "kept": np.array([[1] * 5, [0] * 5], bool)}
    row = ablation.compare(study, new | {"moved": ~new["kept"]}, base)
    assert (row["gained"], row["lost"]) == (1, 2)
    assert row["p"] == 1
    assert row["difference"] == pytest.approx(-0.2)
    assert row["accuracy_by_language"] == {"en": 0.4, "zh": 0.6}
    assert (row["kept"], row["moved"], row["kept_difference"]) == (0.5, 0.5, -0.5)
    assert row["kept_difference_interval"] == (-0.5, -0.5)
    low, high = row["difference_interval"]
    assert -1 <= low < -0.2 < high <= 0.5


@pytest.mark.parametrize(
    "difference, p, reached, verdict",
    [
        (0.2, 0.01, (0, 0), "ablation_helps"),
        (0.2, 0.01, (1, 0), "no_effect"),  # a random subspace does as well
        (0.2, 0.01, (0, 1), "no_effect"),
        (0.2, 0.06, (0, 0), "no_effect"),
        (-0.2, 0.01, (19, 19), "ablation_hurts"),
        (-0.2, 0.01, (0, 0), "ablation_hurts"),
        (-0.2, 0.06, (19, 19), "no_effect"),
        (0.0, 1.0, (19, 19), "no_effect"),
    ],
)
def test_verdict_by_the_rule(difference, p, reached, verdict):
    assert verdicts.ablation(results_with(difference, p, reached))["verdict"] == verdict


def results_with(difference: float, p: float, reached: tuple = (0, 0), **changes) -> dict:
    """What the rule reads, with a primary row of that difference and p, and nulls with so many draws that reach it."""

    def row(*roles, **values):
        return {"roles": roles, "kept_difference_interval": [0.0, 0.0], "difference_interval": [-0.1, 0.0]} | values

    other = {"difference": 0.9, "p": 1e-6}  # what else is significant does not count
    rows = [row("complete", **other), row(**other), row("reinjected", **other), row("z_perp", **other)]
    rows += [row("primary", difference=difference, p=p)]
    nulls = [{"roles": ["primary"], "reached": count} for count in reached]
    nulls += [{"roles": ["complete"], "reached": 3}, {"roles": [], "reached": 3}, {"roles": ["z_perp"], "reached": 0}]
    return {"rows": rows, "nulls": nulls, "room": 10, "solved": 10} | changes


def test_what_holds_and_what_is_not_testable():
    def holds(*arguments, **changes) -> list:
        judgement = verdicts.ablation(results_with(*arguments, **changes))
        return [judgement["holds"][identifier] for identifier in ("language", "reinjected", "z_perp")]

    assert holds(0.2, 0.01) == [True, True, True]
    assert holds(-0.2, 0.01) == [False, True, True]
    assert holds(0.1, 0.2) == [False, True, True]
    assert holds(0.1, 0.2, room=5) == [None, True, True]  # five that gain are not enough to see an improvement
    assert holds(-0.2, 0.01, room=5) == [False, True, True]
    assert holds(0.2, 0.01, solved=5) == [True, None, None]  # nor five that are lost
    assert holds(0.0, 1.0, solved=0) == [None, None, None]
    lost = results_with(0.2, 0.01)
    lost["rows"][2]["kept_difference_interval"] = [-0.11, 0.0]
    assert verdicts.ablation(lost)["holds"] == {"language": True, "reinjected": False, "z_perp": True}
    random_does_as_well = results_with(0.2, 0.01)
    random_does_as_well["nulls"][-1]["reached"] = 1
    assert verdicts.ablation(random_does_as_well)["holds"]["z_perp"] is False


def test_the_margin_stands_in_the_verdicts(monkeypatch):
    monkeypatch.setattr(verdicts.removal, "INTACT_MARGIN", 0.05)
    assert verdicts.ablation(results_with(0.2, 0.01))["holds"]["z_perp"] is False


def test_the_nulls_can_reach_the_level(ablation):
    assert statistics.permutation_p(0, ablation.DRAWS) <= verdicts.LEVEL
    assert verdicts.ablation(results_with(0.2, 0.01))["needed"] == 6
    assert statistics.mcnemar_p(6, 0) < verdicts.LEVEL <= statistics.mcnemar_p(5, 0)


def test_every_role_is_played_by_one_row(ablation):
    """Also where the chosen strength is complete removal, which is then scored once."""
    for best in ablation.STRENGTHS:
        played = []
        for condition in ablation.CONDITIONS:
            for scope in ablation.SCOPES:
                for strength in sorted({best, ablation.COMPLETE}):
                    played += ablation.roles(ablation.Setting(condition, scope, strength), strength == best)
        assert sorted(played) == sorted(ablation.ROLES)


@pytest.fixture
def few_draws(ablation, monkeypatch):
    monkeypatch.setattr(ablation, "DRAWS", 2)
    monkeypatch.setattr(ablation, "SIDE_DRAWS", 1)


def run(ablation, path, out, *flags) -> dict:
    ablation.main(["--model", str(path), "--out", str(out), "--device", "cpu", *flags])
    return json.loads((out / "ablation_results.json").read_text())


def row_of(results: dict, role: str) -> dict:
    return next(row for row in results["rows"] if role in row["roles"])


def test_nothing_solved_is_a_result(ablation, few_draws, small, tmp_path, monkeypatch, capsys):
    basis = utils.random_subspaces(torch.Generator().manual_seed(0), 1, 5, 48)[0]
    write_phase2(small, tmp_path, basis, 3)
    results = run(ablation, small, tmp_path, "--limit", "10")
    assert results["none"]["accuracy"] == 0
    assert results["verdict"] == "no_effect"
    assert [claim["holds"] for claim in results["claims"]] == [None] * 3
    text = (tmp_path / "ablation_output.md").read_text()
    assert "Nothing is solved" in text
    assert "Too few answers are right to show a loss" in text
    steps = " ".join(ablation.__doc__.split("headings:")[1].split())
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ") and line[3].isdigit()]
    assert " ".join(headings).lower() == steps.lower()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"}
    monkeypatch.setattr(models, "load_model", None)  # neither of the two needs a model
    ablation.main(["--out", str(tmp_path), "--report-only"])
    run(ablation, small, tmp_path, "--limit", "10")
    assert "there already" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"} == files
    judged_again_from_the_file(ablation, tmp_path, results, monkeypatch)


def judged_again_from_the_file(ablation, out, results: dict, monkeypatch) -> None:
    """Verdict and page follow the saved numbers and today's thresholds, not the script's constants."""

    def again() -> tuple[dict, str, bytes]:
        ablation.main(["--out", str(out), "--report-only"])
        found = json.loads((out / "ablation_results.json").read_text())
        return found, (out / "ablation_output.md").read_text(), (out / "ablation_test.png").read_bytes()

    row_of(results, "primary").update(difference=0.2, accuracy=0.2, p=0.01)
    results["none"]["accuracy"], results["solved"] = 0.1, 10
    for null in results["nulls"]:
        null["reached"] = 0
    results["draws"]["side"] = 77
    (out / "ablation_results.json").write_text(json.dumps(results))
    monkeypatch.setattr(ablation, "SCOPES", ())
    found, text, figure = again()
    assert found["verdict"] == "ablation_helps"
    assert "`ablation_helps`" in text
    assert "only 77 draws" in text
    monkeypatch.setattr(verdicts, "LEVEL", 0.001)
    found, text, _ = again()
    assert (found["verdict"], found["needed"]) == ("no_effect", 11)
    assert "`no_effect`" in text
    (out / "ablation_results.json").write_text(json.dumps(found | {"scopes": found["scopes"][::-1]}))
    assert again()[2] != figure  # from top to bottom in the file's order


def test_on_a_planted_model_z_alone_carries_the_answer(ablation, planted, tmp_path, monkeypatch):
    """Without the language direction the answer stays and its language is lost; with nothing but Z the answer stays."""
    monkeypatch.setattr(ablation, "DRAWS", 2)
    write_phase2(planted.path, tmp_path, planted.answers, BOTTLENECK + 1)
    results = run(ablation, planted.path, tmp_path)
    solved = results["none"]["accuracy"]
    assert solved > 0.8
    assert results["none"]["kept"] == 1
    assert (results["settings"]["middle"], results["settings"]["upper"]) == ([2, 3], [4, 5])
    assert all(layer["stability"] > 0.9 for layer in results["subspaces"])
    bare = row_of(results, "complete")
    assert bare["accuracy"] > solved - 0.1  # without the strongest direction, noise counts for more
    assert 0.2 < bare["kept"] < 0.8  # what is left decides by noise
    assert row_of(results, "z_perp")["accuracy"] >= solved
    nulls = [null for null in results["nulls"] if null["null"] == "random_perp" and null["scope"] != "all"]
    assert all(max(null["differences"]) < -0.3 for null in nulls)
    for null in results["nulls"]:
        assert null["draws"] == len(null["differences"]) == (2 if "primary" in null["roles"] else ablation.SIDE_DRAWS)
        assert min(null["differences"]) <= null["low"] <= null["middle"] <= null["high"] <= max(null["differences"])
        assert null["p"] == pytest.approx((1 + null["reached"]) / (1 + null["draws"]), rel=1e-3)
    holds = {claim["id"]: claim["holds"] for claim in results["claims"]}
    assert (holds["language"], holds["z_perp"]) == (None, True)  # too little room to improve
    assert "the ceiling" in (tmp_path / "ablation_output.md").read_text()
    others = [row for row in results["rows"] if "primary" not in row["roles"]]
    assert [row["p_holm"] for row in others] == pytest.approx(statistics.holm([row["p"] for row in others]), rel=1e-3)
    assert "p_holm" not in row_of(results, "primary")
    assert len(results["rows"]) == sum(1 if row["strength"] == 1 else 2 for row in results["rows"] if row["chosen"])


def test_the_test_half_has_no_say_in_the_choice(ablation, planted, few_draws, tmp_path, monkeypatch):
    """With other questions and answers in the test half, everything up to the choice is the same to the byte."""
    monkeypatch.setattr(ablation, "SCOPES", ("last", "prefill"))
    write_phase2(planted.path, tmp_path, planted.answers, BOTTLENECK + 1)
    lines = [json.loads(line) for line in (planted.path / "problems.jsonl").read_text().splitlines()[:20]]
    file, found, samples = tmp_path / "problems.jsonl", [], []
    for _ in range(2):
        tested = {sample["id"] for sample in samples if sample["half"] == "test"}
        for line in lines:
            if line["id"] in tested:
                line["question"] = {name: text[::-1] for name, text in line["question"].items()}
        file.write_text("\n".join(json.dumps(line) for line in lines))
        results = run(ablation, planted.path, tmp_path, "--problems", str(file))
        samples = [json.loads(line) for line in (tmp_path / "ablation_samples.jsonl").read_text().splitlines()]
        found.append((results, [sample for sample in samples if sample["half"] == "development"]))
    (first, own), (second, other) = found
    assert own == other
    assert first["development"] == second["development"]
    assert first["subspaces"] == second["subspaces"]
    assert first["none"]["accuracy"] != second["none"]["accuracy"]
    chosen = [[row["strength"] for row in results["rows"] if row["chosen"]] for results in (first, second)]
    assert chosen[0] == chosen[1]


def test_bad_input_is_named(ablation, small, tmp_path):
    basis = utils.random_subspaces(torch.Generator().manual_seed(0), 1, 5, 48)[0]
    with pytest.raises(runs.UserError, match="run phase2_z_extraction.py"):
        run(ablation, small, tmp_path)
    write_phase2(small, tmp_path, basis[:, :-1], 3)
    with pytest.raises(runs.UserError, match=r"phase2_z_basis.npy has shape \(5, 47\), expected \(5, 48\)"):
        run(ablation, small, tmp_path)
    write_phase2(small, tmp_path, basis, 3)
    with pytest.raises(runs.UserError, match="at least 4 are needed"):
        run(ablation, small, tmp_path, "--limit", "6")
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


def test_layer_parts_cover_the_upper_two_thirds(ablation):
    class Folder:
        layers, name = LAYERS, ""

    assert ablation.layer_parts(Folder) == {"middle": [2, 3], "upper": [4, 5]}
    Folder.layers = 36
    assert ablation.layer_parts(Folder) == {"middle": list(range(12, 24)), "upper": list(range(24, 36))}
    Folder.layers = 3
    assert ablation.layer_parts(Folder) == {"middle": [1], "upper": [2]}
