"""Phase 3b: worlds with a known answer, the verdict, the transfer on a planted model, and files that do not fit."""

import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from controls import write_control

import verdicts
from lab import answers, checkpoints, engine, maps, models, questions, runs, statistics, subspaces, transfer, twins
from reports import phase3b_opening


@pytest.fixture(scope="module")
def phase3b(script):
    return script("phase3b_bridge.py")


WIDTH, K, PROBLEMS, ANSWERS, KINDS = 48, 6, 36, 18, 5


def world(kind: str, seed: int) -> tuple:
    """Streams (2, n, d) source first, bags alike, Z (k, d), and streams of six twins.

    `special`: target = A source + noise in Z, and nothing to do with each other elsewhere; `kind`: Z holds the kind of a problem
    alone, in each language by another code; `everywhere`: a few latent numbers of
    a problem fill the whole stream, linearly and otherwise in every language; `shared`: the same, alike in both languages;
    `unrelated`; `untrained`: random features of the words, in the model as in its twins; `wording`: the words alone, in a model
    that lays them out better than its twins.
    """
    draw = np.random.default_rng(seed)
    basis = np.linalg.qr(draw.standard_normal((WIDTH, K)))[0].T
    noise = lambda scale=1.0: scale * draw.standard_normal((2, PROBLEMS, WIDTH))  # noqa: E731
    streams, bags, others = noise(), noise(), [noise() for _ in range(6)]
    if kind == "special":
        source = draw.standard_normal((PROBLEMS, K))
        inside = np.stack([source, source @ draw.standard_normal((K, K)) / 2 + draw.standard_normal((PROBLEMS, K)) / 4])
        streams += (inside - streams @ basis.T) @ basis
    elif kind == "kind":
        codes = draw.standard_normal((2, KINDS, K))[:, np.arange(PROBLEMS) % KINDS]
        streams += (codes + 0.2 * draw.standard_normal(codes.shape) - streams @ basis.T) @ basis
    elif kind in ("everywhere", "shared"):
        latent, layout = draw.standard_normal((PROBLEMS, 4)), draw.standard_normal((2, 4, WIDTH))
        streams = latent @ (layout[:1] if kind == "shared" else layout) + noise(0.2)
    elif kind in ("untrained", "wording"):
        counts = draw.poisson(1, (PROBLEMS, 8)).astype(float)
        words = draw.standard_normal((2, 8, WIDTH))
        bags = counts @ words

        def untrained():
            return np.tanh(bags @ draw.standard_normal((WIDTH, 64)) / 12) @ draw.standard_normal((64, WIDTH)) / 8

        others = [untrained() for _ in range(6)]
        streams = untrained() if kind == "untrained" else bags
    return streams, bags, torch.from_numpy(basis), others


class Asked:
    """A model that is no model: what it would be asked is given."""

    model, seed = None, 0

    def __init__(self, problems, bags: np.ndarray, others: list[np.ndarray]):
        self.problems, self.bags, self.others = problems, bags, iter(others)

    def streams(self, site: int, what: str, mean: bool = False) -> np.ndarray:
        return self.bags if mean else next(self.others)


@pytest.fixture
def judged(phase3b, monkeypatch):
    """World -> results and verdict, by the script's own steps, with fewer draws."""
    monkeypatch.setattr(phase3b, "SHUFFLES", 20)
    monkeypatch.setattr(maps, "PENALTIES", maps.PENALTIES[::2])
    drawn = functools.partial(statistics.paired_interval, draws=499)
    monkeypatch.setattr(
        maps, "interval", lambda statistic, seed, *samples: drawn(samples, statistic, torch.Generator())
    )
    monkeypatch.setattr(phase3b, "RANDOM_SUBSPACES", 20)
    monkeypatch.setattr(twins, "impossible", lambda model: None)
    monkeypatch.setattr(twins, "make_twins", lambda *_: ((kind, place) for kind in twins.KINDS for place in range(3)))

    def judge(kind: str, seed: int, fitted: int = 0) -> dict:
        streams, bags, basis, others = world(kind, seed)
        own = np.arange(PROBLEMS) % ANSWERS
        kinds = np.arange(PROBLEMS) % KINDS
        problems = phase3b.Problems(np.arange(PROBLEMS), own, own >= fitted, streams, ([], []), kinds)
        inside = problems.inside(basis)
        predicted = maps.predict((*phase3b.MAPS, *maps.REFERENCES), *inside, own)
        results = {"unmeasured": None, "settings": {"primary": phase3b.PRIMARY}}
        results |= phase3b.prediction(problems, inside, predicted, 0)
        results["null"] = phase3b.shuffled_null(problems, inside, results["held_out_r2"], 0)
        results["subspaces"] = phase3b.other_subspaces(problems, basis, 0)
        asked = Asked(problems, bags, others)
        results["words"] = phase3b.beyond_words(asked, inside, predicted[phase3b.PRIMARY])
        results["twins"] = phase3b.beyond_twins(asked, basis, 1)
        results["transfer"] = phase3b.transfer_rates(np.zeros((len(phase3b.CONDITIONS), 0, 4)), [])
        return results | verdicts.phase3b(results)

    return judge


def test_a_map_planted_in_z_alone_is_a_bridge(judged):
    for seed in range(5):
        results = judged("special", seed)
        assert results["verdict"] == "bridge", (seed, results["because"])
        assert results["holds"]["specific"] is True and results["holds"]["transfer"] is None
        assert results["held_out_r2"]["ridge"] > 0.5 > results["subspaces"]["haar"]["high"]


def test_what_holds_only_the_kind_of_a_problem_is_no_bridge(judged):
    """It predicts unseen answers, in Z alone, and from no words; but any problem of the kind would have been predicted as well."""
    for seed in range(3):
        results = judged("kind", seed)
        assert results["verdict"] == "linear_but_unspecific" and results["because"] == ["beyond_kinds"]
        assert results["null"]["kinds"]["kept"] < 0.1


def test_a_map_that_every_subspace_has_is_unspecific(judged):
    """Z is Haar-random here, and passes as a null lets it pass: at most 5 % are expected."""
    found = [judged("everywhere", seed) for seed in range(12)]
    assert all(results["held_out_r2"]["ridge"] > 0.7 for results in found)
    bridges = [results["verdict"] == "bridge" for results in found]
    assert sum(bridges) <= 2, bridges
    assert all(results["verdict"] == "linear_but_unspecific" for results, one in zip(found, bridges) if not one)
    failed = next(results for results in found if results["verdict"] != "bridge")
    assert failed["because"] == ["beyond_subspaces"] and failed["holds"]["specific"] is False


def test_an_untrained_model_has_no_bridge(judged):
    """Random features of the words carry a linear map; each of the three comparisons sees that it is nothing learned."""
    caught, linear = dict.fromkeys(("beyond_words", "beyond_twins", "beyond_subspaces"), 0), 0
    for seed in range(20):
        results = judged("untrained", seed)
        assert results["verdict"] != "bridge", seed
        linear += results["verdict"] == "linear_but_unspecific"
        for test in caught:
            caught[test] += not results["tests"][test]
    assert linear >= 14 and min(caught.values()) >= 17, (linear, caught)


def test_what_words_say_as_well_is_unspecific(judged):
    results = judged("wording", 0)
    assert results["verdict"] == "linear_but_unspecific"
    assert "beyond_words" in results["because"]
    assert results["words"]["r2"] > results["held_out_r2"]["ridge"] > 0


def test_the_page_names_the_tests_that_failed_and_what_was_beaten():
    """A map that the model has learned is not said to be unlearned where only other subspaces do as well."""
    kinds = {
        "permuted": {"mean": 0.38, "p": 0.002, "gains": [0.37, 0.39]},
        "reinitialised": {"mean": 0.15, "p": 0.001, "gains": [0.15]},
    }
    z = {"site": 2, "method": "centroid"}
    results = {
        "model": {"name": "small"}, "names": {"zh": "Chinese", "en": "English"}, "data": {"k": 20, "width": 128},
        "settings": {"primary": "ridge", "source": "zh", "target": "en", "z": z}, "unmeasured": None, "level": verdicts.LEVEL,
        "retrieval": {"ridge": 0.41}, "chance": 0.0625,
        "held_out_r2": {"ridge": 0.92, "mean_shift": 0.5}, "interval": {"ridge": [0.8, 0.95]}, "scaled_shift_r2": 0.6,
        "gain": {"ridge": 0.91}, "null": {"shuffled": {"ridge": {"low": -0.1, "high": 0.1}}},
        "words": {"r2": 0.27}, "twins": {"unmeasured": "why", "kinds": kinds}, "transfer": {"pairs": 0},
        "subspaces": {"haar": {"middle": 0.85, "p": 0.02}, "matched": {"middle": 0.94, "p": 0.97}},
    }  # fmt: skip

    def said(verdict="linear_but_unspecific", **failed) -> str:
        tests = dict.fromkeys(("held_out", "beyond_shift", "beyond_words", "beyond_twins", "beyond_subspaces"), True)
        left_open = list(failed) if verdict == "inconclusive" else []
        opened = results | {"verdict": verdict, "tests": tests | failed, "open_tests": left_open}
        return phase3b_opening.verdict_text(opened) + phase3b_opening.meaning_text(opened)

    subspaces_fail = said(beyond_subspaces=False)
    assert (
        "trained weights shuffled gain 0.37, 0.39 and twins initialised anew gain 0.15), but matched subspaces"
        in subspaces_fail
    )
    assert "matched subspaces of Z's size do better (gain 0.94 against 0.91)" in subspaces_fail
    assert (
        "predicts a problem's English vector from its Chinese one (held-out R² 0.92; its own answer's vector is the"
        in subspaces_fail
    )
    assert "nearest in 41.0 % of problems, by chance 6.2 %;" in subspaces_fail and "turns" not in subspaces_fail
    assert "so it is no evidence for Z" in subspaces_fail and "what other subspaces give" in subspaces_fail
    results["twins"]["kinds"]["permuted"]["p"] = 0.3
    twins_fail = said(beyond_twins=False)
    assert "the model has learned it (" not in twins_fail and "it need not be what the model has learned" in twins_fail
    assert (
        "shuffled do not surely do worse (gain 0.38 against 0.91), though twins initialised anew gain 0.15: it"
        in twins_fail
    )
    assert "other subspaces do worse" in twins_fail and "not special to Z (`" not in twins_fail
    assert "it may be the wording" in said(beyond_words=False)
    assert "0.91), but the source's" in said(
        beyond_words=False, beyond_twins=False, beyond_subspaces=False
    )  # nothing beaten
    assert "whether the model has learned it is not known" in said("inconclusive", beyond_twins=None)
    words_open = said("inconclusive", beyond_words=False)
    assert (
        "whether that is anything special is left open: the source's words do not surely do worse (R² 0.27)"
        in words_open
    )
    assert (
        "is left open: a linear map is there, and that it is better than what the source's words give is" in words_open
    )
    nothing, unshown = said("no_bridge", held_out=False), said("inconclusive", held_out=False)
    assert "R² 0.92 (0.80 to 0.95), shuffled problems -0.10 to 0.10; one that adds 0.25 to what needs no" in nothing
    assert "(*not there*)" in nothing and "is left open: held-out R² 0.92 (0.80 to 0.95)" in unshown
    assert "neither show such a map nor exclude one worth having" in unshown and "(*not" not in unshown
    shifted, unshown = said("no_bridge", beyond_shift=False), said("inconclusive", beyond_shift=False)
    assert "a shift with one fitted scale does so as well or nearly (R² 0.60)" in shifted
    assert "whether it adds to a shift with one fitted scale (R² 0.60) is left open" in unshown
    assert "(*nothing to learn*)" in shifted and "(*nothing" not in unshown


def test_no_table_is_wider_than_a_page_shows(rotated):
    text = (rotated[0] / "phase3b_output.md").read_text()
    headers = [line for line, under in zip(text.splitlines(), text.splitlines()[1:]) if under.startswith("| --- ")]
    assert headers and max(line.count(" | ") + 1 for line in headers) <= 8


def test_where_nothing_is_to_be_learned_there_is_no_bridge(judged):
    shared, unrelated = judged("shared", 0), judged("unrelated", 0)
    assert shared["verdict"] == unrelated["verdict"] == "no_bridge"
    assert shared["tests"]["held_out"] and not shared["tests"]["beyond_shift"]
    assert not unrelated["tests"]["held_out"]
    assert shared["holds"]["specific"] is unrelated["holds"]["specific"] is None


def test_answers_that_z_was_fitted_on_train_maps_and_are_not_scored(judged, phase3b, monkeypatch):
    whole, part = judged("special", 0), judged("special", 0, fitted=6)
    assert part["verdict"] == "bridge"
    assert part["held_out_r2"]["ridge"] != whole["held_out_r2"]["ridge"]
    streams, _, basis, _ = world("special", 0)
    own = np.arange(PROBLEMS) % ANSWERS
    inside = phase3b.Problems(own, own, own >= 6, streams, ([], [])).inside(basis)
    predicted = maps.predict(("ridge", "mean"), *inside, own)
    errors = [maps.squared_errors(predicted[name], inside[1])[own >= 6] for name in ("ridge", "mean")]
    assert part["held_out_r2"]["ridge"] == pytest.approx(float(maps.r_squared(*errors)))


def unlike(found: dict, **changes) -> dict:
    """Twins of which those of one kind are changed."""
    return found | {"kinds": found["kinds"] | {"permuted": found["kinds"]["permuted"] | changes}}


def test_the_rule_test_by_test(judged):
    results = judged("special", 0)
    words, shift = results["words"], results["interval"] | {"mean_shift": [0.8, 0.95]}
    worse = {
        "held_out": {"null": results["null"] | {"shuffled": {"ridge": {"p": 0.2}}}, "interval": {"ridge": [-0.1, 0.2]}},
        "beyond_shift": {"p_above": {"ridge": {"mean_shift": 0.01, "scaled_shift": 0.2}}, "interval": shift},
        "beyond_words": {"words": words | {"p": 0.7, "difference": {"value": -0.01, "low": -0.2, "high": 0.2}}},
        "beyond_twins": {"twins": unlike(results["twins"], p=0.2)},
        "beyond_subspaces": {
            "subspaces": results["subspaces"] | {"matched": results["subspaces"]["haar"] | {"p": 0.2}}
        },
        "beyond_kinds": {"null": results["null"] | {"kinds": results["null"]["kinds"] | {"p": 0.2}}},
    }
    for test, change in worse.items():
        whole = {
            key: part | change[key] if key == "interval" else change[key]
            for key, part in results.items()
            if key in change
        }
        judgement = verdicts.phase3b(results | whole)
        assert judgement["because"] == [test] and judgement["open_tests"] == []
        assert judgement["verdict"] == (
            "no_bridge" if test in ("held_out", "beyond_shift") else "linear_but_unspecific"
        )
        assert judgement["holds"].get(test, False) is False
    few = {"null": results["null"] | {"kinds": results["null"]["kinds"] | {"p": 0.2, "kept": 0.6}}}
    for untold in (few, {"null": results["null"] | {"kinds": None}}):  # too few of each kind, or one kind
        judgement = verdicts.phase3b(results | untold)
        assert judgement["verdict"] == "bridge" and "beyond_kinds" not in judgement["tests"]
    assert verdicts.phase3b(results)["open_tests"] == []
    nothing = verdicts.phase3b({"unmeasured": "no_rung"})
    assert nothing["verdict"] == "untestable" and set(nothing["holds"].values()) == {None}


def test_what_is_neither_shown_nor_excluded_is_no_no(judged):
    """A map that may add a quarter of the variance, words that may do less well, and what could not be compared."""
    results = judged("special", 0)
    shuffled = {"null": results["null"] | {"shuffled": {"ridge": {"p": 0.2}}}}
    shifted = {"p_above": {"ridge": {"mean_shift": 0.2, "scaled_shift": 0.01}}}
    words = results["words"] | {"p": 0.1, "difference": {"value": 0.2, "low": -0.1, "high": 0.4}}
    cases = {
        "held_out": [shuffled | {"interval": results["interval"] | {"ridge": [-0.1, 0.26]}}],
        "beyond_shift": [
            shifted | {"interval": results["interval"] | {"ridge": [0.3, 0.8], "mean_shift": [0.5, 0.7]}},
            shifted | {"interval": results["interval"] | {"ridge": [0.3, 0.8], "mean_shift": [-9.0, -1.0]}},
        ],
        "beyond_words": [{"words": words}],
        "beyond_twins": [{"twins": {"unmeasured": "why", "kinds": {}}}],
        "beyond_subspaces": [{"subspaces": results["subspaces"] | {"matched": None}}],
    }
    for test, change in ((test, change) for test, changes in cases.items() for change in changes):
        judgement = verdicts.phase3b(results | change)
        assert (judgement["verdict"], judgement["open_tests"]) == ("inconclusive", [test])
        key = test if test in ("held_out", "beyond_shift") else "specific"
        assert judgement["holds"][key] is None
        # beside a test that surely fails it decides nothing
        failed = {"twins": unlike(results["twins"], p=0.2)}
        if key == "specific" and test != "beyond_twins":
            judgement = verdicts.phase3b(results | change | failed)
            assert judgement["verdict"] == "linear_but_unspecific" and judgement["holds"]["specific"] is False
    sure = {"interval": results["interval"] | {"ridge": [0.3, 0.8], "identity": [0.6, 0.7]}}
    assert verdicts.phase3b(results | shifted | sure)["verdict"] == "no_bridge"


def test_maps_too_few_to_tell_are_not_said_to_fail():
    """Five swaps cannot differ at the level, whatever comes of them."""
    rate = {"ridge": 0.0, "identity": 0.0, "shuffled": 0.0, "own_language": 1.0}
    move = {"success": rate, "map": "ridge", "p_against": {"identity": 1.0, "shuffled": 1.0}}
    cases = [
        move | {"pairs": pairs, "interval": {"ridge": statistics.wilson_interval(0, pairs)}} for pairs in (1, 5, 6, 20)
    ]
    assert [verdicts.carries(case) for case in cases] == [None, None, False, False]


@pytest.mark.parametrize(
    "map_, own, p, holds",
    [(0.6, 0.9, 0.01, True), (0.6, 0.3, 0.01, True), (0.1, 0.9, 0.01, False), (0.6, 0.9, 0.2, None), (0.1, 0.3, 0.9, None)],
)  # fmt: skip
def test_a_map_fails_only_where_there_is_something_to_carry_and_half_of_it_is_excluded(map_, own, p, holds):
    rate = {"ridge": map_, "identity": 0.2, "shuffled": 0.2, "own_language": own}
    move = {"pairs": 20, "success": rate, "map": "ridge", "p_against": {"identity": p, "shuffled": 0.01}}
    move["interval"] = {"ridge": statistics.wilson_interval(round(20 * map_), 20)}
    assert verdicts.carries(move) is holds
    assert verdicts.carries(move | {"pairs": 0}) is None


@pytest.mark.parametrize(
    "successes, own, said",
    [
        (12, 18, "is neither shown nor excluded"),
        (1, 18, "surely carry the answer over in fewer than half of 20 swaps"),
        (12, 2, "cannot be told at this place"),
    ],
)
def test_the_page_says_what_the_transfer_shows(successes, own, said):
    rate = {"ridge": successes / 20, "identity": 0.1, "shuffled": 0.1, "own_language": own / 20}
    intervals = {name: statistics.wilson_interval(round(20 * value), 20) for name, value in rate.items()}
    move = {"pairs": 20, "success": rate, "interval": intervals, "map": "ridge"}
    claim = {"id": "transfer", "holds": verdicts.carries(move | {"p_against": {"identity": 0.2, "shuffled": 0.2}})}
    page = {"transfer": move, "settings": {"primary": "ridge"}, "unmeasured": None, "claims": [claim]}
    assert said in " ".join(phase3b_opening.carried(page).split())


def test_the_direction_is_chinese_to_english_whatever_the_order(phase3b):
    assert phase3b.direction(["en", "zh"]) == phase3b.direction(["zh", "en"]) == ("zh", "en")
    assert phase3b.direction(["de", "fr"]) == ("fr", "de")


def test_map_geometry_of_a_rotation_and_of_a_stretch(phase3b):
    draw = np.random.default_rng(1)
    source = draw.standard_normal((40, K))
    problems = SimpleNamespace(answers=np.arange(40))
    target = source @ np.linalg.qr(draw.standard_normal((K, K)))[0]
    geometry = phase3b.map_geometry(problems, (source, target))
    assert max(geometry[name]["orthogonality_error"] for name in ("ols", "procrustes")) < 1e-6
    stretched = phase3b.map_geometry(problems, (source, 3 * target))
    np.testing.assert_allclose(stretched["ols"]["singular_values"], 3, rtol=1e-6)
    np.testing.assert_allclose(stretched["procrustes"]["singular_values"], 1, rtol=1e-6)


def test_success_is_the_donors_answer_in_the_recipients_language_of_the_whole_set(phase3b):
    """Three pairs over five answers in two languages; whatever is none of the four counts as other."""
    columns = ((1, 0, 5, 4), (3, 2, 7, 6), (5, 4, 9, 8))
    sent = [phase3b.Pair(0, 1, "", own) for own in columns]
    scores = np.zeros((len(phase3b.CONDITIONS), 3, 10), np.float32)
    for pair, own in enumerate(columns):
        scores[:, pair, own[0]] = 1  # the recipient's own answer, in its language
    for name, place in (("ridge", 2), ("ols", 3)):
        for pair in (0, 1):
            scores[phase3b.CONDITIONS.index(name), pair, columns[pair][place]] = 2
    scores[phase3b.CONDITIONS.index("identity"), 2, 0] = 2  # nobody's answer
    move = phase3b.transfer_rates(scores, sent)
    assert move["success"]["ridge"] == pytest.approx(2 / 3)
    assert [move["success"][name] for name in phase3b.CONDITIONS if name != "ridge"] == [0] * 7
    assert move["winners"]["ols"]["donor_donor"] == pytest.approx(2 / 3)
    assert move["winners"]["identity"] == {
        "recipient_recipient": pytest.approx(2 / 3), "recipient_donor": 0, "donor_recipient": 0, "donor_donor": 0,
        "other": pytest.approx(1 / 3),
    }  # fmt: skip
    assert all(sum(winners.values()) == pytest.approx(1) for winners in move["winners"].values())


def test_every_recipient_gets_one_donor_of_its_block_in_the_other_language(phase3b):
    recipients = [
        {"problem": problem, "answer_place": place, "id": str(problem)} for place, problem in enumerate((7, 2, 5, 9))
    ]
    phase3 = {
        "settings": {"languages": ["en", "zh"]},
        "recipients": recipients,
        "blocks": [[1], [0], [3], [2]],
        "answer_set": {"answers": list("abcd"), "languages": ["en", "zh"]},
    }
    prompts = [
        {"language": language, "problem": problem, "id": "", "prompt": f"{language} {problem}"}
        for language in ("en", "zh")
        for problem in range(10)
    ]
    scored = SimpleNamespace(places=np.arange(10), scored=np.ones(10, bool))
    pairs = phase3b.make_pairs(phase3, prompts, scored, seed=0)
    assert [(pair.recipient, pair.donor) for pair in pairs] == [(7, 2), (2, 7), (5, 9), (9, 5)]
    assert [pair.prompt for pair in pairs] == ["en 7", "en 2", "en 5", "en 9"]
    assert pairs[0].columns == (0, 1, 2, 3) and pairs[1].columns == (2, 3, 0, 1)
    scored.scored[9] = False  # an answer that Z was fitted on: neither recipient nor donor
    assert [pair.recipient for pair in phase3b.make_pairs(phase3, prompts, scored, seed=0)] == [7, 2]
    phase3["blocks"] = [[1], [], [], []]  # no derangement: who has no donor is no recipient
    assert len(phase3b.make_pairs(phase3, prompts, scored, seed=0)) == 1


def run(script, path, out, *names) -> dict:
    for name in names:
        script(name).main(["--model", str(path), "--out", str(out), "--device", "cpu"])
    return json.loads((out / f"{script(names[-1]).REPORT.stem}_results.json").read_text())


SCORED = 15  # recipients of each half


def write_phase3(path: Path, out: Path, rung: str | None = "problems") -> None:
    """What phase 3 leaves for the bridge: the model's own problems taken, as far as it solves them, or no rung at all."""
    folder = checkpoints.find_model(str(path))
    settings = {"languages": ["en", "zh"], "z": runs.significant(subspaces.load_z(out, folder).summary)}
    results = {"script": "phase3", "model": folder.identity, "settings": settings, "tests": {}, "rung": rung}
    lines, streams = [], np.zeros((2, 0, folder.layers + 1, folder.width), np.float32)
    if rung:
        given = SimpleNamespace(languages=["en", "zh"], problems=None, exemplars=None, limit=None)
        asked = questions.find_asked(given, folder, "words.jsonl", in_words=True)
        model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
        known = answers.answer_set(tokenizer, asked.problems, asked.languages)
        lines = [
            {
                "language": language,
                "problem": index,
                "id": problem.id,
                "answer": str(problem.answer),
                "prompt": questions.prompt_text(problem, language, asked.languages, asked.exemplars),
            }
            for language in asked.languages
            for index, problem in enumerate(asked.problems)
        ]
        prompts, wins = [line["prompt"] for line in lines], {}
        for chosen, patcher in engine.patched_prompts(model, tokenizer, prompts, known.tokens, 16):
            wins |= dict(zip(chosen, patcher.scores(0, patcher.streams[:, 0, None]).argmax(-1)[:, 0].tolist()))
        streams = engine.last_streams(model, tokenizer, prompts, 16).unflatten(0, (2, -1)).numpy()
        count, places = len(asked.problems), list(map(known.place, asked.problems))
        right = [
            all(wins[tongue * count + index] == 2 * places[index] + tongue for tongue in (0, 1))
            for index in range(count)
        ]
        usable = np.flatnonzero(right).tolist()
        recipients = [
            {
                "problem": index,
                "id": asked.problems[index].id,
                "answer": asked.problems[index].answer,
                "answer_place": places[index],
            }
            for index in usable[: 2 * SCORED]
        ]
        halves = np.array([row["answer_place"] for row in recipients]).reshape(2, SCORED)
        draw = statistics.seeded(0, "test: blocks")
        blocks = [
            (half * SCORED + np.flatnonzero(row)).tolist()
            for half, own in enumerate(halves)
            for row in transfer.donor_blocks(own, draw)
        ]
        results |= {
            "languages": ["en", "zh"],
            "usable": usable,
            "recipients": recipients,
            "blocks": blocks,
            "answer_set": {
                "answers": known.answers,
                "languages": known.languages,
                "tokens": list(map(list, known.tokens)),
            },
        }
    (out / "phase3_results.json").write_text(json.dumps(results))
    (out / "phase3_prompts.jsonl").write_bytes(runs.json_lines(lines))
    np.save(out / "phase3_streams.npy", streams)


BEFORE = ("1.py", "phase2_z_extraction.py")


def bridged(script, path: Path, out: Path) -> dict:
    """Everything up to the bridge, phase 3's files written by hand, and its results."""
    run(script, path, out, *BEFORE)
    write_phase3(path, out)
    return run(script, path, out, "phase3b_bridge.py")


@pytest.fixture(scope="module")
def planted(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    control = write_control(folder / "model", "planted", noise=0.5, problems=40, language_share=0.1)
    return control, folder / "out", bridged(script, control.path, folder / "out")


def test_on_a_planted_model_the_unmapped_vector_carries_the_answer(planted):
    """Both languages share the code, so identity transfers, and so does the target language's own vector."""
    _, out, results = planted
    move = results["transfer"]
    assert (move["pairs"], move["answers"]) == (2 * SCORED, 40)
    assert move["success"]["identity"] >= 0.9
    assert move["success"]["own_language"] == 1
    assert move["success"]["none"] == 0
    assert move["success"]["shuffled"] < 0.2  # over the whole set erasing alone brings no donor's answer
    assert move["winners"]["none"]["recipient_recipient"] == 1
    assert move["p_against"]["shuffled"]["identity"] < 0.001
    assert results["verdict"] == "no_bridge"  # nothing to learn beyond what is shared
    loo = np.load(out / "phase3b_loo.npy")
    assert loo.shape == (5, results["data"]["problems"]) == (5, results["data"]["usable"])
    assert loo.dtype == np.float64
    scores = np.load(out / "phase3b_transfer.npy")
    assert scores.shape == (len(move["success"]), move["pairs"], 2 * 40)
    np.testing.assert_allclose(np.exp(scores).sum(-1), 1, rtol=1e-4)  # within the answer set


def test_identity_transfer_is_the_swap_of_z(planted, phase3b):
    """The same condition, pair by pair, from the streams of recipient and donor."""
    control, out, results = planted
    phase3 = json.loads((out / "phase3_results.json").read_text())
    folder = checkpoints.find_model(str(control.path))
    z = subspaces.load_z(out, folder)
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    streams = torch.from_numpy(np.load(out / "phase3_streams.npy"))[:, :, z.site]
    sent = np.load(out / "phase3b_transfer.npy")[results["settings"]["conditions"].index("identity")]
    everyone = SimpleNamespace(places=np.arange(40), scored=np.ones(40, bool))
    pairs = phase3b.make_pairs(phase3, phase3b.asked_prompts(out), everyone, seed=0)
    assert len(pairs) == len(sent)
    for pair, found in list(zip(pairs, sent))[:4]:
        patcher = engine.PatchedPrompts(model, tokenizer, [pair.prompt], phase3["answer_set"]["tokens"])
        own, donor = streams[0, pair.recipient], streams[1, pair.donor]
        swapped = own + (donor - own) @ z.basis.T @ z.basis
        np.testing.assert_allclose(found, patcher.scores(z.site, swapped[None, None])[0, 0], atol=1e-4)


def copied(planted, folder, *, with_phase3b: bool = False):
    """A copy of the planted model's results, for a test to change."""
    leave_out = None if with_phase3b else shutil.ignore_patterns("phase3b*")
    return shutil.copytree(planted[1], folder, ignore=leave_out)


@pytest.fixture(scope="module")
def rotated(planted, script, tmp_path_factory):
    """The planted model's streams with one language rotated inside Z, to which little is added elsewhere."""
    control, out, _ = planted
    folder = copied(planted, tmp_path_factory.mktemp("rotated") / "out")
    site = json.loads((out / "phase2_results.json").read_text())["z"]["site"]
    basis = np.load(out / "phase2_z_basis.npy").astype(float)
    streams, draw = np.load(out / "phase3_streams.npy"), np.random.default_rng(1)
    rotation = np.linalg.qr(draw.standard_normal((len(basis), len(basis))))[0]
    english = streams[0, :, site].astype(float)
    inside, outside = english @ basis.T, english.std() * draw.standard_normal((2, *english.shape))
    outside -= outside @ basis.T @ basis
    streams[0, :, site], streams[1, :, site] = (inside @ basis + outside[0], inside @ rotation @ basis + outside[1])
    np.save(folder / "phase3_streams.npy", streams)
    return folder, run(script, control.path, folder, "phase3b_bridge.py")


def test_a_planted_rotation_between_the_languages_is_a_bridge(rotated):
    """Procrustes wins; the source's words, twins of the model and other subspaces do not do it."""
    _, results = rotated
    assert results["verdict"] == "bridge", results["because"]
    assert results["held_out_r2"]["procrustes"] >= max(results["held_out_r2"].values()) - 1e-6
    assert results["held_out_r2"]["procrustes"] > 0.999
    assert results["held_out_r2"]["identity"] < 0.5
    assert set(results["twins"]["kinds"]) == set(twins.KINDS)
    assert all(len(row["gains"]) == twins.SEEDS for row in results["twins"]["kinds"].values())


def report_again(script, folder) -> tuple[dict, str]:
    """Results and page after --report-only."""
    script("phase3b_bridge.py").main(["--report-only", "--out", str(folder)])
    return json.loads((folder / "phase3b_results.json").read_text()), (folder / "phase3b_output.md").read_text()


def test_a_changed_threshold_judges_saved_results_again(script, rotated, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(rotated[0], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report_again(script, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "bridge: ridge held-out R² 1.00 (mean shift " in capsys.readouterr().out
    monkeypatch.setattr(verdicts, "LEVEL", 1e-6)
    monkeypatch.setattr(verdicts.bridge, "OVERFIT", -1.0)
    results, text = report_again(script, folder)
    assert (
        results["verdict"] == "inconclusive"
    )  # a map worth having is not excluded by a level that nothing could reach
    assert not any(results["tests"].values())
    assert "Tests neither passed nor surely failed, " in text
    assert {row["id"]: row["holds"] for row in results["claims"]}["overfitting"] is False
    assert results["held_out_r2"] == rotated[1]["held_out_r2"]
    assert "(`inconclusive`)" in text


def test_a_z_whose_layer_the_weights_do_not_predict_is_called_exploratory(script, rotated, tmp_path):
    folder = shutil.copytree(rotated[0], tmp_path / "out")
    results = rotated[1]
    layer = results["settings"]["z"]["layer"]
    assert layer == results["settings"]["z"]["bottleneck"]
    for chosen, said in (("no_bottleneck", True), ("clear_bottleneck", False)):
        (folder / "phase3b_results.json").write_text(json.dumps(results | {"layer_chosen": chosen}))
        _, text = report_again(script, folder)
        assert (f"- Z is that of layer {layer} (exploratory: the weights predict no layer)." in text) is said


def test_the_page_takes_its_orders_from_the_results(script, rotated, tmp_path):
    folder = shutil.copytree(rotated[0], tmp_path / "out")
    results = json.loads((folder / "phase3b_results.json").read_text())
    for key in ("maps", "conditions", "controls", "outcomes"):
        results["settings"][key].reverse()
    (folder / "phase3b_results.json").write_text(json.dumps(results))
    _, text = report_again(script, folder)
    table = text[text.index("## 2") : text.index("## 3")]
    assert table.index("| ordinary least squares") < table.index("| mean shift") < table.index("| identity (no map)")
    assert text.index("| the donor's own vector") < text.index("| no swap |")
    outcomes = (
        "donor's answer, its",
        "donor's answer, recipient's",
        "recipient's answer, donor's",
        "recipient's answer, its",
    )
    assert " | ".join(f"{outcome} language" for outcome in outcomes) + " | any other answer" in text
    assert "| p against shuffled | p against identity |" in text


def test_the_page_opens_with_what_a_stranger_understands(rotated, planted):
    text = (rotated[0] / "phase3b_output.md").read_text()
    first = text.split("\n\n")[1]
    assert first.startswith("**Verdict.** In model, inside Z (")
    assert (
        "predicts a problem's English vector from its Chinese one, and does so better than the source's words" in first
    )
    assert first.endswith("(`bridge`).") and "Tests failed, 0 of 5: none." in text
    text = (planted[1] / "phase3b_output.md").read_text()
    assert "there is little that such a map would have to learn (`no_bridge`)." in text.split("\n\n")[1]
    assert "vectors that were not mapped bring the answer as often as mapped ones" in text


def nothing_is_measured(results: dict, folder: Path, reason: str) -> str:
    """The page of a run that could not tell anything: no figures, no tables of nothing, no claim."""
    assert results["verdict"] == "untestable"
    assert {row["holds"] for row in results["claims"]} == {None}
    assert results["transfer"]["pairs"] == 0 and set(results["held_out_r2"].values()) == {None}
    assert np.load(folder / "phase3b_loo.npy").shape == (5, 0)
    text = (folder / "phase3b_output.md").read_text()
    assert reason in text.split("\n\n")[1] and "![" not in text and "## 2" not in text
    assert text.count("\n| ") == 7  # the claims table is the only one
    return text


def test_no_rung_is_a_result(script, planted, tmp_path, monkeypatch):
    """Where phase 3 took no rung nothing is known of problems that the model solves: no pass of the model is spent."""
    none = copied(planted, tmp_path / "out")
    write_phase3(planted[0].path, none, rung=None)
    monkeypatch.setattr(models, "load_model", None)
    results = run(script, planted[0].path, none, "phase3b_bridge.py")
    assert results["unmeasured"] == "no_rung"
    nothing_is_measured(results, none, "phase 3 found no kind of problem that could be used")


@pytest.mark.parametrize("what", ["few_problems", "few_answers", "few_unseen_problems", "few_unseen_answers"])
def test_too_few_problems_are_a_result(script, planted, tmp_path, monkeypatch, what):
    control, _, _ = planted
    few = copied(planted, tmp_path / "out")
    phase3 = json.loads((few / "phase3_results.json").read_text())
    known = [row["answer"] for row in phase3["recipients"]]
    if what == "few_problems":
        phase3["usable"] = phase3["usable"][:5]
    elif what == "few_answers":
        for row in phase3["recipients"]:
            row["answer"] = f"answer {row['problem'] % 5}"
        phase3["usable"] = [row["problem"] for row in phase3["recipients"]]
    else:
        seen = known[:25] if what == "few_unseen_problems" else known[5:]
        if what == "few_unseen_answers":
            for row in phase3["recipients"][:5]:
                row["answer"] = known[0]
        phase3["usable"] = [row["problem"] for row in phase3["recipients"]]
        changed = json.loads((few / "phase2_results.json").read_text())
        changed["z"]["fitted_answers"] = seen
        (few / "phase2_results.json").write_text(json.dumps(changed))
    if what == "few_unseen_answers":
        monkeypatch.setitem(script("phase3b_bridge.py").FEWEST, "problems", 3)
    (few / "phase3_results.json").write_text(json.dumps(phase3))
    results = run(script, control.path, few, "phase3b_bridge.py")
    assert results["unmeasured"] == what
    said = {
        "few_problems": "problems solved in every language: 5, needed 12",
        "few_answers": "different answers of the problems solved: 5, needed 6",
        "few_unseen_problems": "problems solved whose answers Z was not fitted on: 5, needed 12",
        "few_unseen_answers": "different answers that Z was not fitted on: 1, needed 6",
    }
    nothing_is_measured(results, few, said[what])


def test_stale_phase_3_is_refused(script, planted, tmp_path):
    """Stale is another Z, not another run of phase 2."""
    control, _, _ = planted
    stale = copied(planted, tmp_path / "out", with_phase3b=True)
    np.save(stale / "phase2_z_basis.npy", np.load(stale / "phase2_z_basis.npy")[::-1])
    with pytest.raises(runs.UserError, match="run phase3_patching.py again"):
        run(script, control.path, stale, "phase3b_bridge.py")
    elsewhere = copied(planted, tmp_path / "elsewhere", with_phase3b=True)  # the same basis, handed on at another site
    results = json.loads((elsewhere / "phase2_results.json").read_text())
    results["z"]["site"] -= 1
    (elsewhere / "phase2_results.json").write_text(json.dumps(results))
    with pytest.raises(runs.UserError, match="phase 2 has run again since phase 3"):
        run(script, control.path, elsewhere, "phase3b_bridge.py")
    older = json.loads((stale / "phase3_results.json").read_text())
    del older["rung"]
    (stale / "phase3_results.json").write_text(json.dumps(older))
    with pytest.raises(runs.UserError, match="an older edition wrote phase 3's results"):
        run(script, control.path, stale, "phase3b_bridge.py")
    (stale / "phase3_results.json").unlink()
    with pytest.raises(runs.UserError, match="run phase3_patching.py with the same"):
        run(script, control.path, stale, "phase3b_bridge.py")


def test_earlier_phases_that_find_the_same_again_cost_nothing(script, planted, tmp_path, monkeypatch):
    control, _, results = planted
    again = copied(planted, tmp_path / "out", with_phase3b=True)
    for stem in ("phase2", "phase3"):
        found = json.loads((again / f"{stem}_results.json").read_text())
        (again / f"{stem}_results.json").write_text(json.dumps(found | {"fingerprint": "0" * 16}))
    monkeypatch.setattr(models, "load_model", None)
    assert run(script, control.path, again, "phase3b_bridge.py") == results
    np.save(again / "phase3_streams.npy", 2 * np.load(again / "phase3_streams.npy"))
    with pytest.raises(TypeError):  # measured again
        run(script, control.path, again, "phase3b_bridge.py")


def test_missing_or_misshapen_arrays_are_named(script, planted, tmp_path):
    control, _, _ = planted
    broken = copied(planted, tmp_path / "out")
    np.save(broken / "phase3_streams.npy", torch.zeros(2, 40, 4).numpy())  # of one site, as an older edition wrote it
    with pytest.raises(runs.UserError, match=r"phase3_streams.npy has shape \(2, 40, 4\)"):
        run(script, control.path, broken, "phase3b_bridge.py")
    (broken / "phase3_streams.npy").unlink()
    with pytest.raises(runs.UserError, match="phase3_streams.npy is missing"):
        run(script, control.path, broken, "phase3b_bridge.py")
    (broken / "phase3_prompts.jsonl").unlink()
    with pytest.raises(runs.UserError, match="phase3_prompts.jsonl is missing"):
        run(script, control.path, broken, "phase3b_bridge.py")


def test_streams_are_those_of_the_languages_site_and_problems(phase3b, tmp_path):
    """Every number of the array says where it stands; of many problems those that phase 3 patched come first."""
    shape = (2, 100, 4, 3)  # languages, problems, sites, width
    np.save(tmp_path / "phase3_streams.npy", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    folder, z = SimpleNamespace(layers=3, width=3), SimpleNamespace(site=2, fitted_answers={"7"})
    patched = [{"problem": problem, "answer": str(problem % 50)} for problem in (1, 7, 99)]
    phase3 = {"rung": "sums", "languages": ["en", "zh"], "recipients": patched, "usable": list(range(1, 100))}
    lines = [
        {"language": language, "problem": problem, "answer": str(problem % 50), "prompt": f"{language} {problem}"}
        for language in ("en", "zh")
        for problem in range(100)
    ]
    found = phase3b.known_problems(tmp_path, folder, z, phase3, lines, ("zh", "en"))
    assert len(found.places) == phase3b.MOST and {1, 7, 99} <= set(found.places) and 0 not in found.places
    for points, language in zip(found.streams, (1, 0)):
        expected = [np.ravel_multi_index((language, place, 2, 0), shape) for place in found.places]
        np.testing.assert_array_equal(points, np.array(expected)[:, None] + np.arange(3))
    assert list(found.prompts[0]) == [f"zh {place}" for place in found.places]
    assert (found.scored == (found.places % 50 != 7)).all()
    assert ((found.answers[:, None] == found.answers) == (found.places[:, None] % 50 == found.places % 50)).all()
    assert found.kinds is None
    for line in lines:  # 7 and 8 begin alike in Chinese; 17 is 7's neighbour in English, 18 no one's
        line["category"] = "even" if line["problem"] % 2 else "odd"
        line["begins"] = {"en": {7: 1, 17: 1}, "zh": {7: 2, 8: 2}}[line["language"]].get(line["problem"] % 50)
        line["begins"] = line["begins"] or 100 + line["problem"] % 50
    some = phase3b.known_problems(tmp_path, folder, z, phase3, lines, ("zh", "en"))
    same = {7, 8, 17}
    assert (some.scored == ~np.isin(some.places % 50, list(same))).all()
    assert len(set(some.answers[np.isin(some.places % 50, list(same))])) == 1
    assert len(set(some.answers)) == len(set(found.answers)) - len(same & set(some.places % 50)) + 1
    assert (some.kinds == 1 - some.places % 2).all() or (some.kinds == some.places % 2).all()
    older = [{key: line[key] for key in line if key not in ("answer", "begins")} for line in lines]
    few = phase3b.known_problems(tmp_path, folder, z, phase3, older, ("zh", "en"))
    assert few.places.tolist() == [1, 7, 99]  # of which phase 3's results name the answer
    none = phase3b.known_problems(tmp_path, folder, z, {"rung": None}, [], ("zh", "en"))
    assert none.streams.shape == (2, 0, 3)


def test_words_are_the_questions_embeddings_and_twins_are_asked_the_same(phase3b, planted):
    control, out, _ = planted
    folder = checkpoints.find_model(str(control.path))
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    lines = {(line["language"], line["problem"]): line["prompt"] for line in phase3b.asked_prompts(out)}
    texts = tuple([lines[name, place] for place in range(5)] for name in ("zh", "en"))
    asked = phase3b.Asking(model, tokenizer, SimpleNamespace(prompts=texts), 2, 0)
    bags, table = asked.streams(0, "words", mean=True), model.get_input_embeddings().weight.detach().double()
    for language, own in enumerate(texts):
        rows = tokenizer(own)["input_ids"]
        alike = next(place for place in range(99) if len({row[place] for row in rows}) > 1)
        expected = torch.stack([table[row[alike:]].mean(0) for row in rows])
        np.testing.assert_allclose(bags[language], expected, atol=1e-6)
    site = 3
    last = asked.streams(site, "last positions")
    saved = np.load(out / "phase3_streams.npy")[::-1, :5, site]
    np.testing.assert_allclose(last, saved, atol=1e-4)
