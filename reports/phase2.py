"""The page of phase 2: what its numbers say of the recipe. A short one: the primary configuration and the text."""

import verdicts
from reports import page

BASELINES = {
    "numerals": "numerals of the question",
    "embeddings": "mean of its token embeddings",
    "embeddings_in_z": "what Z sees of that mean",
    "permuted": "twins with permuted layers",
    "reinitialised": "re-initialised twins",
}


def summary(results: dict) -> str:
    """The numbers that decided: of the weight-based Z, and of one that was given by --z-from."""
    text = ratios(results["primary"]) + f" (k {results['primary']['k']}); beyond text: {results['beyond_text']}"
    return text + (f"; the given Z: {ratios(results['given'])}" if "given" in results else "")


def ratios(row: dict) -> str:
    show, centred = page.show, row["centred"]
    text = f"ratio_Z {show(row['ratio_z'], 3)}, ratio_Z⊥ {show(row['ratio_z_perp'], 3)}, p {show(row['p'], 2)}"
    return text + f"; without the offset contrast {show(centred['contrast'], 3)}, p {show(centred['p'], 2)}"


def claims(results: dict) -> list[dict]:
    """The recipe's four points, and what decides: beyond the offset, beyond the text."""
    show, primary, grid, text = page.show, results["primary"], results["grid"], results["text"]
    chance = f"k/d {show(primary['k'] / results['width'], 3)}"
    below = sum(row["contrast"] < 1 for row in grid)
    by_k = ", ".join(f"k = {row['k']}: {show(row['centred']['contrast'], 3)}" for row in grid if row["primary"])
    rows = {
        "ratio": ("ratio_Z < ratio_Z⊥ in most configurations", "most", f"{below} of {len(grid)}", "after Holm"),
        "primary": ("ratio_Z < ratio_Z⊥ in the primary configuration", "≪", ratios(primary), f"p {show(primary['p'], 2)}"),
        "centred": (
            "the separation survives removal of language means",
            "not considered",
            f"contrast {show(primary['centred']['contrast'], 3)}",
            f"p {show(primary['centred']['p'], 2)}",
        ),
        "beyond_text": ("Z tells a text from its foil better than baselines do", "not considered", rate(text), baselines(text)),
        "energy_cross": (
            "energy in Z of differences between languages", "< k/d", show(primary["energy"]["cross_language"]["value"], 3), chance,
        ),
        "energy_same": (
            "energy in Z of differences between problems", "> k/d", show(primary["energy"]["same_language"]["value"], 3), chance,
        ),
        "multi": ("the multi-head mask is at least as good as head 0", "≥", "see the grid", "–"),
        "best_k": ("k at the effective rank is the strongest", f"k ≈ {verdicts.RECIPE['strongest_k']}", by_k, "–"),
    }  # fmt: skip
    return [page.claim(name, *row) for name, row in rows.items()]


def rate(text: dict) -> str:
    if "z" not in text:
        return f"not measured: {text['unmeasured']}"
    return f"{page.show(text['z']['rate'], 3)} of {text['comparisons']} comparisons"


def baselines(text: dict) -> str:
    rows = text.get("baselines", {}).items()
    return ", ".join(f"{BASELINES[name]} {page.show(row['rate'], 3)}" for name, row in rows) or "–"


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """The report from results alone (the arrays are for later phases)."""
    primary, settings = [row for row in results["grid"] if row["primary"]], results["settings"]
    where = page.layer_name(settings["layer"], results["layer_chosen"])
    sentence = page.prose(f"""The weight-based Z of {where} is judged (`{results["verdict"]}`), beyond the text:
        {page.HOLDS[results["beyond_text"]]}. {ratios(results["primary"])}.""")
    measured = [("1 Activations", f"{results['problems']} problems.")]
    measured += [("2 Primary configuration", primary_table(primary)), ("3 The grid", grid_table(results["grid"]))]
    share = f"{results['offset']['share']:.0%} of the squared distance between versions is a constant offset."
    measured += [("4 Beyond the offset", share), ("5 Beyond the text", text_table(results["text"]))]
    measured += [("6 Rivals on held-out problems", rivals_table(results["rivals"], results["rival_order"]))]
    found = results.get("contingencies", {}).get("candidates", {})
    measured += [("7 Contingencies", rivals_table(found, sorted(found)) if found else "Not run.")]
    measured += [("8 Depth", "In `phase2_results.json`."), ("9 Channels", "In `phase2_results.json`.")]
    lines = [f"- {row['claim']}: {page.HOLDS[row['holds']]}, {row['measured']}" for row in results["claims"]]
    measured += [("10 What the recipe asks", "\n".join(lines))]
    title = f"Phase 2: Z extraction from {results['model']['name']}"
    limits = ["Separation is correlational: whether the model uses Z is phase 3's question."]
    sections = [f"## {heading}\n\n{text}" for heading, text in measured]
    return {"phase2_output.md": page.report(title, sentence, results, sections, limits)}


def primary_table(rows: list[dict]) -> str:
    headers = ["k", "ratio_Z", "ratio_Z⊥", "contrast", "p", "without the offset", "p", "LEACE"]
    return page.table(headers, [[row["k"], row["ratio_z"], row["ratio_z_perp"], *scores(row)] for row in rows])


def scores(row: dict) -> list[float]:
    return [row["contrast"], row["p"], row["centred"]["contrast"], row["centred"]["p"], row["leace"]["contrast"]]


def grid_table(grid: list[dict]) -> str:
    headers = ["place", "mask", "pooling", "k", "contrast", "p", "without the offset", "p", "LEACE"]
    return page.table(
        headers,
        [
            [f"L{row['mask_layer']} at site {row['site']}", row["mask"], row["pooling"], row["k"], *scores(row)]
            for row in grid
        ],
    )


def text_table(text: dict) -> str:
    if "z" not in text:
        return f"Not measured: {text['unmeasured']}."
    rows = [["Z", text["z"]["rate"], "–", "–"]]
    for name, row in text["baselines"].items():
        difference = row["difference"]
        rows.append([BASELINES[name], row["rate"], difference["value"], f"{difference['low']} to {difference['high']}"])
    return page.table(["", "rate", "Z less it", "95 %"], rows)


def rivals_table(rivals: dict, order: list[str]) -> str:
    headers = ["subspace", "k", "contrast", "p", "without the offset", "p", "LEACE"]
    names = page.METHODS | {"pca": "PCA", "random": "random"}
    return page.table(headers, [[names[name], rivals[name]["k"], *scores(rivals[name])] for name in order])
