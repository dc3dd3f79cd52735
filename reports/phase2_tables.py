"""Phase 2's tables, and the words for nulls, baselines and subspaces that all of its page uses."""

import verdicts
from reports import page
from reports.page import decimal, p_value, percent, place, span

BASELINES = {  # what Z has to beat at telling a text from its foil
    "numerals": "numerals of the text",
    "embeddings": "bag of words (mean token embedding)",
    "embeddings_in_z": "the bag of words inside Z",
    "permuted": "twins with permuted layers",
    "reinitialised": "re-initialised twins",
}
NULLS = {  # by the name in the results
    "haar": "Haar",
    "matched": "matched draws",
    "missing": "Haar that miss the offset",
    "pairing": "shuffled problems",
}
RAW = tuple(NULLS)
CENTRED = ("haar", "matched", "pairing")  # without the offset there is none to miss
SUBSPACES = {  # that are fitted or built at the bottleneck's output, in a table
    "weight": "Z from weights",
    "centroid": "(a) centroids",
    "previous_layer": "(b) previous layer's Z",
    "sweep": "(b) best other layer's Z",
    "ard_mmd": "(c) ARD-MMD",
    "pca": "PCA",
    "random": "one random subspace",
}
WHAT = {  # each construction in a sentence
    "weight": """the leading key-side singular vectors of every head's attention kernel in the layer, joined over heads into
        one subspace: fitted on nothing""",
    "centroid": """each problem's mean over languages, without the directions in which the languages' means differ; of these
        means the leading principal directions (this suite's reading of arXiv 2505.15257, which removes the
        language-specific space and builds no Z)""",
    "previous_layer": "the weights' Z of the layer before, at that layer's own output",
    "sweep": "the weights' Z of every other layer at its own output; shown as a candidate is the best of them",
    "ard_mmd": """the coordinates of the stream whose relevances, learned by gradients, part the token clouds of different
        problems (MMD) and not those of one problem's versions""",
    "pca": "the leading principal directions of all points, the languages' offset among them",
    "random": "a single Haar subspace, to see what scatter looks like",
}
POOLINGS = {"mean": "mean over tokens", "last": "last position"}
MASKS = {"multi": "multi-head", "head0": "head 0"}
TESTS = {  # of the verdict, by its name
    "primary_k": "primary Z, with the offset and without it, beats every null that counts",
    "every_k": "at every k, with the offset, beats Haar, matched draws and shuffled problems",
    "some_configuration": "some configuration of the grid beats every null that counts, after Holm",
    "centred": "primary Z without the offset beats every null that counts",
    "missing": "primary Z with the offset beats Haar that miss it",
    "beyond_text": "primary Z tells texts from foils better than every baseline",
}
SAME_STORIES = "the stories do not depend on --problems and are those of the run that Z comes from"
SPACES = {"z": "Z", "z_perp": "Z⊥", "all": "whole stream"}
READERS = {"problem": "problem", "language": "language", "answer": "answer"}
SHOWN_LAYERS = 3


def ratio(value: float) -> str:
    """A contrast or ratio: two decimals, and two digits where these would say nothing."""
    return decimal(value) if not 0 < value < 0.095 else page.show(value, 2)


def ends(null: dict) -> str:
    """5 to 95 % of a null's draws."""
    return f"{ratio(null['low'])} to {ratio(null['high'])}"


def p_of(null: dict, draws: bool = False) -> str:
    """A null's p, no finer than its draws allow; where a table says how many they are, without them."""
    text = p_value(null["p"], null["draws"])
    return text if draws else text.partition(" (")[0]


def null_cell(null: dict) -> str:
    return f"{ends(null)}, p {p_of(null)}"


def hardest(part: dict) -> str:
    """The null that a row's p is of."""
    return max((name for name in NULLS if name in part and gates(part, name)), key=lambda name: part[name]["p"])


def gates(part: dict, name: str) -> bool:
    """Whether a null has to be beaten: draws from the stream's own covariance that hold most of it stand beside."""
    return part[name].get("gates", True)


def counted(row: dict) -> bool:
    """Whether matched draws decide on a configuration, with the offset and without it."""
    return gates(row, "matched") and gates(row["centred"], "matched")


def uncounted(grid: list[dict]) -> list[dict]:
    """The configurations that pass where matched draws decide nothing."""
    return [row for row in grid if verdicts.separation.holds(row) and not counted(row)]


def beaten(grid: list[dict]) -> str:
    """What the configurations that pass have beaten."""
    return "Haar, offset-missing and shuffled nulls" if uncounted(grid) else "every null"


def where_counted(grid: list[dict]) -> str:
    """How many configurations pass of those on which matched draws decide."""
    rows = [row for row in grid if counted(row)]
    sizes = ", ".join(map(str, sorted({row["k"] for row in rows})))
    return f"{passing(rows)} of {len(rows)} other configurations pass (k {sizes})" if rows else "none was tested"


def matched_words(grid: list[dict]) -> str:
    """How the configurations that pass do beside matched draws where these decide nothing; nothing where they decide everywhere."""
    rows = uncounted(grid)
    if not rows:
        return ""
    parts = []
    for found, where in ((rows, "with the offset"), ([row["centred"] for row in rows], "without it")):
        nulls = sorted((part["matched"] for part in found), key=lambda null: null["p"])
        worse = sum(null["p"] > 0.5 for null in nulls)  # lies above most of the draws
        reach = " to ".join(dict.fromkeys(p_of(null) for null in (nulls[0], nulls[-1])))
        does = "does" if worse == len(rows) == 1 else "do"
        parts.append(f"{worse} of {len(rows)} {does} worse {where} (p {reach})")
    return f"""Against subspaces drawn as the stream varies {", ".join(parts)}: not counted, because these hold more than half of what
        differs between problems. Where they count, {where_counted(grid)}."""


def matched_cell(part: dict) -> str:
    """The range of matched draws, with their p where they decide nothing."""
    beside = "" if gates(part, "matched") else f" (not counted, p {p_of(part['matched'])})"
    return f"{ends(part['matched'])}{beside}"


def p_row(part: dict, draws: bool = False) -> str:
    """The p of a row, the largest of its nulls', and which null that is."""
    name = hardest(part)
    beaten = part[name]["p"] * (1 + part[name]["draws"]) < 1.5
    return p_of(part[name], draws) + ("" if beaten else f", {NULLS[name]}")


def p_holm(part: dict) -> str:
    """Holm's p of a row, "<" where no draw of any null reached it."""
    if "p_holm" not in part:
        return "–"
    null = part[hardest(part)]
    return p_value(part["p_holm"], bound=null["p"] * (1 + null["draws"]) < 1.5)


def own(centred: dict) -> str:
    """The contrast without the offset, with its interval."""
    return span(centred | {"value": centred["contrast"]}, ratio)


def lowest(part: dict, names: tuple = ("haar", "matched", "missing")) -> str:
    """A contrast beside what 5 % of its nulls' draws lie below."""
    points = "; ".join(ratio(part[name]["low"]) for name in names if name in part)
    return f"{ratio(part['contrast'])} ({points})"


def rated(record: dict) -> dict:
    """A rate as a value with its interval."""
    return record | {"value": record["rate"]}


def named(row: dict) -> str:
    """A configuration of the grid in words."""
    which = f"L{row['mask_layer']} mask at {place(row['site'])}"
    return f"{which}, {MASKS[row['mask']]}, {POOLINGS[row['pooling']]}"


def draws_text(part: dict) -> str:
    counts = sorted({part[name]["draws"] for name in NULLS if name in part})
    return " or ".join(f"{count:,}" for count in counts)


def raw_table(rows: list[dict]) -> str:
    """The primary configuration at every k, with the offset."""
    headers = ["k", "ratio_Z", "ratio_Z⊥", "contrast", *(NULLS[name] for name in RAW[:-1]), "p, shuffled problems"]
    cells = [
        [
            row["k"], *(ratio(row[key]) for key in ("ratio_z", "ratio_z_perp", "contrast")),
            *(null_cell(row[name]) for name in RAW[:-1]), p_of(row["pairing"]),
        ]
        for row in rows
    ]  # fmt: skip
    return page.table(headers, cells)


def centred_table(rows: list[dict]) -> str:
    """The same rows without the offset, and after LEACE."""
    headers = ["k", "contrast (95 %)", NULLS["haar"], NULLS["matched"], "p, shuffled problems", "after LEACE"]
    cells = []
    for row in rows:
        part = row["centred"]
        nulls = [null_cell(part[name]) for name in CENTRED[:-1]]
        held, after = percent(part["matched_share"]), ratio(row["leace"]["contrast"])
        cells.append([row["k"], own(part), *nulls, p_of(part["pairing"]), after, held])
    return page.table([*headers, "distance that matched draws hold"], cells)


def energy_table(row: dict, chance: float) -> str:
    names = {"cross_language": "versions of a problem", "same_language": "different problems, one language"}
    sides = {"cross_language": "low", "same_language": "high"}
    headers = ["squared distance between", "inside Z", "Haar, 5 to 95 %", "k/d", "p", "predicted"]
    cells = []
    for name, what in names.items():
        part = row["energy"][name]
        drawn = f"{percent(part['low']).removesuffix(' %')} to {percent(part['high'])}"
        cells.append([what, percent(part["value"]), drawn, percent(chance), p_of(part), sides[name]])
    return page.table(headers, cells)


def worst(row: dict) -> tuple:
    """How a configuration ranks: by the larger of Holm's two p, then by the contrast without the offset."""
    return (
        not verdicts.separation.holds(row),
        max(row["p_holm"], row["centred"]["p_holm"]),
        row["centred"]["contrast"],
    )


def deciding_rows(grid: list[dict]) -> list[dict]:
    """The primary row at each k, and the best row of head 0, of the other places, and of the last position."""
    shown = [row for row in grid if row["primary"]]
    own_place = shown[-1]["place"]
    kinds = (
        lambda row: row["mask"] == "head0",
        lambda row: row["place"] != own_place,
        lambda row: row["pooling"] == "last",
    )
    for kind in kinds:
        rows = [row for row in grid if kind(row) and row not in shown]
        shown += [min(rows, key=worst)] if rows else []
    return shown


def grid_table(grid: list[dict]) -> str:
    headers = ["configuration", "k", "contrast (5 % points)", "p", "Holm's p", "without the offset (5 % points)"]
    cells = []
    for row in deciding_rows(grid):
        part = row["centred"]
        cells.append(
            [named(row), row["k"], lowest(row), p_row(row), p_holm(row), lowest(part), p_row(part), p_holm(part)]
        )
    return page.table([*headers, "p", "Holm's p"], cells)


def text_table(text: dict) -> str:
    """Rates of Z, the stream, Haar subspaces and every baseline, with Z's difference to them."""
    null = text["haar"]
    cells = [["Z", span(rated(text["z"])), "–"], ["whole stream", span(rated(text["stream"])), "–"]]
    cells.append([f"Haar, median and 5 to 95 % of {null['draws']} draws", drawn_rate(null), f"p {p_of(null)}"])
    for name, row in baselines(text).items():
        cells.append([baseline(name, text), span(rated(row)), span(row["difference"])])
    return page.table(
        ["what tells texts from foils", "comparisons won (95 %)", "Z less it, in % of comparisons (95 %)"], cells
    )


def drawn_rate(null: dict) -> str:
    """Median and 5 to 95 % of a null's draws, as a share."""
    return span(null | {"value": null["middle"]})


def baselines(text: dict) -> dict[str, dict]:
    """The baselines that were measured, in the page's order."""
    return {name: text["baselines"][name] for name in BASELINES if name in text["baselines"]}


def baseline(name: str, text: dict) -> str:
    seeds = text.get("seeds", {}).get(name)
    return f"{BASELINES[name]} ({seeds} seeds)" if seeds else BASELINES[name]


def rivals_table(rivals: dict, order: list[str]) -> str:
    """Subspaces of one size on problems they were not fitted on, below the nulls that they share."""
    any_row = rivals[order[0]]
    nulls = [
        [f"*{NULLS[name]}, 5 to 95 %*", ends(any_row[name]), "–", null_of(any_row["centred"], name), "–", "–"]
        for name in ("haar", "matched", "missing")
    ]
    cells = []
    for name in order:
        row = rivals[name]
        part, after = row["centred"], ratio(row["leace"]["contrast"])
        cells.append([SUBSPACES[name], ratio(row["contrast"]), p_row(row), own(part), p_row(part), after])
    return page.table(["subspace", "contrast", "p", "without the offset (95 %)", "p", "after LEACE"], [*cells, *nulls])


def null_of(part: dict, name: str) -> str:
    return ends(part[name]) if name in part else "–"


def candidates_table(rows: dict) -> str:
    """Contingencies with their Holm family's p; the nulls differ with the place."""
    headers = [
        "contingency",
        "place, pooling, k",
        "contrast (5 % points)",
        "Holm's p",
        "without the offset (5 % points)",
    ]
    cells = []
    for name in [name for name in SUBSPACES if name in rows]:
        row = rows[name]
        where = f"{place(row['site'])}, {POOLINGS[row['pooling']]}, {row['k']}"
        cells.append([SUBSPACES[name], where, lowest(row), p_holm(row), lowest(row["centred"]), p_holm(row["centred"])])
        cells[-1].append(page.HOLDS[row["holds"]])
    return page.table([*headers, "Holm's p", "holds"], cells)


def sweep_table(sweep: list[dict]) -> str:
    """The layers with the lowest contrast without the offset."""
    shown = sorted(sweep, key=lambda row: row["centred"]["contrast"])[:SHOWN_LAYERS]
    headers = ["Z of layer", "contrast (5 % points)", "p", "without the offset (5 % points)", "p", "draws"]
    cells = [
        [
            f"L{row['layer']}", lowest(row), p_row(row), lowest(row["centred"]), p_row(row["centred"]), draws_text(row)
        ]
        for row in shown
    ]  # fmt: skip
    return page.table(headers, cells)


def ard_table(found: dict) -> str:
    share = page.needed(found["relevant_share"])
    rows = [
        [f"L{row['layer']}", row["size"], percent(row["overlap"]), percent(row["chance"])] for row in found["layers"]
    ]
    return page.table(
        ["output of layer", f"coordinates with {share} of the relevance", "overlap with Z", "chance"], rows
    )


def depth_table(results: dict, site: int) -> str:
    """What can be read at one site in Z, outside of it and in the whole stream, each beside its chance."""
    depth, flagged, cells = results["depth"], results["depth_ceiling"], []
    for reader, what in READERS.items():
        if depth[reader]["all"][site] is None:
            continue
        row = []
        for space in SPACES:
            if flagged[reader][space]:
                row.append("at its ceiling everywhere")
                continue
            value, chance = depth[reader][space][site], chance_of(results, reader, space)[site]
            row.append(f"{percent(value)} (chance {percent(chance)})")
        cells.append([what, *row])
    ranks = [decimal(depth["effective_rank"][space][site]) for space in SPACES]
    cells.append([f"effective rank of the activations (in Z at most {results['primary']['k']})", *ranks])
    return page.table(["what is read", *SPACES.values()], cells)


def chance_of(results: dict, reader: str, space: str) -> list[float]:
    """A reader's chance level at every site: shuffled problems, control tasks, or even odds among languages."""
    depth = results["depth"]
    if reader == "language":
        return [results["chance"]["language"]] * len(depth["language"][space])
    if reader == "problem":
        return depth["problem_shuffled"][space]
    pairs = zip(depth["answer"][space], depth["selectivity"][space])
    return [None if value is None else max(0.0, value - gained) for value, gained in pairs]


def channels_table(channels: dict) -> str:
    """What attention and the FFN add inside Z, over layers, and how many layers lie outside the Haar band."""
    band, cells = channels["haar"], []
    for part, name in (("attention", "attention"), ("ffn", "FFN")):
        shares = channels[part]
        layers = range(len(shares))
        above = [f"L{layer}" for layer in layers if shares[layer] > band["high"]]
        below = [f"L{layer}" for layer in layers if shares[layer] < band["low"]]
        edges = (min(layers, key=shares.__getitem__), max(layers, key=shares.__getitem__))
        bounds = [f"{percent(shares[at])} (L{at})" for at in edges]
        outside = [some(found, len(shares)) for found in (above, below)]
        cells.append([name, percent(sum(shares) / len(shares)), *bounds, *outside])
    headers = ["added by", "mean over layers", "lowest", "highest", "layers above the band", "layers below it"]
    return page.table(headers, cells)


def some(layers: list[str], of: int, most: int = 8) -> str:
    """How many layers, and which ones where they are few."""
    names = f": {', '.join(layers)}" if 0 < len(layers) <= most else ""
    return f"{len(layers)} of {of}{names}"


def tests_table(results: dict) -> str:
    """Every test of the verdict with its outcome and the numbers that made it."""
    rows = [[what, measured(name, results), page.HOLDS[results["tests"][name]]] for name, what in TESTS.items()]
    return page.table(["test", "measured", "passed"], rows)


def measured(name: str, results: dict) -> str:
    """The numbers of one of the verdict's tests."""
    primary, grid = results["primary"], results["grid"]
    with_it = f"contrast {ratio(primary['contrast'])}, p {p_row(primary)}"
    without = f"{own(primary['centred'])}, p {p_row(primary['centred'])}"
    if name == "primary_k":
        return f"with the offset {with_it}; without {without}"
    if name == "centred":
        return without
    if name == "missing":
        return f"contrast {ratio(primary['contrast'])}; {null_cell(primary['missing'])}"
    if name == "some_configuration":
        beside = f"; where matched draws count, {where_counted(grid)}" if uncounted(grid) else ""
        return f"{passing(grid)} of {len(grid)} configurations beat {beaten(grid)}{beside}"
    if name == "every_k":
        rows, names = [row for row in grid if row["primary"]], ("haar", "matched", "pairing")
        parts = [
            (row, max((null for null in names if gates(row, null)), key=lambda null: row[null]["p"])) for row in rows
        ]
        return "; ".join(f"k {row['k']}: {ratio(row['contrast'])}, p {p_of(row[null])}" for row, null in parts)
    return beyond_measured(results["text"])


def passing(grid: list[dict]) -> int:
    return sum(verdicts.separation.holds(row) for row in grid)


def beyond_measured(text: dict) -> str:
    """How often Z tells a text from its foil, and the smallest lead over a baseline; or why that was not measured."""
    if "z" not in text:
        return f"not measured: {text['unmeasured']}"
    name = min(baselines(text), key=lambda one: text["baselines"][one]["difference"]["low"])
    least = span(text["baselines"][name]["difference"])
    rest = f"; twins not measured: {text['unmeasured']}" if text["unmeasured"] else ""
    return f"{span(rated(text['z']))}; the interval of its lead reaches lowest over {BASELINES[name]}: {least}{rest}"
