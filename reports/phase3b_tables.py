"""Phase 3b's tables, and how its maps, baselines and numbers are called."""

from reports import page
from reports.page import decimal, p_value, percent

NAMES = {
    "none": "no swap",
    "identity": "identity (no map)",
    "mean_shift": "mean shift",
    "procrustes": "orthogonal Procrustes",
    "ridge": "ridge",
    "ols": "ordinary least squares",
    "shuffled": "ridge fitted on shuffled problems",
    "own_language": "the donor's own vector in the target language",
    "scaled_shift": "scaled shift",
    "mean": "the training mean",
}
OUTCOMES = {  # whose answer wins, in whose language
    "recipient_recipient": "recipient's answer, its language",
    "recipient_donor": "recipient's answer, donor's language",
    "donor_recipient": "donor's answer, recipient's language",
    "donor_donor": "donor's answer, its language",
    "other": "any other answer",
}
SUBSPACES = {"haar": "Haar-random subspaces", "matched": "matched subspaces"}
TWINS = {"permuted": "twins with their trained weights shuffled", "reinitialised": "twins initialised anew"}
TESTS = {  # of the verdict, in the order in which they are made
    "held_out": "predicts unseen answers beyond shuffled problems",
    "beyond_shift": "beyond a shift, scaled or not",
    "beyond_words": "beyond the source's words",
    "beyond_twins": "beyond twins of the model",
    "beyond_subspaces": "beyond other subspaces",
    "beyond_kinds": "beyond partners of the same kind of problem",
}


def ends(record: dict) -> str:
    """5 to 95 % of a null's draws."""
    return f"{decimal(record['low'])} to {decimal(record['high'])}"


def p_of(record: dict) -> str:
    """The p of a null with its draws."""
    return p_value(record["p"], record["draws"])


def sent(results: dict, name: str) -> str:
    """The share of swaps that brings the donor's answer under a condition, with its interval."""
    move = results["transfer"]
    low, high = (percent(end).removesuffix(" %") for end in move["interval"][name])
    return f"{percent(move['success'][name])} ({low} to {high})"


def maps_table(results: dict) -> str:
    """Every map, held out and on what it was fitted on, beside shuffled problems."""
    rows, null = [], results["null"]
    for name in results["settings"]["maps"]:
        low, high = (decimal(end) for end in results["interval"][name])
        shuffled = null["shuffled"][name]
        rows.append([NAMES[name], f"{results['parameters'][name]:,}", decimal(results["in_sample_r2"][name])])
        rows[-1] += [f"{decimal(results['held_out_r2'][name])} ({low} to {high})", percent(results["retrieval"][name])]
        rows[-1] += [ends(shuffled), p_of(shuffled), p_value(null["p_holm"].get(name), bound=least(shuffled))]
    headers = ["map", "parameters", "R² on what it was fitted on", "held-out R²", "finds its problem"]
    return page.table([*headers, "shuffled problems", "p", "Holm"], rows)


def gains_table(results: dict) -> str:
    """What the learned maps gain, and how surely more than what needs no matrix."""
    rows = []
    for name in (name for name in results["settings"]["maps"] if name in results["gain"]):
        above = results["p_above"][name]
        ps = [p_value(above[reference]) for reference in ("mean_shift", "scaled_shift")]
        rows.append([NAMES[name], decimal(results["gain"][name]), *ps])
    return page.table(["map", "gain", "p above mean shift", "p above scaled shift"], rows)


def least(record: dict) -> bool:
    """Whether no draw reached what was measured."""
    return record["p"] * (1 + record["draws"]) < 1.5


def words_row(results: dict) -> list[str]:
    """What the source's words predict of the target inside Z, beside the map from z."""
    words, name = results["words"], results["settings"]["primary"]
    own = f"R² {decimal(results['held_out_r2'][name])}"
    difference = page.span(words["difference"], decimal)
    return ["words of the source", own, f"R² {decimal(words['r2'])}", difference, p_value(words["p"])]


def baselines_table(results: dict) -> str:
    """Words and twins beside Z."""
    name, kinds = results["settings"]["primary"], results["twins"]["kinds"]
    rows, own = [words_row(results)], f"gain {decimal(results['gain'][name])}"
    for kind, row in kinds.items():
        gains = ", ".join(map(decimal, row["gains"]))
        difference = decimal(results["gain"][name] - row["mean"])
        ps = f"{p_value(row['p_twins'])} (twins), {p_value(row['p_answers'])} (answers)"
        rows.append([TWINS[kind], own, f"gains {gains}", difference, ps])
    return page.table(["beside Z", "in Z", "there", "difference", "p"], rows)


def subspaces_table(results: dict) -> str:
    """The gain in other subspaces of Z's size."""
    found, name, rows = results["subspaces"], results["settings"]["primary"], []
    for kind in SUBSPACES:
        if found[kind] is not None:
            record = found[kind]
            rows.append(
                [SUBSPACES[kind], decimal(results["gain"][name]), decimal(record["middle"]), ends(record), p_of(record)]
            )
    return page.table(["of Z's size", "Z's gain", "their median", "5 to 95 %", "p"], rows)


def geometry_table(results: dict) -> str:
    """How far the fitted maps are from a rotation."""
    rows = []
    for name in results["settings"]["learned"]:
        row = results["map"][name]
        values = sorted(row["singular_values"])
        rows.append(
            [NAMES[name], decimal(values[-1]), decimal(values[len(values) // 2]), decimal(row["orthogonality_error"])]
        )
    return page.table(["map", "largest singular value", "median", "orthogonality error"], rows)


def transfer_table(results: dict) -> str:
    """How often every condition brings the donor's answer over."""
    settings, move, rows = results["settings"], results["transfer"], []
    for name in settings["conditions"]:
        rows.append([NAMES[name], sent(results, name)])
        rows[-1] += [p_value(move["p_against"][control].get(name)) for control in settings["controls"]]
    return page.table(["sent", "success", *(f"p against {control}" for control in settings["controls"])], rows)


def winners_table(results: dict) -> str:
    """Whose answer wins under every condition, and in whose language."""
    settings, winners = results["settings"], results["transfer"]["winners"]
    outcomes = [*settings["outcomes"], "other"]
    rows = [
        [NAMES[name], *(percent(winners[name][outcome]) for outcome in outcomes)] for name in settings["conditions"]
    ]
    return page.table(["sent", *(OUTCOMES[outcome] for outcome in outcomes)], rows)
