"""Phase 0: the rule, its statistics, the contingencies, and the run on real models."""

import json

import pytest
from conftest import ROOT

import verdicts
from bench import ladder
from lab import models, questions, runs, statistics
from reports import phase0

PAIR = {"reference": "en", "candidate": "zh"}


def run(script, model, out, *flags) -> dict:
    script("phase0_behavioral.py").main(["--model", str(model), "--out", str(out), "--device", "cpu", *flags])
    return json.loads((out / "phase0_results.json").read_text())


def samples_with(english: list[bool], chinese: list[bool]) -> list[dict]:
    rows = [("en", right) for right in english] + [("zh", right) for right in chinese]
    return [
        {"language": language, "correct": right, "extracted": "1" if right else None, "setting": "few_shot"}
        for language, right in rows
    ]


def judged(difference: int, pair: dict = PAIR, n: int = 15, worse: int = 3, **changes) -> dict:
    """What follows from one side winning that many problems, the other none, and `worse` that both solve."""
    names = {"en": "English", "zh": "Chinese", "fr": "French"}
    right = {pair["reference"]: worse + max(-difference, 0), pair["candidate"]: worse + max(difference, 0)}
    results = {"compared": pair, "names": names, "difference": difference, "n": n, "right": right}
    p = statistics.mcnemar_p(max(difference, 0), max(-difference, 0))
    return verdicts.phase0(results | {"mcnemar_p": p, "identity": {"coverage": {}}} | changes)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(5, "chinese_advantage"), (3, "chinese_advantage"), (2, "no_asymmetry"), (1, "no_asymmetry"), (0, "no_asymmetry")]
    + [(-1, "no_asymmetry"), (-2, "english_advantage"), (-9, "english_advantage")],
)
def test_the_rule(difference, verdict):
    assert judged(difference)["verdict"] == verdict


def test_the_claim_needs_the_margin_and_the_exact_test():
    assert judged(6)["holds"]["behaviour"] is True
    assert judged(5)["verdict"] == "chinese_advantage"
    assert judged(5)["holds"]["behaviour"] is False  # 5 to 0 has p .0625
    assert judged(-9)["holds"]["behaviour"] is False


def test_thresholds_stand_in_the_verdicts(monkeypatch):
    monkeypatch.setitem(verdicts.RECIPE, "chinese_ahead", 5)
    monkeypatch.setitem(verdicts.RECIPE, "equal_within", 4)
    assert [judged(lead)["verdict"] for lead in (5, 4, -4)] == ["chinese_advantage", "no_asymmetry", "no_asymmetry"]
    assert judged(-5)["verdict"] == "english_advantage"
    assert judged(0)["p_of_advantage"] == statistics.mcnemar_p(5, 0)


@pytest.mark.parametrize(
    "difference, worse, n, no_room",
    [
        (0, 60, 60, "ceiling"),
        (-1, 58, 60, "ceiling"),
        (2, 58, 60, "ceiling"),
        (0, 57, 60, None),
        (4, 96, 100, "ceiling"),
    ]
    + [(0, 0, 60, "floor"), (2, 0, 60, "floor"), (0, 3, 60, None), (15, 0, 15, None), (1, 30, 60, None)],
)
def test_at_the_ceiling_or_the_floor_nothing_is_tested(difference, worse, n, no_room):
    found = judged(difference, n=n, worse=worse)
    assert found["no_room"] == no_room
    assert (found["verdict"] == "untestable") is (no_room is not None)
    assert (found["holds"]["behaviour"] is None) is (no_room is not None)


def test_a_difference_that_the_exact_test_sees_did_show():
    found = judged(12, n=250, worse=238)  # 250 and 238 of 250: at the ceiling, and still p < .001
    assert (found["verdict"], found["no_room"]) == ("chinese_advantage", "ceiling")
    assert found["holds"]["behaviour"] is True


@pytest.mark.parametrize(
    "difference, others",
    [(4, []), (3, ["no_asymmetry"]), (2, ["chinese_advantage"]), (1, []), (0, [])]
    + [(-1, ["english_advantage"]), (-2, ["no_asymmetry"]), (-3, [])],
)
def test_a_verdict_that_hangs_on_one_problem_is_known(difference, others):
    """8 : 6 in float32 and 9 : 6 in bfloat16 came from one real model."""
    assert judged(difference, worse=6)["one_problem_away"] == others


def test_leaving_the_ceiling_is_a_change_too():
    assert judged(0, n=60, worse=58)["one_problem_away"] == ["no_asymmetry"]
    assert judged(0, n=60, worse=60)["one_problem_away"] == []
    assert judged(-1, n=60, worse=57)["one_problem_away"] == ["english_advantage", "untestable"]


def test_too_few_problems_for_the_exact_test_test_nothing():
    assert judged(5, n=5, worse=0)["holds"]["behaviour"] is None
    assert judged(5, n=6, worse=0)["holds"]["behaviour"] is False


def test_a_language_in_bytes_is_not_covered():
    coverage = {
        "en": {"tokens_per_character": 0.3, "round_trips": 1.0},
        "zh": {"tokens_per_character": 2.5, "round_trips": 1.0},
        "fr": {"tokens_per_character": 0.3, "round_trips": 0.9},
    }
    assert judged(0, identity={"coverage": coverage})["covered"] == {"en": True, "zh": False, "fr": False}


def test_other_languages_get_their_own_names(script):
    compared = script("phase0_behavioral.py").compared
    assert compared(["zh", "en"]) == compared(["fr", "zh", "en"]) == PAIR  # the order of --languages does not matter
    others = compared(["fr", "zh"])
    assert others == {"reference": "fr", "candidate": "zh"}
    assert judged(-4, others)["verdict"] == "french_advantage"
    assert judged(4, others)["verdict"] == "chinese_advantage"


def test_paired_statistics_of_known_samples(script):
    phase0 = script("phase0_behavioral.py")
    results = phase0.compare(samples_with([True] * 4 + [False] * 11, [False] + [True] * 13 + [False]), PAIR, 0)
    assert results["right"] == {"en": 4, "zh": 13}
    assert results["accuracy"] == {"en": 4 / 15, "zh": 13 / 15}
    assert (results["only_candidate"], results["only_reference"], results["difference"]) == (10, 1, 9)
    assert results["mcnemar_p"] == pytest.approx(2 * (1 + 11) / 2**11)
    assert results["interval"]["en"] == pytest.approx(statistics.wilson_interval(4, 15))
    low, high = results["difference_interval"]
    assert low < 9 / 15 < high
    assert results["unanswered"] == {"en": 11, "zh": 2}
    assert judged(9)["smallest_significant"] == 6
    assert judged(9)["p_of_advantage"] == pytest.approx(0.25)


def test_smallest_significant_difference():
    assert judged(0, n=5)["smallest_significant"] is None
    assert judged(0, n=6)["smallest_significant"] == judged(0, n=250)["smallest_significant"] == 6
    for wins in range(1, 20):
        assert verdicts.p_of_wins(wins) == pytest.approx(statistics.mcnemar_p(wins, 0))


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


def english_only(small, zero_shot: bool):
    """In place of models.generate: English right with exemplars, and without them where `zero_shot`; no other answer."""
    problems = questions.load_problems([small / "problems.jsonl"], ["en", "zh"])
    right = {problem.question["en"]: str(problem.answer) for problem in problems}

    def answers(model, tokenizer, prompts, max_new_tokens, batch, ended):
        outputs = []
        for prompt in prompts:
            question = prompt.split("Question: ")[-1].removesuffix("\nAnswer:")
            few_shot = prompt.count("Question:") > 1
            outputs.append(right.get(question, "") if few_shot or zero_shot else "")
        return outputs

    return answers


@pytest.mark.parametrize(("zero_shot", "survives"), [(False, False), (True, True)])
def test_english_ahead_reruns_without_exemplars(script, small, tmp_path, monkeypatch, zero_shot, survives):
    monkeypatch.setattr(models, "generate", english_only(small, zero_shot))
    results = run(script, small, tmp_path)
    assert results["verdict"] == "english_advantage"
    assert results["accuracy"] == {"en": 1.0, "zh": 0.0}
    assert results["contingency"]["survives"] is survives
    assert results["claims"][0]["holds"] is False
    report = (tmp_path / "phase0_output.md").read_text()
    assert ("leads without exemplars too" in report) is survives
    settings = [json.loads(line)["setting"] for line in (tmp_path / "phase0_samples.jsonl").read_text().splitlines()]
    assert settings.count("zero_shot") == settings.count("few_shot") == 2 * results["n"]


def test_a_changed_threshold_judges_again_without_a_model(script, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "generate", english_only(small, False))
    results = run(script, small, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"}
    monkeypatch.setattr(models, "load_model", None)
    main = script("phase0_behavioral.py").main
    main(["--out", str(tmp_path), "--report-only"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"} == files
    monkeypatch.setitem(verdicts.RECIPE, "equal_within", results["n"])
    assert run(script, small, tmp_path)["verdict"] == "no_asymmetry"  # nor does a threshold count as another setting
    assert "zh 0/" in capsys.readouterr().out.splitlines()[-1]
    assert "There is no asymmetry" in (tmp_path / "phase0_output.md").read_text()


def test_the_page_reads_names_and_order_from_the_file(script, small, tmp_path, monkeypatch):
    run(script, small, tmp_path, "--limit", "4", "--max-new-tokens", "2")
    path = tmp_path / "phase0_results.json"
    results = json.loads(path.read_text())
    results["names"], results["settings"]["languages"] = {"en": "Anglish", "zh": "Zhongwen"}, ["zh", "en"]
    path.write_text(json.dumps(results))
    monkeypatch.setattr(questions, "load_languages", None)
    script("phase0_behavioral.py").main(["--out", str(tmp_path), "--report-only"])
    report = (tmp_path / "phase0_output.md").read_text()
    assert "| Zhongwen | 0/4 |" in report
    assert "Zhongwen and Anglish are both at the floor" in report.splitlines()[2]
    assert report.index("| Zhongwen |") < report.index("| Anglish |")
    assert "in Zhongwen than in Anglish" in report
    assert "English" not in report


def test_mgsm_files_run_through_the_script(script, small, tmp_path):
    rows = {"en": ["What is 2 + 2?\t4", "What is 2,000 + 2?\t2,002"], "zh": ["2加2？\t4", "2000加2？\t2002"]}
    files = []
    for language, lines in rows.items():
        files.append(tmp_path / f"mgsm_{language}.tsv")
        files[-1].write_text("\n".join(lines), encoding="utf-8")
    results = run(script, small, tmp_path / "out", "--problems", *map(str, files), "--max-new-tokens", "4")
    assert results["n"] == 2
    assert results["smallest_significant"] is None
    report = (tmp_path / "out" / "phase0_output.md").read_text()
    assert "no outcome at all" in report
    assert "do not compare with lm-eval's mgsm tasks" in report


def by_language(right: dict[str, int]):
    """In place of models.generate: as many right answers in each language, the first problems'."""

    def answers(model, tokenizer, prompts, max_new_tokens, batch, ended):
        outputs, left = [], dict(right)
        for prompt in prompts:
            language = "en" if prompt.endswith("Answer:") else "zh"
            left[language] -= 1
            outputs.append("7" if left[language] >= 0 else "no")
        return outputs

    return answers


def sevens(folder, count: int, copies: int = 1):
    """A file of problems whose answer is 7, each `copies` times."""
    rows = [
        {"id": f"{copy}-{index}", "answer": 7, "question": {"en": f"Number {index}?", "zh": f"第{index}题？"}}
        for copy in range(copies)
        for index in range(count)
    ]
    (folder / "sevens.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(folder / "sevens.jsonl")


@pytest.mark.parametrize(
    "chinese, english, verdict, said",
    [
        (8, 6, "no_asymmetry", "hangs on one problem"),
        (9, 6, "chinese_advantage", "it would be `no_asymmetry`"),
        (10, 6, "chinese_advantage", "Chinese 10 of 15, English 6 of 15"),
        (15, 15, "untestable", "both at the ceiling"),
        (0, 0, "untestable", "both at the floor"),
    ],
)
def test_the_page_says_what_the_verdict_hangs_on(
    script, small, tmp_path, monkeypatch, capsys, chinese, english, verdict, said
):
    monkeypatch.setattr(models, "generate", by_language({"en": english, "zh": chinese}))
    results = run(script, small, tmp_path / "out", "--problems", sevens(tmp_path, 15))
    sentence, *rest = (tmp_path / "out" / "phase0_output.md").read_text().splitlines()[2:]
    assert results["verdict"] == verdict and said in sentence
    assert ("hangs on one problem" in sentence) is (chinese != 10)
    if verdict == "untestable":
        assert f"- {results['no_room'].capitalize()}: {chinese}/15 and {english}/15" in "\n".join(rest)
        assert f"untestable: {results['no_room']}: zh" in capsys.readouterr().out.splitlines()[-1]
        assert "not testable here" in "\n".join(rest)


@pytest.mark.parametrize("english, verdict", [(48, "chinese_advantage"), (60, "untestable")])
def test_a_ceiling_limits_only_what_it_leaves_untested(script, small, tmp_path, monkeypatch, english, verdict):
    """60 and 48 of 60 are no ceiling to the rule, so its share is widened: the exact test sees the difference."""
    monkeypatch.setattr(verdicts, "NO_ROOM", 0.5)
    monkeypatch.setattr(models, "generate", by_language({"en": english, "zh": 60}))
    results = run(script, small, tmp_path / "out", "--problems", sevens(tmp_path, 60))
    assert (results["verdict"], results["no_room"]) == (verdict, "ceiling")
    report = (tmp_path / "out" / "phase0_output.md").read_text()
    assert ("leave hardly any room" in report) is (verdict == "untestable")


def test_the_page_says_where_generation_ends(script, small, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "generate", by_language({"en": 2, "zh": 2}))
    run(script, small, tmp_path / "out", "--problems", sevens(tmp_path, 4), "--max-new-tokens", "37")
    report = (tmp_path / "out" / "phase0_output.md").read_text()
    assert "greedy decoding up to the first complete answer or 37 tokens" in report


def test_the_ladder_generates_as_phase_0_does(monkeypatch):
    """A worked answer has several lines: its first one is not what phase 0 grades."""
    output, problem = "It has 3 and 4.\nThe answer is 7.\n", questions.Problem("p", "", 7, {"en": "3 + 4?"})

    def generate(model, tokenizer, prompts, max_new_tokens, batch, ended=None):
        assert not ended(0, output.split("\n")[0]) and ended(0, output)
        return [output] * len(prompts)

    monkeypatch.setattr(models, "generate", generate)
    assert ladder.generated(None, None, ["", ""], [problem, problem], "en", 2) == 2


def test_copies_of_a_problem_count_once(script, small, tmp_path, monkeypatch):
    """Ten problems copied four times gave p .0078 where .5 is right."""
    monkeypatch.setattr(models, "generate", by_language({"en": 6, "zh": 8}))
    results = run(script, small, tmp_path / "out", "--problems", sevens(tmp_path, 10, copies=4))
    assert (results["n"], results["difference"], results["mcnemar_p"]) == (10, 2, 0.5)
    report = (tmp_path / "out" / "phase0_output.md").read_text()
    assert "10 problems from `sevens.jsonl` (40 problems, 10 distinct: copies under another name count once)" in report


def test_an_exemplar_that_is_also_a_problem_is_refused(script, small, tmp_path):
    with pytest.raises(runs.UserError, match="is also a problem"):
        run(script, small, tmp_path, "--exemplars", str(small / "problems.jsonl"))


@pytest.mark.parametrize("dtype, said", [("float32", False), ("bfloat16", True), ("float16", True)])
def test_16_bits_limit_only_a_run_in_16_bits(dtype, said):
    settings = {"dtype": dtype, "problems": [["phase0.jsonl", "0"]]}
    lines = phase0.limitations({"n": 15, "verdict": "chinese_advantage", "settings": settings})
    assert any("16-bit" in line for line in lines) is said


def test_model_text_cannot_break_the_report(script, small, tmp_path, monkeypatch):
    nasty = "<script>x</script> | **b** `c` [l](u)\n# no"
    monkeypatch.setattr(models, "generate", lambda model, tokenizer, prompts, *_, **__: [nasty] * len(prompts))
    run(script, small, tmp_path, "--limit", "2")
    report = (tmp_path / "phase0_output.md").read_text()
    assert "<script>" not in report
    rows = [line for line in report.splitlines() if "script" in line]
    assert rows
    for row in rows:
        assert row.replace("\\|", "").count("|") == 8
