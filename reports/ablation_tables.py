"""Tables of the ablation's page, and how its rows and numbers are written."""

import math

import numpy as np

from reports import page
from reports.page import p_value, percent

NAMES = {
    "none": "no edit",
    "language": "language subspace",
    "language_reinjected": "language subspace, re-injected in the late third",
    "language_mean": "language part set to the languages' mean",
    "own_mean": "language part set to its own language's mean",
    "shuffled": "made-up languages (rival)",
    "z_perp": "all but Z",
    "z_perp_mean": "all but Z set to its language's mean",
}
PLACES = {"early": "early third", "middle": "middle third", "late": "late third", "z": "Z's place"}
SCOPES = {"last": "last position", "prefill": "whole prompt"}
NULLS = {"random": "random directions", "random_perp": "all but a Haar-random subspace"}
MOST_LAYERS = 12  # of the layers' table
MOST_SAMPLES = 8


def signed(value: float) -> str:
    """Nats with their sign, two decimals."""
    return f"{round(value, 2) + 0.0:+.2f}"


def nats(record: dict) -> str:
    """A change of log-odds with its interval."""
    return f"{signed(record['value'])} ({signed(record['low'])} to {signed(record['high'])})"


def points(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def paired(row: dict, name: str = "difference") -> str:
    """A difference of shares in percentage points, with its interval."""
    low, high = row[f"{name}_interval"]
    return f"{points(row[name])} ({points(low)} to {points(high)})"


def times(value: float) -> str:
    """A change of nats as a factor."""
    factor = math.exp(min(value, 20))
    return "×" + (f"{factor:.2f}" if factor < 100 else f"{factor:,.0f}")


def perplexity(record: dict) -> str:
    """What the text's perplexity is multiplied by, with its interval."""
    value, low, high = (times(record[end]) for end in page.ENDS)
    return value if value == low == high else f"{value} ({low[1:]} to {high[1:]})"


def ends(record: dict, write=signed) -> str:
    """5 % and 95 % points of a null."""
    low, high = write(record["low"]), write(record["high"])
    return low if low == high else f"{low} to {high}"


def lambdas(row: dict) -> str:
    """λ, and that of the late layers where there is re-injection."""
    return f"{row['strength']:g}" + (f", late −{row['reinjection']:g}" if row["reinjection"] else "")


def label(row: dict, scope: bool = True) -> str:
    """What was edited where."""
    if row["condition"] == "none":
        return NAMES["none"]
    place = "" if row["condition"] == "language_reinjected" else f", {PLACES[row['place']]}"
    return (
        NAMES.get(row["condition"], row["condition"])
        + place
        + (f", {SCOPES[row['scope']]}" if scope and row["scope"] == "last" else "")
    )


def by_role(results: dict) -> dict[str, dict]:
    """The rows that verdict and claims are about."""
    return {role: row for row in results["rows"] for role in row["roles"]}


def null_of(results: dict, role: str) -> dict:
    """The null beside a role's row."""
    return next(null for null in results["nulls"] if null["role"] == role)


def null_p(null: dict) -> str:
    """p that random directions reach the edit's change of log-odds, in the direction that it has.

    Of all but Z the question is whether Z alone keeps the answer: there, that random subspaces keep as much.
    """
    keeps = null["role"].startswith("z_perp") or null["tested"]["odds"] > 0
    p = null["odds"]["p"] if keeps else null["p_fall"]
    return p_value(p, null["odds"]["draws"])


def tried_table(results: dict) -> str:
    rows = []
    for row in results["tried"]:
        right = f"{row['right']} of {row['prompts']}" if row["prompts"] else "answers are written alike"
        taken = "taken" if row["rung"] == results["rung"] else ""
        rows.append([row["rung"], right, percent(row["share"]), row["by"] or "–", taken])
    return page.table(["kind of problem", "right unedited", "share", "asked by", ""], rows)


def layers_table(results: dict) -> str:
    """Every layer, or so many of them evenly spaced."""
    layers = results["subspaces"]
    chosen = np.unique(np.linspace(0, len(layers) - 1, min(MOST_LAYERS, len(layers))).round().astype(int))
    keys = ("share", "common", "shuffled_share", "stability")
    rows = [
        [f"L{row['layer']}", row["third"], *(percent(row[key]) for key in keys)]
        for row in (layers[place] for place in chosen)
    ]
    return page.table(["behind layer", "third", "share", "of it common", "share, made-up", "stability"], rows)


def development_table(results: dict) -> str:
    before, rows = results["development"][0], []
    for row in results["development"]:
        change = "–" if row is before else signed(row["odds"] - before["odds"])
        text = "–" if row is before else times(row["text"] - before["text"])
        amount = "–" if row is before else lambdas(row)
        rows.append([label(row), amount, change, percent(row["accuracy"]), text, "yes" if row["chosen"] else ""])
    right = f"right, of {results['problems']['development'] * len(results['languages'])}"
    headers = ["edit", "λ", "log-odds", right, "text's perplexity", "chosen"]
    return page.table(headers, rows)


def answers_table(results: dict) -> str:
    """Every edit of the test half."""
    rows = [[NAMES["none"], "–", percent(results["none"]["accuracy"]), "", "", "", "", ""]]
    for row in results["rows"]:
        holm = "primary" if "primary" in row["roles"] else p_value(row["odds"].get("p_holm"))
        cells = [label(row), lambdas(row), percent(row["accuracy"]), paired(row), p_value(row["p"])]
        rows.append([*cells, nats(row["odds"]), holm, perplexity(row["text"])])
    headers = [
        "edit",
        "λ",
        f"right, of {results['problems']['test'] * len(results['languages'])}",
        "points (95 %)",
        "exact p",
        "log-odds, nats (95 %)",
        "p, Holm",
        "text's perplexity",
    ]
    return page.table(headers, rows)


def nulls_table(results: dict) -> str:
    rows = []
    for null in results["nulls"]:
        row, draws = by_role(results)[null["role"]], null["odds"]["draws"]
        cells = [f"{label(row)}, λ {lambdas(row)}", f"{NULLS[null['null']]}, {draws}"]
        cells += [signed(null["tested"]["odds"]), ends(null["odds"]), null_p(null)]
        cells += [points(null["tested"]["accuracy"]), ends(null["accuracy"], points)]
        rows.append([*cells, f"{times(null['tested']['text'])}; {ends(null['text'], times)}"])
    headers = ["edit", "beside it, draws", "log-odds", "draws 5 to 95 %", "p", "points", "draws 5 to 95 %"]
    return page.table([*headers, "text's perplexity; draws"], rows)


def language_table(results: dict) -> str:
    none = results["none"]
    rows = [[NAMES["none"], "–", percent(none["kept"]), percent(none["moved"]), "", percent(none["mass"])]]
    for row in results["rows"]:
        cells = [label(row), lambdas(row), percent(row["kept"]), percent(row["moved"])]
        rows.append([*cells, paired(row, "kept_difference"), percent(row["mass"])])
    headers = ["edit", "λ", "asked", "another", "asked, points (95 %)", "probability of the answer set"]
    return page.table(headers, rows)


def free_table(results: dict) -> str:
    free, primary = results["free"], by_role(results)["primary"]
    names = {"none": NAMES["none"], "primary": f"{label(primary)}, λ {lambdas(primary)}"}
    rows = [[text, percent(free[name]["accuracy"]), percent(free[name]["kept"])] for name, text in names.items()]
    right = f"right, of {free['problems'] * len(results['languages'])}"
    return page.table(["edit of every token", right, "in the language asked"], rows)


def sample_table(samples: list[dict]) -> str:
    """The first problems' free answers, without and with the edit side by side."""
    answers = {}
    for sample in samples:
        answers.setdefault((sample["id"], sample["language"]), {})[sample["edit"]] = sample
    rows = []
    for (name, language), pair in list(answers.items())[:: max(1, len(answers) // MOST_SAMPLES)][:MOST_SAMPLES]:
        cells = [page.escape(pair[edit]["output"].strip()[:40]) or "–" for edit in ("none", "primary")]
        right = " → ".join("yes" if pair[edit]["correct"] else "no" for edit in ("none", "primary"))
        rows.append([f"{name}, {language}", *cells, right])
    return page.table(["problem", "no edit", "edited", "right"], rows)
