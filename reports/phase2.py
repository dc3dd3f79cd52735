"""Phase 2's page: whether the weights' Z parts problem from language, beyond the offset and the text, and what that rests on."""

import verdicts
from reports import page
from reports.page import listing, p_value, percent, place, span
from reports.phase2_beside import channels_section, contingencies_section, depth_section, rivals_section
from reports.phase2_figures import (
    figure_channels,
    figure_contrast,
    figure_depth,
    figure_layers,
    figure_text,
)
from reports.phase2_opening import (
    answer_text,
    beyond_words,
    haar_as_good,
    haar_text,
    numbers_text,
    recipe_text,
    remedy,
    run_text,
    verdict_text,
)
from reports.phase2_tables import (
    BASELINES,
    MASKS,
    NULLS,
    POOLINGS,
    SAME_STORIES,
    beaten,
    beyond_measured,
    centred_table,
    drawn_rate,
    draws_text,
    ends,
    energy_table,
    grid_table,
    matched_cell,
    matched_words,
    own,
    p_of,
    p_row,
    passing,
    rated,
    ratio,
    raw_table,
    tests_table,
    text_table,
    uncounted,
    where_counted,
)

__all__ = ["BASELINES", "claims", "render", "summary"]


EXPLORATORY = """- Exploratory: the weights single out no layer, and the lowest one is looked at all the same; what is found there
          confirms no prediction."""
ABOUT_AS_MANY = 2 / 3  # dimensions a problem: as many hold most of the problems' differences


def summary(results: dict) -> str:
    """The numbers that decided: of the weight-based Z, and of one that was given by --z-from."""
    text = f"{ratios(results['primary'])}; beyond the text: {beyond_words(results['text'], results['beyond_text'])}"
    return text + (f"; the given Z: {ratios(results['given'])}" if "given" in results else "")


def ratios(row: dict) -> str:
    part = row["centred"]
    text = f"ratio_Z {ratio(row['ratio_z'])}, ratio_Z⊥ {ratio(row['ratio_z_perp'])}, p {p_row(row, draws=True)}"
    beside = f"Haar {ends(part['haar'])}, matched draws {matched_cell(part)}"
    return f"{text}; without the offset contrast {own(part)}, {beside}, p {p_row(part, draws=True)}"


def claims(results: dict) -> list[dict]:
    """The recipe's points, and what decides: beyond the offset, beyond the text."""
    primary, grid, text = results["primary"], results["grid"], results["text"]
    part, energy = primary["centred"], primary["energy"]
    below = sum(row["contrast"] < 1 for row in grid)
    by_k = [row for row in grid if row["primary"]]
    sizes = ", ".join(f"k {row['k']}: {ratio(row['centred']['contrast'])}" for row in by_k)
    drawn = ", ".join(ends(row["centred"]["haar"]) for row in by_k)
    haar = f"Haar {drawn_rate(text['haar'])}" if "z" in text else "–"
    multi = verdicts.separation.multi_at_least(grid, lambda row: True)
    rows = {
        "ratio": (
            "ratio_Z < ratio_Z⊥ in most configurations", "most",
            f"{passing(grid)} of {len(grid)} pass, {below} have a contrast below 1", pass_words(grid),
        ),
        "primary": (
            "ratio_Z < ratio_Z⊥ in the primary configuration", "≪",
            f"ratio_Z {ratio(primary['ratio_z'])}, ratio_Z⊥ {ratio(primary['ratio_z_perp'])}",
            f"contrast {ratio(primary['contrast'])}, Haar {ends(primary['haar'])}; p {p_row(primary)}",
        ),
        "centred": (
            "the separation survives removal of language means", "not considered", f"contrast {own(part)}",
            f"Haar {ends(part['haar'])}, matched draws {matched_cell(part)}; p {p_row(part)}",
        ),
        "beyond_text": (
            "Z tells a text from its foil better than every baseline", "not considered", beyond_measured(text), haar,
        ),
        "energy_cross": ("energy in Z of differences between languages", "< k/d", *energy_cells(energy["cross_language"], results)),
        "energy_same": ("energy in Z of differences between problems", "> k/d", *energy_cells(energy["same_language"], results)),
        "multi": (
            "the multi-head mask is at least as good as head 0", "≥",
            f"contrast no higher in {sum(multi)} of {len(multi)} pairs; primary {beside_head(results)}", "half of the pairs",
        ),
        "best_k": (
            "the contrast is lowest at k = the effective rank", f"k ≈ {verdicts.RECIPE['strongest_k']}", sizes, f"Haar {drawn}",
        ),
    }  # fmt: skip
    return [page.claim(name, *row) for name, row in rows.items()]


def pass_words(grid: list[dict]) -> str:
    """What a configuration has to beat, and how many do where matched draws count."""
    text = f"pass: {beaten(grid)}, after Holm"
    return f"{text}; where matched draws count, {where_counted(grid)}" if uncounted(grid) else text


def beside_head(results: dict) -> str:
    """The primary contrast against that of head 0 at the same place, pooling and k."""
    primary = results["primary"]
    same = {key: primary[key] for key in ("place", "pooling", "share")} | {"mask": "head0"}
    head = next(row for row in results["grid"] if same.items() <= row.items())
    return f"{ratio(primary['contrast'])} against {ratio(head['contrast'])}"


def energy_cells(part: dict, results: dict) -> tuple[str, str]:
    chance = percent(results["primary"]["k"] / results["width"])
    return percent(
        part["value"]
    ), f"k/d {chance}; Haar {percent(part['low'])} to {percent(part['high'])}, p {p_of(part)}"


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from the results alone (the arrays are for later phases)."""
    figures = {"phase2_contrast.png": figure_contrast(results)}
    figures |= {"phase2_text.png": figure_text(results)} if "z" in results["text"] else {}
    figures |= {"phase2_depth.png": figure_depth(results), "phase2_channels.png": figure_channels(results)}
    figures |= {"phase2_layers.png": figure_layers(results)} if "contingencies" in results else {}
    sections = [activations_section, primary_section, grid_section, offset_section, text_section, rivals_section]
    sections += [contingencies_section, depth_section, channels_section, recipe_section, reading_section]
    opening = [
        *(page.prose(text(results)) for text in (numbers_text, recipe_text, contrast_picture)),
        *run_text(results),
    ]
    title = f"Phase 2: Z extraction from {results['model']['name']}"
    parts = [page.prose(section(results)) for section in sections]
    text = page.report(title, verdict_text(results), results, parts, limitations(results), opening)
    return {"phase2_output.md": text} | figures


def contrast_picture(results: dict) -> str:
    return """
        ![Contrast of Z and its rivals beside their nulls](phase2_contrast.png)

        *Contrast of the primary Z and of rivals on problems that they were not fitted on, beside 5 to 95 % of each null's draws;
        below 1 a subspace keeps the problem and drops the language. Bars are nulls and no intervals; the thin black line, without
        the offset, is the 95 % interval over problems.*
    """


def activations_section(results: dict) -> str:
    settings, sinks = results["settings"], results["sinks"]
    sites = len(sinks["per_site"])
    fits = "given" not in results and ("contingencies" in results or results["z"]["fitted_on"])
    own_half = (
        f"""A Z that is fitted on activations and handed on is fitted on {percent(settings["fitting_share"])} of them, whole
        answers, so that phase 3 can judge it by the others."""
        if fits and settings["fitting_share"] < 1
        else ""
    )
    return f"""
        ## 1 Activations

        {results["problems"]} problems of {page.problem_files(settings)}, each in {listing(settings["languages"])}, behind
        exemplars that are not pooled: {sinks["prompts"]} prompts. Kept are, at {sites} places from the embeddings to
        {place(sites - 1)}, the mean over a question's tokens without attention sinks (*{POOLINGS["mean"]}*) and the last
        position, which phase 3 patches. What is measured out of fold has {results["folds"]} folds; problems with one answer share
        a fold. {own_half}

        {sinks_text(sinks)}
    """


def sinks_text(sinks: dict) -> str:
    """How many prompts have a sink at which places, neighbours with equal counts together; and which tokens they are."""
    ranges, counts = [], sinks["per_site"]
    for site, count in enumerate(counts):
        if ranges and ranges[-1][2] == count:
            ranges[-1][1] = site
        else:
            ranges.append([site, site, count])
    found = [(first, last, count) for first, last, count in ranges if count]
    rule = f"A sink is a position whose norm exceeds {sinks['factor']} times the median norm of its prompt."
    if not found:
        return f"{rule} No prompt has one in its question, at no place, so that nothing was left out."
    said = []
    for first, last, count in found:
        where = " to ".join(dict.fromkeys((place(first), place(last))))
        said.append(f"{where}: {count} of {sinks['prompts']} prompts have one")
    tokens = [
        f"token “{page.escape(row['token'])}” at position {row['position']} of the question ({row['prompts']} prompts)"
        for row in sinks["commonest"]
    ]
    return f"{rule} {'; '.join(said)}. Such a position is left out at every place. The commonest: {', '.join(tokens)}."


def primary_section(results: dict) -> str:
    rows = [row for row in results["grid"] if row["primary"]]
    primary = results["primary"]
    many = results["problems"] > 2 * results["shifts"]
    pairs = f"each is paired with {results['shifts']} others" if many else "all pairs are taken"
    return f"""
        ## 2 Primary configuration

        Named before looking: {page.METHODS["weight"]}, of layer {results["settings"]["layer"]} at {place(primary["site"])},
        {POOLINGS[primary["pooling"]]}; k is the mean effective rank of the layer's kernels, {primary["k"]}, beside two smaller
        ones. ratio: mean distance of a problem's versions over that of different problems in one language ({pairs}), inside Z and
        outside of it (Z⊥); contrast = ratio_Z / ratio_Z⊥. Here the offset is in it.

        Nulls, each with 5 to 95 % of {draws_text(primary)} draws and a one-sided p: {null_words()}. All of them that count
        have to be beaten.

        {raw_table(rows)}

        The shuffled problems rank the distance itself. Share of squared distance that lies inside Z, k {primary["k"]}:

        {energy_table(primary, primary["k"] / results["width"])}
    """


def null_words() -> str:
    return """random subspaces (*Haar*); subspaces drawn as the stream varies within a language (*matched draws*: a Gaussian with
        that covariance; no null, only beside, where they hold more than half of the distance between problems); random subspaces
        orthogonal to the directions in which the languages' means differ (*Haar that miss the offset*, or offset-missing: what they
        reach needs no code of a problem); one language's problems in another order (*shuffled problems*)"""


def grid_section(results: dict) -> str:
    grid = results["grid"]
    count, layer = passing(grid), results["settings"]["layer"]
    masks = f"layer {layer}"
    masks += f" or {layer - 1}" if any(row["mask_layer"] != layer for row in grid) else ""
    places = {(row["place"], row["site"]) for row in grid}
    missing = [
        f"{place(site)}, {POOLINGS[pooled]}"
        for name, site in sorted(places | missing_places(grid, results), key=lambda pair: pair[1])
        for pooled in results["poolings"]
        if not any(row["site"] == site and row["pooling"] == pooled for row in grid)
    ]
    left = (
        f" Left out, since the stream there is the same for all problems: {listing(list(dict.fromkeys(missing)))}."
        if missing
        else ""
    )
    return f"""
        ## 3 The grid

        {len(grid)} configurations: mask of {masks}, at its output or its input,
        {listing(list(MASKS.values()))},
        {listing(list(POOLINGS.values()))}, three k.{left} {count} of them beat {beaten(grid)} with the offset and without it, after
        Holm over all. {matched_words(grid)}

        Shown are the primary row at each k and the best other row of head 0, of the other places, and of the last
        position: those that pass first, then by the larger Holm's p, then by the contrast without the offset. All rows are in
        `phase2_results.json`.

        In brackets the contrast below which 5 % of the draws lie: of {NULLS["haar"]}; {NULLS["matched"]}; {NULLS["missing"]} (the
        last with the offset only). p is the largest of all nulls', and the null that it is of is named unless no draw reached Z.

        {grid_table(grid)}
    """


def missing_places(grid: list[dict], results: dict) -> set[tuple[str, int]]:
    """Places of the grid of which no pooling was defined."""
    layer = results["settings"]["layer"]
    return {("input", layer)} if not any(row["site"] == layer for row in grid) else set()


def offset_section(results: dict) -> str:
    rows = [row for row in results["grid"] if row["primary"]]
    share, part = results["offset"]["share"], results["primary"]["centred"]
    return f"""
        ## 4 Beyond the offset

        {percent(share)} of the squared distance between a problem's versions at {place(results["primary"]["site"])} is one constant
        offset between the languages. A subspace that misses it looks language-free without holding anything of a problem; so
        what decides is the contrast after each language's mean, taken over the other folds, is removed, with different problems
        of one fold. LEACE removes every linear trace of the language instead.

        {centred_table(rows)}

        5 to 95 % of {draws_text(part)} draws. Last column: the share of squared distance between problems that matched draws hold.
        Above {page.needed(results["even"])} they are taken for the stream itself and for no null: they stand beside and
        decide nothing.
    """


def text_section(results: dict) -> str:
    text, handed = results["text"], results["text_handed"]
    if "z" not in text:
        return f"""
            ## 5 Beyond the text

            *Could not be tested* on stories with foils: {text["unmeasured"]}. To do so, {remedy(text)}.
        """
    twins = (
        f" Not all baselines were measured: {text['unmeasured']}; to do so, {remedy(text)}."
        if text["unmeasured"]
        else ""
    )
    same, other = "", ""
    if "given" in results:
        same = f" {SAME_STORIES[0].upper()}{SAME_STORIES[1:]}: nothing new is measured in this section."
    if handed:
        z = results["z"]
        other = f"""The same for the Z handed on ({page.METHODS[z["method"]]}), at {place(z["site"])}, {POOLINGS[z["position"]]}:

            {text_block(handed)}
        """
    return f"""
        ## 5 Beyond the text

        A story and its foil share words and numbers and differ in one word or clause, and so in their answer. A comparison is won
        where a text lies nearer to its own translation than to the foil's, each language's mean removed; half by chance.
        {text["comparisons"]} comparisons of {text["bases"]} stories of `{text["asked"]}`; 95 % intervals over stories. Baselines: the
        numbers of the text, counted; the mean of its token embeddings, and what Z sees of that; twins of the model, with the
        trained entries of every layer's tensors permuted or with its own initial weights; a Z that was fitted on activations is
        fitted anew in each.{same}{twins}

        ![What tells a text from its foil](phase2_text.png)

        *Comparisons won; orange: random subspaces.*

        Z, k {results["primary"]["k"]}, at {place(text["site"])}, {POOLINGS[text["pooling"]]}:

        {text_block(text)}

        {other}
    """


def text_block(text: dict) -> str:
    """A Z's table of rates, what follows from Haar's, and which variants of a text lie nearer."""
    variants = answer_text(text) if text["answer"] else "The file has no other texts with the same answer."
    if text["paraphrase"]:
        variants += f""" A paraphrase lies nearer than the other operation in {span(rated(text["paraphrase"]))} (half where words and
            operation weigh alike)."""
    return f"""{text_table(text)}

        {haar_text(text)}

        {variants} No random subspaces were asked for that."""


def recipe_section(results: dict) -> str:
    return f"""
        ## 10 What the recipe asks

        The claims above are its points; these are the tests behind the verdict, at p below {verdicts.LEVEL:g}. `clear`: the first
        two; `partial`: some configuration of the grid; `none`: neither. Beyond the text is judged apart.

        {tests_table(results)}

        {given_text(results)}
    """


def given_text(results: dict) -> str:
    if "given" not in results:
        return ""
    row = results["given"]
    part = row["centred"]
    return f"""The Z of --z-from, on {row["problems"]} problems that it was not fitted on: contrast {ratio(row["contrast"])}, Haar
        {ends(row["haar"])}, matched draws {matched_cell(row)}, p {p_row(row)}; without the offset {own(part)}, Haar
        {ends(part["haar"])}, matched draws {matched_cell(part)}, p {p_row(part)}; holds: {page.HOLDS[row["holds"]]}."""


def reading_section(results: dict) -> str:
    layer, draws = results["settings"]["layer"], results["draws"]
    return f"""
        ## How to read it

        - Stream: the residual stream, the sum that every layer reads and adds to.
        - L{layer}.out: the stream as layer {layer} leaves it, `blocks.{layer}.hook_resid_post` in TransformerLens,
          `hidden_states[{layer + 1}]` in transformers; *embeddings*: before layer 0. Z⊥: everything outside Z.
        - p: one-sided; {p_value(1 / (1 + draws), draws)} means that no draw of {draws} reached what was measured. Holm's p: over the
          rows that are named.
        - LEACE: Least-squares Concept Erasure (Belrose et al. 2023), the smallest change after which no linear reader can tell the
          language. Head 0, multi-head: made of the layer's first attention head alone, or of all its heads joined.
        {EXPLORATORY if results["layer_chosen"] == "no_bottleneck" else ""}
        - Three kinds of no: *not there* (random directions or shuffled problems do as well), *nothing special* (the stream's own main
          directions do as well), *could not be tested* with these problems.
        - Numbers with two ends in round brackets are 95 % intervals over problems or stories; ranges of nulls are 5 to 95 % of draws.
    """


def few_problems(problems: int, k: int) -> str:
    """What so many problems limit; and what a subspace of so many dimensions holds of them whatever it is."""
    text = f"{problems} problems: intervals are over these problems."
    if k < ABOUT_AS_MANY * problems:
        return text
    return f"""{text} Z's k, {k}, is about as many dimensions as problems or more: a subspace of that size holds most of their
        differences, whatever it is."""


def limitations(results: dict) -> list[str]:
    """What the numbers cannot say."""
    primary, text = results["primary"], results["text"]
    lines = [
        "Separation is correlational: whether the model uses Z is phase 3's question.",
        few_problems(results["problems"], primary["k"]),
        "Problems follow few templates; versions are translations, so numbers and names recur in them.",
        "A null that is beaten says that Z is not random in that way; it does not say what Z holds.",
        "Means are over a question's tokens: what is at single positions, the last one apart, is not seen.",
    ]
    if "z" in text:
        lines.append(
            """A foil differs from its story in a word or clause; a difference in how the two are worded in each language would
            be told apart as well, and a bag of words sees only its tokens."""
        )
        if haar_as_good(text):
            lines.append(
                "Haar subspaces tell texts from foils as often as Z: beyond the text is then true of the stream, not of Z."
            )
    return [" ".join(line.split()) for line in lines]
