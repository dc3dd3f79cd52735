"""Phase 0: the rule, its statistics, the contingencies, and the run on real models."""

import json

import pytest
from conftest import ROOT

from lab import models, questions, runs, statistics

LANGUAGES = questions.load_languages(["en", "zh"])


def run(script, model, out, *flags) -> dict:
    script("phase0_behavioral.py").main(["--model", str(model), "--out", str(out), "--device", "cpu", *flags])
    return json.loads((out / "phase0_results.json").read_text())


def samples_with(english: list[bool], chinese: list[bool]) -> list[dict]:
    rows = [("en", right) for right in english] + [("zh", right) for right in chinese]
    return [
        {"language": language, "correct": right, "extracted": "1" if right else None, "setting": "few_shot"}
        for language, right in rows
    ]


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(5, "chinese_advantage"), (3, "chinese_advantage"), (2, "no_asymmetry"), (1, "no_asymmetry"), (0, "no_asymmetry")]
    + [(-1, "no_asymmetry"), (-2, "english_advantage"), (-9, "english_advantage")],
)
def test_the_rule(script, difference, verdict):
    assert script("phase0_behavioral.py").decide(difference, LANGUAGES) == verdict


def test_other_languages_get_their_own_names(script):
    phase0 = script("phase0_behavioral.py")
    reversed_flags = {"zh": LANGUAGES["zh"], "en": LANGUAGES["en"]}
    assert phase0.decide(3, reversed_flags) == "chinese_advantage"  # the order of --languages does not matter
    assert phase0.decide(-2, reversed_flags) == "english_advantage"
    others = {"fr": {"name": "French"}, "zh": LANGUAGES["zh"]}
    assert phase0.decide(-4, others) == "french_advantage"


def test_paired_statistics_of_known_samples(script):
    phase0 = script("phase0_behavioral.py")
    results = phase0.compare(samples_with([True] * 4 + [False] * 11, [False] + [True] * 13 + [False]), LANGUAGES, 0)
    assert results["right"] == {"en": 4, "zh": 13}
    assert results["accuracy"] == {"en": 4 / 15, "zh": 13 / 15}
    assert (results["only_candidate"], results["only_reference"], results["difference"]) == (10, 1, 9)
    assert results["mcnemar_p"] == pytest.approx(2 * (1 + 11) / 2**11)
    assert results["interval"]["en"] == pytest.approx(statistics.wilson_interval(4, 15))
    low, high = results["difference_interval"]
    assert low < 9 / 15 < high
    assert results["unanswered"] == {"en": 11, "zh": 2}
    assert results["smallest_significant"] == 6
    assert results["p_of_advantage"] == pytest.approx(0.25)


def test_smallest_significant_difference(script):
    phase0 = script("phase0_behavioral.py")
    assert phase0.smallest_significant(5) is None
    assert phase0.smallest_significant(6) == phase0.smallest_significant(250) == 6


def test_run_on_the_embedded_model(script, tmp_path):
    results = run(script, ROOT / "tiny", tmp_path)
    samples = [json.loads(line) for line in (tmp_path / "phase0_samples.jsonl").read_text().splitlines()]
    assert results["n"] >= 40
    assert set(results["accuracy"]) == {"en", "zh"}
    for language, accuracy in results["accuracy"].items():
        rows = [sample for sample in samples if sample["language"] == language and sample["setting"] == "few_shot"]
        assert len(rows) == results["n"]
        assert accuracy == pytest.approx(sum(row["correct"] for row in rows) / len(rows), rel=1e-3)
        assert accuracy >= 0.95
    assert {"prompt", "output", "extracted", "correct", "language"} <= set(samples[0])
    assert samples[0]["prompt"].count("Question:") == results["exemplars"] + 1
    assert not results["identity"]["is_qwen25_3b"]
    assert results["identity"]["coverage"]["zh"]["round_trips"] == 1


@pytest.mark.parametrize(("zero_shot", "survives"), [(False, False), (True, True)])
def test_english_ahead_reruns_without_exemplars(script, small, tmp_path, monkeypatch, zero_shot, survives):
    """Only the model's answers are replaced: English right with exemplars, and without them where `zero_shot`."""

    def answers(model, tokenizer, prompts, max_new_tokens, batch):
        problems = questions.load_problems([small / "problems.jsonl"], ["en", "zh"])
        right = {problem.question["en"]: str(problem.answer) for problem in problems}
        outputs = []
        for prompt in prompts:
            question = prompt.split("Question: ")[-1].removesuffix("\nAnswer:")
            few_shot = prompt.count("Question:") > 1
            outputs.append(right.get(question, "") if few_shot or zero_shot else "")
        return outputs

    monkeypatch.setattr(models, "generate", answers)
    results = run(script, small, tmp_path)
    assert results["verdict"] == "english_advantage"
    assert results["accuracy"] == {"en": 1.0, "zh": 0.0}
    assert results["contingency"]["survives"] is survives
    assert results["claims"][0]["holds"] is False
    report = (tmp_path / "phase0_output.md").read_text()
    assert ("leads without exemplars too" in report) is survives
    settings = [json.loads(line)["setting"] for line in (tmp_path / "phase0_samples.jsonl").read_text().splitlines()]
    assert settings.count("zero_shot") == settings.count("few_shot") == 2 * results["n"]


def test_mgsm_files_run_through_the_script(script, small, tmp_path):
    rows = {"en": ["What is 2 + 2?\t4", "What is 2,000 + 2?\t2,002"], "zh": ["2加2？\t4", "2000加2？\t2002"]}
    files = []
    for language, lines in rows.items():
        files.append(tmp_path / f"mgsm_{language}.tsv")
        files[-1].write_text("\n".join(lines), encoding="utf-8")
    results = run(script, small, tmp_path / "out", "--problems", *map(str, files), "--max-new-tokens", "4")
    assert results["n"] == 2
    assert results["smallest_significant"] is None
    assert "no outcome at all" in (tmp_path / "out" / "phase0_output.md").read_text()


def test_an_exemplar_that_is_also_a_problem_is_refused(script, small, tmp_path):
    with pytest.raises(runs.UserError, match="is also a problem"):
        run(script, small, tmp_path, "--exemplars", str(small / "problems.jsonl"))


def test_model_text_cannot_break_the_report(script, small, tmp_path, monkeypatch):
    nasty = "<script>x</script> | **b** `c` [l](u)\n# no"
    monkeypatch.setattr(models, "generate", lambda model, tokenizer, prompts, *_: [nasty] * len(prompts))
    run(script, small, tmp_path, "--limit", "2")
    report = (tmp_path / "phase0_output.md").read_text()
    assert "<script>" not in report
    rows = [line for line in report.splitlines() if "script" in line]
    assert rows
    for row in rows:
        assert row.replace("\\|", "").count("|") == 8
