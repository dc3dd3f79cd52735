"""What stands beside a tested subspace, on models with a known truth: rivals, sweeps, ablations, other formats, contrasts."""

import importlib
import json
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import verdicts
from bench import control_runs, planted
from lab import checkpoints, continuations, contrasts, dissociation, formats, questions, rivals, transfer
from lab.problems import Problem

PLACE = planted.BOTTLENECK + 1
NEAR = 0.03  # of what paper says


class Run:
    """A planted model on which 1.py and phase 2 ran, and phase 3's instruments on it."""

    def __init__(self, folder, kind: str):
        self.path, self.out = folder / "model", folder / "out"
        self.truth = planted.write_planted(self.path, kind, 0)
        flags = ["--model", str(self.path), "--out", str(self.out), "--device", "cpu"]
        for name in control_runs.SCRIPTS[:2]:
            importlib.import_module(name).main(flags)
        self.study, self.rung, self.measured, _ = control_runs.prepared(self.path, self.out, 0)
        self.candidate = self.tested("code", self.truth.parts["code"])

    def tested(self, name: str, basis: torch.Tensor, **options) -> dissociation.Candidate:
        return dissociation.Candidate(name, "weight", lambda _: basis, lambda _: 3, "all", PLACE, **options)

    def row(self, candidate: dissociation.Candidate) -> dict:
        return self.measured.test(candidate)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("planted"), "planted")


@pytest.fixture(scope="module")
def beside(ordinary) -> rivals.Beside:
    fits = ordinary.rung.streams[:, ordinary.measured.design.fits][:, :, PLACE]
    return rivals.Beside(ordinary.measured, PLACE, ordinary.candidate.basis(PLACE).float(), "test", fits)


def values(row: dict) -> list[float]:
    return [row[name]["value"] for name in transfer.RATIOS]


def test_a_rival_is_what_it_is_on_paper(ordinary, beside):
    folder = checkpoints.find_model(str(ordinary.path))
    weights = rivals.other_constructions(folder, planted.BOTTLENECK, ordinary.study.z.every_layer)
    found = beside.rivals(weights)
    assert values(found["z"]) == pytest.approx([1, 0, 0, 1, 2], abs=NEAR)
    assert values(found["query_side"]) == pytest.approx([1, 0, 0, 1, 2], abs=NEAR)  # both sides span the code
    assert values(found["all_but_language"]) == pytest.approx([1, 0, 0, 1, 2], abs=NEAR)
    assert found["all_but_language"]["k"] == planted.WIDTH - 1
    for name in ("haar", "previous_layer", "word_rows"):  # the output word's code is written two layers later
        assert abs(found[name]["d"]["value"]) < 0.2, name
        assert found[name]["coverage"]["value"] < 0.2, name
    for name, row in found.items():
        assert (row["draws"] is None) == (name not in ("haar", "covariance"))
        assert row["coverage"]["low"] <= row["coverage"]["value"] <= row["coverage"]["high"]


def test_without_the_code_no_margin_is_left_and_without_the_rest_all(beside):
    found = beside.ablation()
    assert found["margin"]["value"] > 5
    assert abs(found["mean"]["z"]["value"]) < 0.1  # the mean is of the other half's answers: a little away from these
    assert found["mean"]["complement"]["value"] == pytest.approx(1, abs=0.1)
    assert found["resample"]["complement"]["value"] == pytest.approx(1, abs=NEAR)
    assert abs(found["resample"]["z"]["value"]) < 0.15  # of codes with cosines 1/4 and -1/2
    assert found["mean"]["haar"]["low"] > 0.8


def test_the_sweep_over_k_ends_at_the_subspace_itself(beside):
    rows = [row for row in beside.sweep_k() if row["of"] == "z"]
    assert [row["k"] for row in rows] == [1, 2, 4, 6]
    coverage = [row["coverage"]["value"] for row in rows]
    assert coverage == sorted(coverage)
    assert coverage[-1] == pytest.approx(1, abs=NEAR)
    assert rows[-1]["haar"]["coverage"]["high"] < 0.2


def test_the_sweep_over_places_asks_where_the_code_acts(ordinary, beside):
    basis = ordinary.candidate.basis(PLACE)
    moved = dissociation.Candidate("moved", "weight", lambda _: basis, lambda _: 3)
    rows = {row["site"]: row for row in beside.sweep_site([ordinary.candidate, moved])}
    joint = ordinary.measured.carriers["joint"]
    assert list(rows) == joint  # of the one without a place alone
    for site in joint:
        expected = site in ordinary.truth.acts
        assert (rows[site]["d"]["value"] > 1.8) == expected, site


def test_the_same_problem_in_another_language_changes_the_language_outside_of_the_code_alone(beside):
    found = beside.same_problem()
    moved = {
        swap: [row[name]["value"] for name in ("language", "kept", "translated")]
        for swap, row in found["swaps"].items()
    }
    assert moved["full"] == pytest.approx([1, 0, 1], abs=1e-6)
    assert moved["z"] == pytest.approx([0, 1, 0], abs=NEAR)
    assert moved["complement"] == pytest.approx([1, 0, 1], abs=NEAR)
    assert found["language"]["value"] > 1


def test_continuations_say_what_was_swapped(ordinary):
    basis, study = ordinary.candidate.basis(PLACE), ordinary.study
    haar = torch.linalg.qr(torch.randn(planted.WIDTH, 2, generator=torch.Generator().manual_seed(0)).double())[0].T
    found = continuations.continuations(
        study, ordinary.rung.problems, ordinary.measured.design, ordinary.measured.patching.streams[:, :, PLACE], PLACE,
        continuations.parts_of(basis, haar), 4, "test",
    )  # fmt: skip
    every = 2 * continuations.RECIPIENTS
    assert found["prompts"] == every
    wanted = {"unpatched": "recipient_recipient", "full": "donor_donor", "z": "donor_recipient"}
    wanted |= {"complement": "recipient_donor", "haar": "recipient_recipient"}
    for swap, kind in wanted.items():
        assert found["swaps"][swap][kind] == every, (swap, found["swaps"][swap])


def test_the_margins_of_ablations_are_those_of_the_scores(ordinary, beside):
    """Against a loop over pairs."""
    design, patching = ordinary.measured.design, ordinary.measured.patching
    scores, part = patching.scores(PLACE, beside.donors), design.part("test")
    expected = []
    for recipient in part:
        own = []
        for language in range(2):
            for donor in np.flatnonzero(beside.donors[recipient]):
                row = scores[0, language, recipient, language, donor].reshape(-1, 2)[:, language].astype(float)
                others = [row[a] for a in range(len(row)) if a not in (design.places[recipient], design.places[donor])]
                own.append(row[design.places[recipient]] - np.mean(others))
        expected.append(np.mean(own))
    assert beside.margins(scores, beside.donors, design.places) == pytest.approx(np.array(expected))


OTHER_WORDS = formats.Format("other words", planted.other_text)


@pytest.mark.parametrize("kind", ["planted", "one_format"])
def test_a_swap_carries_to_another_format_where_the_code_is_of_the_answer_and_not_of_the_word(kind, ordinary, tmp_path):
    run = ordinary if kind == "planted" else Run(tmp_path, kind)
    row = run.row(run.candidate)
    form = formats.Reformatted(run.study, run.rung, run.measured, OTHER_WORDS)
    found = form.test(run.candidate, row)
    assert row["d"]["value"] > 1.8
    assert found["problems"] == found["asked"] == min(found["solved"].values())
    assert found["mass"] > 0.9
    assert found["full_wins"]["value"] == 1
    assert found["z"]["value"] == pytest.approx(run.truth.profile["coverage_in_other_format"], abs=NEAR)
    assert found["wins"]["value"] == (1.0 if kind == "planted" else 0.0)
    assert verdicts.dissociation.carries_over(found, row) == (kind == "planted")
    left = (
        1 if kind == "planted" else 0
    )  # no word is written yet; in one_format the other one's is there from the start
    assert found["outside"]["full"]["value"] == pytest.approx(left, abs=NEAR)
    assert found["outside"]["z"]["value"] == (pytest.approx(1, abs=NEAR) if left else None)


def test_words_that_share_their_directions_carry_to_each_other_and_prove_nothing(ordinary):
    """Behind the translation both ways of writing read `word`: its swap carries over in full, as the word's code alone."""
    site = ordinary.truth.acts[-1] + 1
    word = dissociation.Candidate("word", "weight", lambda _: ordinary.truth.parts["word"], lambda _: 3, "all", site)
    row, form = ordinary.row(word), formats.Reformatted(ordinary.study, ordinary.rung, ordinary.measured, OTHER_WORDS)
    found = form.test(word, row)
    assert found["z"]["value"] == pytest.approx(1, abs=NEAR)
    assert abs(found["outside"]["full"]["value"]) < NEAR
    assert verdicts.dissociation.carries_over(found, row) is None


def test_an_answer_that_has_no_other_form_is_not_asked_for_in_it(ordinary):
    form = formats.Reformatted(ordinary.study, ordinary.rung, ordinary.measured, formats.FORMATS[0])
    found = form.test(ordinary.candidate, {"site": PLACE})
    assert found["unmeasured"] == "these answers cannot be written in digits"
    assert verdicts.dissociation.carries_over(found, {}) is None


@pytest.mark.parametrize(
    ("kinds", "kept"), [([(1, 1), (1, 1), (2, 3)], 2), ([(1, 1), (1, 2), (3, 3)], 2), ([(1, 2)], 1)]
)
def test_answers_that_share_a_token_are_told_apart_once(kinds, kept):
    assert len(formats.told_apart(kinds)) == kept


def contrasts_of(run: Run) -> contrasts.Contrasts:
    given = control_runs.arguments_of(run.path, run.out)
    return contrasts.Contrasts(
        run.study, run.measured, questions.find_contrasts(given, checkpoints.find_model(str(run.path)))
    )


def test_contrast_donors_behave_where_the_subspace_holds_the_answer(ordinary):
    row, donors = ordinary.row(ordinary.candidate), contrasts_of(ordinary)
    found = donors.test(ordinary.candidate, row)
    assert found["unmeasured"] is None
    assert found["problems"] == 12
    assert found["operation"]["z"]["value"] == pytest.approx(1, abs=NEAR)
    assert found["operation"]["wins"]["value"] == found["same_answer"]["kept"]["value"] == 1
    assert abs(found["same_answer"]["moved"]["value"]) < NEAR
    assert verdicts.dissociation.contrasts_behave(found) is True
    nuisance = ordinary.tested("nuisance", ordinary.truth.parts["nuisance"])
    assert verdicts.dissociation.contrasts_behave(donors.test(nuisance, row)) is False


def test_a_subspace_fitted_on_the_donors_answers_is_not_asked(ordinary):
    donors = contrasts_of(ordinary)
    seen = frozenset(str(donors.rung.problems[place].answer) for place in donors.donors["operation"])
    found = donors.test(
        ordinary.tested("fitted", ordinary.truth.parts["code"], seen=seen), ordinary.row(ordinary.candidate)
    )
    assert "nothing was fitted" in found["unmeasured"]
    assert verdicts.dissociation.contrasts_behave(found) is None


def bearing_out() -> dict:
    """What a format and contrast donors give of a Z that both bear out."""
    passes, nothing = {"value": 0.9, "low": 0.8, "high": 1.0}, {"value": 0.1, "low": 0.0, "high": 0.15}
    share = {"z": passes, "haar": {"p": 0.04}}
    form = {"unmeasured": None, "full_wins": passes, "wins": passes, "outside": share | {"full": passes}} | share
    contrast = {"unmeasured": None, "operation": {"full_wins": passes, "wins": passes} | share}
    contrast["same_answer"] = {"kept": passes, "full_kept": passes, "moved": nothing, "full_moved": nothing}
    return json.loads(
        json.dumps({"coverage": {"value": 1.0}, "reasoning": {"formats": [form], "contrast": contrast}})
    )  # each number its own


NOT, UNSURE = {"value": 0.1, "low": 0.0, "high": 0.2}, {"value": 0.6, "low": 0.3, "high": 0.9}
CHANGES = {  # of one number: what then becomes of the format, and of the contrasts
    "nothing": (("contrast", "unmeasured"), None, True, True),
    "little in the format": (("formats", 0, "z"), NOT, False, True),
    "unsure in the format": (("formats", 0, "z"), UNSURE, None, True),
    "as random there": (("formats", 0, "haar", "p"), 0.2, False, True),
    "wins nothing there": (("formats", 0, "wins"), NOT, False, True),
    "the words' code": (("formats", 0, "outside", "z"), NOT, False, True),
    "nothing but the words' code": (("formats", 0, "outside", "full"), NOT, None, True),
    "the full swap does not win there": (("formats", 0, "full_wins"), NOT, None, True),
    "not asked": (("formats", 0, "unmeasured"), "too few", None, True),
    "another operation moves little": (("contrast", "operation", "z"), NOT, True, False),
    "and wins nothing": (("contrast", "operation", "wins"), NOT, True, False),
    "the same answer is not kept": (("contrast", "same_answer", "kept"), NOT, True, False),
    "the same answer moves": (("contrast", "same_answer", "moved"), UNSURE, True, False),
    "the full swap keeps it neither": (("contrast", "same_answer", "full_kept"), NOT, True, None),
    "no contrasts": (("contrast", "unmeasured"), "none there", True, None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_word_is_said_of_a_dissociation_that_both_bear_out(name):
    (*path, last), value, form, contrast = CHANGES[name]
    row = bearing_out()
    place = row["reasoning"]
    for key in path:
        place = place[key]
    place[last] = value
    found = verdicts.dissociation.reasoning(row, "double_dissociation")
    assert (found["format"], found["contrast"], found["said"]) == (form, contrast, form is contrast is True)
    assert not verdicts.dissociation.reasoning(row, "partial")["said"]


def test_of_what_was_not_asked_nothing_is_said():
    assert verdicts.dissociation.reasoning({}, "none") == {"format": None, "contrast": None, "said": False}


def test_what_all_answers_begin_with_alike_belongs_to_the_prompt_as_far_as_it_goes():
    """Of 100, 200, 300 the space before; not the zeros behind what tells them apart."""
    asker = SimpleNamespace(tokenizer=Characters(), languages=questions.load_languages(["en", "zh"]))
    problems = [Problem(str(n), "", Fraction(n), {"en": "?"}, {"en": str(n)}) for n in (100, 200, 300)]
    own = formats.Beginnings(asker, problems, "en")
    assert own.shared == " "
    assert own.tokens == [ord("1"), ord("2"), ord("3")]
    held = Problem("x", "", Fraction(14), {"en": "Which number comes after thirteen?"}, {"en": "14"})
    free = Problem("y", "", Fraction(20), {"en": "Which number comes after nineteen?"}, {"en": "20"})
    assert own.holds(held, formats.FORMATS[0]) and not own.holds(free, formats.FORMATS[0])


class Characters:
    """A tokenizer with a token for every character."""

    def __call__(self, text: str, **_) -> dict:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))
