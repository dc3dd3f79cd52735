"""The page of phase 3b: the map between two languages inside Z."""

import verdicts
from reports import page
from reports.page import decimal, p_value, percent
from reports.phase3b_figures import figure_gain, figure_map, figure_r2, figure_transfer
from reports.phase3b_opening import (
    command_text,
    meaning_text,
    numbers_text,
    place_text,
    reason,
    trained_on,
    verdict_text,
)
from reports.phase3b_tables import (
    NAMES,
    SUBSPACES,
    TWINS,
    baselines_table,
    ends,
    gains_table,
    geometry_table,
    maps_table,
    p_of,
    sent,
    subspaces_table,
    transfer_table,
    winners_table,
)


def summary(results: dict) -> str:
    """The numbers that decided."""
    if results["unmeasured"]:
        return reason(results)
    r2, name = results["held_out_r2"], results["settings"]["primary"]
    shuffled, words = results["null"]["shuffled"][name], results["words"]
    twins = [decimal(row["mean"]) for row in results["twins"]["kinds"].values()]
    others = [decimal(results["subspaces"][kind]["middle"]) for kind in SUBSPACES if results["subspaces"][kind]]
    beside = "".join(f", {what} {' and '.join(own)}" for what, own in (("twins", twins), ("subspaces", others)) if own)
    return (
        f"{name} held-out R² {decimal(r2[name])} (mean shift {decimal(r2['mean_shift'])}, shuffled {decimal(shuffled['middle'])}, "
        f"p {p_of(shuffled)}, words {decimal(words['r2'])}); gain {decimal(results['gain'][name])}{beside}"
    )


def claims(results: dict) -> list[dict]:
    """The recipe's statements about the bridge, as rows."""
    cells = dict.fromkeys(("held_out", "beyond_shift", "specific", "overfitting", "transfer"), ("–", "–"))
    if not results["unmeasured"]:
        cells = measured_cells(results)
    recipe = verdicts.RECIPE
    zero = f"zero, with {recipe['map_parameters']:,} parameters and {recipe['map_pairs']} pairs"
    rows = (
        ("held_out", "a linear map predicts Z vectors of answers that it has not seen", "yes"),
        (
            "beyond_shift",
            "the languages differ by more than a constant inside Z, and a learned map captures it",
            "implied",
        ),
        ("specific", "it does so for Z more than for words, twins of the model and other subspaces", "implied"),
        ("overfitting", "zero overfitting risk for a k × k map", zero),
        ("transfer", "the map carries the answer across languages at inference time", "yes (transformative)"),
    )
    return [page.claim(name, text, said, *cells[name]) for name, text, said in rows]


def measured_cells(results: dict) -> dict[str, tuple[str, str]]:
    """What was measured of every claim, and its null."""
    name, r2, gain = results["settings"]["primary"], results["held_out_r2"], results["gain"]
    low, high = (decimal(end) for end in results["interval"][name])
    shuffled, above, words = results["null"]["shuffled"][name], results["p_above"][name], results["words"]
    others = [f"words R² {decimal(words['r2'])}, p {p_value(words['p'])}"]
    others += [
        f"{TWINS[kind]} {decimal(row['mean'])}, p {p_value(row['p'])}"
        for kind, row in results["twins"]["kinds"].items()
    ]
    found = {kind: results["subspaces"][kind] for kind in SUBSPACES if results["subspaces"][kind]}
    others += [f"{SUBSPACES[kind]} {decimal(row['middle'])}, p {p_of(row)}" for kind, row in found.items()]
    return {
        "held_out": (
            f"{NAMES[name]}: held-out R² {decimal(r2[name])} ({low} to {high})",
            f"shuffled problems {ends(shuffled)}, p {p_of(shuffled)}",
        ),
        "beyond_shift": (
            f"{NAMES[name]} R² {decimal(r2[name])}, gain {decimal(gain[name])}",
            f"mean shift R² {decimal(r2['mean_shift'])}, p {p_value(above['mean_shift'])}; one fitted scale "
            f"{decimal(results['scaled_shift_r2'])}, p {p_value(above['scaled_shift'])}",
        ),
        "specific": (f"{NAMES[name]} R² {decimal(r2[name])}, gain {decimal(gain[name])}", "; ".join(others)),
        "overfitting": overfitting_cells(results),
        "transfer": transfer_cells(results),
    }


def overfitting_cells(results: dict) -> tuple[str, str]:
    """Parameters against data, what least squares loses on answers that it has not seen, and what it reaches by chance."""
    k, n, fitted, held = fitted_sizes(results)
    chance = min(1.0, k / max(1, n - 1))
    low, high = (decimal(end) for end in results["interval"]["ols"])
    shuffled = results["null"]["shuffled"]["ols"]
    scored = f" (on the {results['data']['problems']} scored)" if results["data"]["training"] else ""
    return (
        f"{results['parameters']['ols']:,} parameters, {n * k:,} numbers ({n} problems): least squares R² {decimal(fitted)} on what "
        f"it was fitted on, {decimal(held)} ({low} to {high}) held out{scored}, {decimal(fitted - held)} less; "
        f"{verdicts.bridge.OVERFIT:.2f} less counts as overfitting",
        f"by chance least squares reaches about R² {decimal(chance)} on what it is fitted on; held out, shuffled problems "
        f"{ends(shuffled)}, p {p_of(shuffled)}",
    )


def fitted_sizes(results: dict) -> tuple[int, int, float, float]:
    """Z's size, problems, and least squares' R² on what it was fitted on and held out."""
    data = results["data"]
    n = data["problems"] + data["training"]
    return data["k"], n, results["in_sample_r2"]["ols"], results["held_out_r2"]["ols"]


def transfer_cells(results: dict) -> tuple[str, str]:
    """How often mapped vectors carry the answer over, and how often their controls do."""
    name, move = results["settings"]["primary"], results["transfer"]
    if not move["pairs"]:
        return "nothing was sent: no recipient has a donor here", "–"
    success = {condition: sent(results, condition) for condition in (name, "identity", "shuffled", "own_language")}
    against = {control: p_value(p[name]) for control, p in move["p_against"].items()}
    return (
        f"mapped vectors give the donor's answer in {success[name]} of {move['pairs']} swaps",
        f"unmapped {success['identity']} (p {against['identity']}), shuffled map {success['shuffled']} "
        f"(p {against['shuffled']}), the target language's own vector {success['own_language']}",
    )


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from saved results and arrays."""
    title = f"Phase 3b: the bridge inside Z of {results['model']['name']}"
    results = results | {"level": verdicts.LEVEL}
    opening, texts, figures = [meaning_text(results)], [problems_section(results)], {}
    if not results["unmeasured"]:
        opening = [place_text(results), numbers_text(results), *opening, PICTURE]
        sections = (held_out_section, baselines_section, subspaces_section, map_section, transfer_section)
        texts += [section(results) for section in sections]
        drawn = {"r2": figure_r2, "gain": figure_gain, "map": figure_map}
        drawn |= {"transfer": figure_transfer} if results["transfer"]["pairs"] else {}
        figures = {f"phase3b_{name}.png": draw(results) for name, draw in drawn.items()}
    texts.append(reading_section(results))
    opening = [page.prose(part) for part in (*opening, command_text(results))]
    texts = [page.prose(text) for text in texts]
    content = page.report(title, verdict_text(results), results, texts, limitations(results), opening)
    return figures | {"phase3b_output.md": content}


MOSTLY = 0.5  # of the variance: where matched draws hold more, the page says what they are
PICTURE = """
    ![The map's gain in Z, in twins of the model and in other subspaces](phase3b_gain.png)

    *What the learned map saves of the error that mean, shift and scaled shift leave, on answers that it has not seen: inside Z,
    in twins of the model (one kind keeps its trained weights, but shuffled; the other has new ones), and in other subspaces of Z's
    size. Height within a row means nothing: it keeps the marks
    apart.*
"""


def problems_section(results: dict) -> str:
    data, settings, (source, target) = results["data"], results["settings"], spoken(results)
    if results["unmeasured"]:
        return f"""
            ## 1 Problems

            Nothing was measured: {reason(results)}. The maps are judged on problems that the model solves in both languages, at the
            position and with the prompt of phase 3; what it does not solve it need not represent alike.
        """
    return f"""
        ## 1 Problems

        z_{settings["target"]} is predicted from z_{settings["source"]} of the same problem ({source} to {target}): coordinates
        inside Z (k {data["k"]}) at {page.place(settings["z"]["site"])}, Z's own place, last position of the few-shot prompts of
        phase 3 (`{settings["rung"]}`). Scored are {data["problems"]} problems with {data["answers"]} answers, of {data["usable"]}
        that the model solves in both languages{trained_on(data)}.
    """


def held_out_section(results: dict) -> str:
    n, k = results["data"]["problems"] + results["data"]["training"], results["data"]["k"]
    draws = results["null"]["shuffled"][results["settings"]["primary"]]["draws"]
    if k >= n - 1:
        through = f"With k ≥ {n - 1} least squares passes through every training problem, whatever they are."
    else:
        through = f"Least squares would pass through every training problem from k = {n - 1} on; here k is smaller."
    kept = results["null"]["kept_partners"]
    alone = f"; {percent(kept)} had to keep one with their own" if kept else ""
    return f"""
        ## 2 Held-out prediction

        ![Held-out R² of every map](phase3b_r2.png)

        *Held-out R² inside Z of every map, on what it was fitted on, and with shuffled problems.*

        All problems with one answer are left out together; ridge chooses its penalty by leaving out answers among the others. R² is
        against the training mean of the target language. *Finds its problem*: the predicted vector is nearer to its problem's target
        than to that of any other answer (chance {percent(results["chance"])}). *Shuffled problems*: 5 to 95 % of R² in {draws}
        pairings in which every problem gets a partner with another answer{alone}. Holm over the maps that were not named before
        looking.

        {maps_table(results)}

        *Gain*: share saved of the error that the best of
        {", ".join(NAMES[name] for name in results["settings"]["references"])} leaves; here the best is
        {NAMES[results["best_reference"]]}.

        {gains_table(results)}

        A k × k map has {results["parameters"]["ols"]:,} parameters with its intercept, and {n} problems, each one vector a language,
        give {n * k:,} numbers. {through}
    """


def baselines_section(results: dict) -> str:
    words, twins = results["words"], results["twins"]
    source, _ = spoken(results)
    made = f"Twins could not be made: {twins['unmeasured']}." if twins["unmeasured"] else ""
    return f"""
        ## 3 Words and untrained twins

        *Words*: the mean of the token embeddings of the {source} question, in all dimensions, predicts the same target inside Z by
        the same kind of map. (The map from bag to bag gains {decimal(words["own_gain"])} in its own space: an easier target, which
        says how regular the wording is.) *Twins*: the same model without what it learned, its trained weights shuffled within every
        tensor of its layers (so that their sizes stay) or drawn anew (untrained), asked the same prompts; the same map
        inside the same Z. The model has to gain more than another twin would, by the spread among twins, and more than they do over
        answers. {made}

        {baselines_table(results)}
    """


def spoken(results: dict) -> tuple[str, str]:
    """The names of source and target language."""
    return tuple(results["names"][results["settings"][which]] for which in ("source", "target"))


def subspaces_section(results: dict) -> str:
    found = results["subspaces"]
    share, offset = percent(found["share_within"]), percent(found["share_offset"])
    note = " Z is so large that no other subspace holds as much: matched ones could not be drawn."
    if found["matched"]:
        most = " Draws that hold so much lie near the stream's main directions: Z has to be better than these."
        note = most if found["share_within"] > MOSTLY else ""
    return f"""
        ## 4 Other subspaces

        The same map in subspaces of Z's size: random ones (*Haar*), and random ones that hold as much as Z of the streams' variance
        within languages ({share}) and of the offset between these ({offset}) (*matched*).{note}

        {subspaces_table(results)}
    """


def map_section(results: dict) -> str:
    return f"""
        ## 5 The map itself

        ![Singular values of the maps, and prediction and truth](phase3b_map.png)

        *Left: singular values of the maps fitted on all problems. Right: held-out prediction and truth along the target's first two
        principal components inside Z.*

        Orthogonality error: ‖MᵀM − I‖_F / √k, 0 for a rotation.

        {geometry_table(results)}
    """


def transfer_section(results: dict) -> str:
    move, (source, target) = results["transfer"], spoken(results)
    if not move["pairs"]:
        return """
            ## 6 Transfer

            Not testable here: none of the problems scored are a recipient of phase 3 and its donor.
        """
    return f"""
        ## 6 Transfer

        ![Transfer](phase3b_transfer.png)

        *How often the donor's answer comes out in the recipient's language.*

        {move["pairs"]} swaps: of the {results["data"]["problems"]} problems scored, those that phase 3 patched and that have a
        donor in their block with another answer. Recipients are asked in {target}, donors in {source}: the recipient's part inside
        Z becomes the mapped vector of the donor, by a map that has not seen the donor's answer. Shares of swaps by what is most
        probable among the {move["answers"]} answers of the problems that phase 3 patched, in every language; success is the donor's
        answer in the recipient's language. *Identity* is the swap of Z. A map fitted on shuffled problems puts another vector in
        the recipient's place: what erasing alone does.

        {transfer_table(results)}

        Whose answer is most probable, in whose language:

        {winners_table(results)}
    """


def reading_section(results: dict) -> str:
    measured = f"""
        - Gain: 1 − error of the map / error of the best of mean, shift and scaled shift, in one space. It has no unit, so that spaces
          of any scale can be compared, and shrinking toward the mean gains nothing.
        - Shift: the source and the mean difference between the languages; scaled: mean + a (source − mean) with one fitted number a.
        - p: < .009 (120 draws) means that no draw of 120 reached what was measured; without draws, of sign flips over answers.
        - Surely: to the end of the 95 % interval, or by a p below {results["level"]:g}; what is neither surely so nor
          surely not so is open.
        - Intervals: bias-corrected and accelerated bootstrap (BCa) over answers, 9,999 resamples.
    """
    return f"""
        ## 7 How to read it

        - L18.out: the stream at the last prompt position as layer 18 leaves it, `blocks.18.hook_resid_post` in TransformerLens.
        - Z: the subspace that phase 2 handed on; z: a stream's coordinates inside it.
        {"" if results["unmeasured"] else measured.strip()}
        - Verdicts: `bridge`, `linear_but_unspecific` (a map is there, as it is for words, for twins of the model or in other
          subspaces), `no_bridge` (no map beyond shuffled problems and a shift, and one that adds {decimal(verdicts.bridge.WORTH)}
          of R² to what needs no matrix is excluded), `inconclusive` (neither shown nor excluded), `untestable`.
    """


def limitations(results: dict) -> list[str]:
    data, move, z = results["data"], results["transfer"], results["settings"]["z"]
    lines = []
    if not results["unmeasured"]:
        lines += [
            f"{data['problems']} problems of one kind: a map that generalises among them may still be about their wording.",
            "A bag of words has no order: what the last sentence says may be read without the problem's answer.",
            "R² is dominated by the directions of Z with the largest variance.",
            "Three twins of each kind: their spread is taken as alike, and gains as normal.",
        ]
    if move["pairs"]:
        lines.append("The transfer patches one position only, and only the part inside Z.")
    if results["layer_chosen"] == "no_bottleneck" and z["layer"] == z["bottleneck"]:
        lines.append(f"Z is that of {page.layer_name(z['layer'], results['layer_chosen'])}.")
    if z["method"] in ("centroid", "ard_mmd"):
        lines.append("Z was fitted on activations: it is no prediction from weights.")
    lines.append("Only problems that the model solves in both languages are asked, so that nothing is said of others.")
    return lines
