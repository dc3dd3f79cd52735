"""The page of phase 3b: the map between two languages inside Z."""

import numpy as np

import verdicts
from reports import page

NAMES = {
    "none": "no swap",
    "identity": "identity (no map)",
    "mean_shift": "mean shift",
    "procrustes": "orthogonal Procrustes",
    "ridge": "ridge",
    "ols": "ordinary least squares",
    "shuffled": "ridge fitted on shuffled problems",
    "own_language": "the donor's own vector in the target language",
}
OUTCOMES = {  # whose answer wins, in whose language
    "recipient_recipient": "recipient's answer, its language",
    "recipient_donor": "recipient's answer, donor's language",
    "donor_recipient": "donor's answer, recipient's language",
    "donor_donor": "donor's answer, its language",
    "other": "any other answer",
}
SUBSPACES = {"random": "Haar-random", "matched": "matched"}  # the kinds that stand in for Z
show = page.show


def summary(results: dict) -> str:
    """The numbers that decided."""
    r2, name, null = results["held_out_r2"], results["settings"]["primary"], results["null"]
    shift, shuffled = show(r2["mean_shift"], 2), null["shuffled"][name]
    null = f"shuffled {show(shuffled['middle'], 2)}, p {show(shuffled['p'], 2)}"
    return f"{name} held-out R² {show(r2[name], 2)} (mean shift {shift}, {null})"


def claims(results: dict) -> list[dict]:
    """The recipe's statements about the bridge, as rows."""
    name, r2, null, recipe = results["settings"]["primary"], results["held_out_r2"], results["null"], verdicts.RECIPE
    low, high = results["interval"][name]
    shuffled = null["shuffled"][name]
    other = {kind: null[kind][name] for kind in SUBSPACES}
    others = (f"{kind} subspaces {show(row['middle'], 3)}, p {show(row['p'], 2)}" for kind, row in other.items())
    return [
        page.claim(
            "held_out",
            "a linear map predicts held-out Z vectors",
            "yes",
            f"{NAMES[name]}: held-out R² {show(r2[name], 3)} (95 % {show(low, 3)} to {show(high, 3)})",
            f"shuffled problems {shuffled_text(shuffled)}, p {show(shuffled['p'], 2)}",
        ),
        page.claim(
            "beyond_shift",
            "the languages differ by more than a constant inside Z, and a learned map captures it",
            "implied",
            f"{NAMES[name]} {show(r2[name], 3)}",
            f"mean shift {show(r2['mean_shift'], 3)}, p {show(results['p_above_mean_shift'][name], 2)}; one fitted scale "
            f"{show(results['scaled_shift_r2'], 3)}, p {show(results['p_above_scaled_shift'][name], 2)}",
        ),
        page.claim(
            "specific",
            "this holds for Z more than for other subspaces of its size",
            "implied",
            f"{NAMES[name]} {show(r2[name], 3)}",
            "; ".join(others),
        ),
        page.claim(
            "overfitting",
            "zero overfitting risk for a k × k map",
            f"zero, with {recipe['map_parameters']:,} parameters and {recipe['map_pairs']} pairs",
            f"{results['parameters']['ols']:,} parameters, {results['data']['problems']} pairs of {results['data']['k']} numbers: "
            f"least squares in-sample R² {show(results['in_sample_r2']['ols'], 3)}",
            f"its held-out R² {show(r2['ols'], 3)}",
        ),
        page.claim(
            "transfer",
            "the map carries the answer across languages at inference time",
            "yes (transformative)",
            *transfer_cells(results),
        ),
    ]


def transfer_cells(results: dict) -> tuple[str, str]:
    """How often mapped vectors carry the answer over, and how often their controls do."""
    name, move = results["settings"]["primary"], results["transfer"]
    if not move["pairs"]:
        return f"nothing was sent: {no_pairs(results)}", ""
    success = {condition: f"{share:.1%}" for condition, share in move["success"].items()}
    against = {control: show(p[name], 2) for control, p in move["p_against"].items()}
    return (
        f"mapped vectors give the donor's answer in {success[name]} of {move['pairs']} pairs",
        f"unmapped {success['identity']} (p {against['identity']}), shuffled map {success['shuffled']} "
        f"(p {against['shuffled']}), the target language's own vector {success['own_language']}",
    )


def shuffled_text(row: dict) -> str:
    return f"{show(row['middle'], 3)} (95th percentile {show(row['high'], 3)})"


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from saved results and arrays."""
    title = f"Phase 3b: the bridge inside Z of {results['model']['name']}"
    sections = (data_section, held_out_section, interpolation_section, null_section, map_section, last_section)
    texts = [section(results) for section in (*sections, transfer_section)]
    figures = {
        "phase3b_r2.png": figure_r2(results, arrays["phase3b_loo.npy"]),
        "phase3b_map.png": figure_map(results),
        "phase3b_components.png": figure_components(results),
    }
    if results["transfer"]["pairs"]:
        figures["phase3b_transfer.png"] = figure_transfer(results)
    return figures | {"phase3b_output.md": page.report(title, verdict(results), results, texts, limitations(results))}


def verdict(results: dict) -> str:
    """The verdict in sentences."""
    name, r2, null, data = results["settings"]["primary"], results["held_out_r2"], results["null"], results["data"]
    what = {
        "bridge": "A linear map from {source} to {target} inside Z generalises to held-out problems",
        "no_bridge": "No linear map from {source} to {target} inside Z generalises beyond a constant shift",
    }[results["verdict"]].format(**results["settings"])
    medians = ", ".join(f"{kind} {show(null[kind][name]['middle'], 3)}" for kind in SUBSPACES)
    ps = [null[kind][name]["p"] for kind in SUBSPACES]
    if results["tests"]["specific"]:
        special = f"""In other subspaces of that size the same map does less well (median: {medians}; larger p
            {show(max(ps), 2)})."""
    else:
        special = f"""It is not special to Z: the same map in other subspaces of that size has a median of {medians} (p
            {" and ".join(show(p, 2) for p in ps)})."""
    if data["fitted_on_these"]:
        special += " Z was fitted on the same problems, so these values are too high."
    if results["verdict"] == "no_bridge" and max(r2["identity"], r2["mean_shift"]) > r2[name] > 0:
        special += " A map without learning does at least as well."
    return page.prose(f"""
        {what} (`{results["verdict"]}`): {NAMES[name]}, named before looking, has held-out R² {show(r2[name], 3)} on
        {data["problems"]} problems (shuffled problems: p {show(null["shuffled"][name]["p"], 2)}), identity {show(r2["identity"], 3)},
        mean shift {show(r2["mean_shift"], 3)} (p of the difference {show(results["p_above_mean_shift"][name], 2)}). {special}
        """)


def data_section(results: dict) -> str:
    data, settings = results["data"], results["settings"]
    left_out = f", {data['left_out_as_fitted']} others left out because Z was fitted on them"
    return page.prose(f"""
        ## 1 Data

        z_{settings["target"]} is predicted from z_{settings["source"]} of the same problem: coordinates inside Z (k = {data["k"]},
        site {settings["z"]["site"]}) of phase 2's activations, pooling *{settings["pooling"].replace("_", " ")}*,
        {data["problems"]} problems{left_out if data["left_out_as_fitted"] else ""}.
        """)


def held_out_section(results: dict) -> str:
    rows = []
    for name in results["settings"]["maps"]:
        low, high = (show(end, 3) for end in results["interval"][name])
        rows.append([NAMES[name], f"{results['parameters'][name]:,}", results["in_sample_r2"][name]])
        rows[-1] += [results["held_out_r2"][name], f"{low} to {high}", f"{results['retrieval'][name]:.1%}"]
        rows[-1].append(show(results["p_above_mean_shift"].get(name), 2))
    headers = ["map", "parameters", "in-sample R²", "held-out R²", "95 % bootstrap", "retrieval", "p above mean shift"]
    return page.prose(f"""
        ## 2 Held-out prediction

        ![Held-out R² of every map](phase3b_r2.png)

        Leave-one-problem-out; R² against the training mean of the target language (0 = no better than that mean). Intervals
        are bias-corrected and accelerated (BCa) over problems. *Retrieval*: share of problems whose predicted vector is nearest
        to the right target vector, chance {show(1 / results["data"]["problems"], 2)}.

        {page.table(headers, rows)}
        """)


def interpolation_section(results: dict) -> str:
    n, k = results["data"]["problems"], results["data"]["k"]
    if k >= n - 1:
        through = f"With k ≥ {n - 1} least squares passes through every training pair whatever they are."
    else:
        through = f"Least squares would pass through every training pair from k = {n - 1} on; here k is smaller."
    return page.prose(f"""
        ## 3 Interpolation

        A k × k map has {results["parameters"]["ols"]:,} parameters with its intercept, and {n} pairs give {n * k:,} numbers.
        In-sample R² of least squares: {show(results["in_sample_r2"]["ols"], 4)}; held out:
        {show(results["held_out_r2"]["ols"], 4)}. {through}
        """)


def null_section(results: dict) -> str:
    null, settings, rows = results["null"], results["settings"], []
    for name in settings["maps"]:
        rows.append([NAMES[name], results["held_out_r2"][name], shuffled_text(null["shuffled"][name])])
        rows[-1] += [show(null["shuffled"][name]["p"], 2), show(null["p_holm"].get(name), 2)]
        for row in (null[kind][name] for kind in SUBSPACES):
            low, middle, high = (show(row[point], 3) for point in ("low", "middle", "high"))
            rows[-1] += [f"{middle} ({low} to {high})", show(row["p"], 2)]
    headers = ["map", "held-out R²", "shuffled problems", "p", "Holm"]
    headers += [header for kind in SUBSPACES.values() for header in (f"{kind} (5 % to 95 %)", "p")]
    wording = ", ".join(f"{show(results['embeddings'][name], 3)} ({NAMES[name]})" for name in settings["maps"])
    return page.prose(f"""
        ## 4 Nulls

        {settings["shuffles"]} shuffles of the target's problems, and {settings["random_subspaces"]} Haar-random and
        covariance-matched subspaces each, of the same size, in place of Z. Holm over the maps other than the primary one.

        {page.table(headers, rows)}

        What the wording alone gives: the same maps on the mean token embeddings (site 0) inside Z have held-out R² {wording}.
        """)


def map_section(results: dict) -> str:
    rows = []
    for name in results["settings"]["learned"]:
        values = results["map"][name]["singular_values"]
        rows.append([NAMES[name], max(values), float(np.median(values)), results["map"][name]["orthogonality_error"]])
    return page.prose(f"""
        ## 5 The map itself

        ![Singular values of the maps](phase3b_map.png)

        Fitted on all problems. Orthogonality error: ‖MᵀM − I‖_F / √k, 0 for a rotation.

        {page.table(["map", "largest singular value", "median", "orthogonality error"], rows)}

        ![Prediction and truth](phase3b_components.png)

        Held-out prediction ({NAMES[results["settings"]["primary"]]}) and truth in the first two principal components of the target.
        """)


def last_section(results: dict) -> str:
    last = results["last"]
    if "held_out_r2" not in last:
        few = f"Only {last['problems']} problems are solved in every language: nothing is fitted here."
        if not results["settings"]["rung"]:
            few = "Not testable here: phase 3 took no rung of problems, so there are no streams to fit a map on."
        return f"## 6 Last prompt position\n\n{few}"
    rows = [
        [NAMES[name], last["in_sample_r2"][name], last["held_out_r2"][name], f"{last['retrieval'][name]:.1%}"]
        + [shuffled_text(last["shuffled"][name]), show(last["shuffled"][name]["p"], 2)]
        for name in results["settings"]["maps"]
    ]
    headers = ["map", "in-sample R²", "held-out R²", "retrieval", "shuffled problems", "p"]
    return page.prose(f"""
        ## 6 Last prompt position

        The same inside Z at the last prompt position of phase 3's few-shot prompts ({last["problems"]} problems solved in every
        language); these maps are the ones that the transfer uses.

        {page.table(headers, rows)}
        """)


def transfer_section(results: dict) -> str:
    settings, move, rows = results["settings"], results["transfer"], []
    if not move["pairs"]:
        return f"## 7 Transfer\n\nNot testable here: {no_pairs(results)}."
    outcomes = [*settings["outcomes"], "other"]
    for name in settings["conditions"]:
        low, high = move["interval"][name]
        rows.append([NAMES[name], f"{move['success'][name]:.1%}", f"{low:.1%} to {high:.1%}"])
        rows[-1] += [f"{move['winners'][name][outcome]:.1%}" for outcome in outcomes]
        rows[-1] += [show(move["p_against"][control].get(name), 2) for control in settings["controls"]]
    against = [f"p against {control}" for control in settings["controls"]]
    headers = ["sent", "success", "95 % Wilson", *(OUTCOMES[outcome] for outcome in outcomes), *against]
    return page.prose(f"""
        ## 7 Transfer

        ![Transfer](phase3b_transfer.png)

        {move["pairs"]} recipients of phase 3, each with one donor of its block ({settings["source"]} to {settings["target"]},
        rung `{settings["rung"]}`, different answers): the recipient's part inside Z becomes the mapped vector of the donor,
        which the map was not fitted on. Shares of pairs by what is most probable among all {move["answers"]} answers in every
        language; success is the donor's answer in the recipient's language. *Identity* is the swap of Z. A map
        fitted on shuffled problems puts another vector in the recipient's place: what erasing alone does.

        {page.table(headers, rows)}
        """)


def no_pairs(results: dict) -> str:
    """Why nothing was sent."""
    if not results["settings"]["rung"]:
        return "phase 3 took no rung of problems"
    return "too few problems are solved unpatched"


def limitations(results: dict) -> list[str]:
    data, move = results["data"], results["transfer"]
    lines = []
    if data["fitted_on_these"]:
        lines.append(
            "Z itself was fitted on these very problems (not the maps): R² inside it is too high. Section 6 asks others."
        )
    if not move["pairs"]:
        lines.append(f"The transfer could not be tested: {no_pairs(results)}.")
    elif move["success"]["own_language"] < 0.5:
        lines.append(
            "Even the target language's own vector gives the donor's answer in less than half of the pairs: Z at this site is not "
            "shown to carry it, so that a failing map tells little."
        )
    lines += [
        f"{data['problems']} problems of one kind: a map that generalises among them may still be about their wording.",
        "Anything that the versions of a problem share, such as their numerals or their length, is predictable across languages too.",
        "R² is dominated by the directions of Z with the largest variance.",
        "The transfer patches one position only, and only the part inside Z.",
    ]
    z = results["settings"]["z"]
    if results["layer_chosen"] == "no_bottleneck" and z["layer"] == z["bottleneck"]:
        lines.append(f"Z is that of {page.layer_name(z['layer'], results['layer_chosen'])}.")
    if z["method"] in ("centroid", "ard_mmd"):
        lines.append("Z was fitted on activations: it is no prediction from weights.")
    return lines


def figure_r2(results: dict, loo: np.ndarray) -> bytes:
    maps = results["settings"]["maps"]
    places, names = np.arange(len(maps)), [NAMES[name] for name in maps]
    values = np.array([results["held_out_r2"][name] for name in maps])
    bounds = np.array([results["interval"][name] for name in maps]).T
    highest = [results["null"]["shuffled"][name]["high"] for name in maps]
    with page.figure(10, 4, 1, 2) as (figure, (left, right)):
        left.bar(places - 0.2, values, 0.4, yerr=np.abs(bounds - values), capsize=4, label="held out, 95 % bootstrap")
        in_sample = [results["in_sample_r2"][name] for name in maps]
        left.bar(places + 0.2, in_sample, 0.4, color="lightgray", label="in sample")
        left.plot(places, highest, "_", color="tab:red", markersize=18, label="shuffled problems, 95th percentile")
        left.axhline(0, color="black", linewidth=1)
        left.set_xticks(places, names, rotation=20, ha="right", fontsize=8)
        left.set(title="R² inside Z (cut off below −1.2)", ylabel="R² against the training mean", ylim=(-1.2, 1.05))
        for kind, shift, color in (("random", -0.3, "tab:green"), ("matched", -0.1, "tab:purple")):
            rows = [results["null"][kind][name] for name in maps]
            low, middle, high = (np.array([row[point] for row in rows]) for point in ("low", "middle", "high"))
            style = {"fmt": ".", "color": color, "capsize": 2, "label": f"{SUBSPACES[kind]} subspaces, 5 % to 95 %"}
            left.errorbar(places + shift, middle, [middle - low, high - middle], **style)
        left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
        right.boxplot(np.sqrt(loo.T), showfliers=False)
        right.set_xticks(places + 1, names, rotation=20, ha="right", fontsize=8)
        right.set(title="leave-one-out error per problem", ylabel="distance inside Z", ylim=(0, None))
    return page.png(figure)


def figure_map(results: dict) -> bytes:
    with page.figure(6, 3.5) as (figure, panel):
        for name in results["settings"]["learned"]:
            values = results["map"][name]["singular_values"]
            panel.plot(np.arange(1, len(values) + 1), values, marker=".", label=NAMES[name])
        panel.axhline(1, color="black", linestyle=":", linewidth=1, label="a rotation")
        panel.set(title="singular values of the maps", xlabel="index", ylabel="singular value", ylim=(0, None))
        panel.legend(fontsize=8)
    return page.png(figure)


def figure_components(results: dict) -> bytes:
    x, y, x_predicted, y_predicted = np.array(results["components"]).T
    predicted = f"held-out prediction ({NAMES[results['settings']['primary']]})"
    with page.figure(5, 4.5) as (figure, panel):
        panel.plot([x, x_predicted], [y, y_predicted], color="lightgray", linewidth=1, zorder=1)
        panel.scatter(x, y, s=18, label="truth", zorder=2)
        panel.scatter(x_predicted, y_predicted, s=18, marker="x", label=predicted, zorder=3)
        panel.set(title="first two components of the target inside Z", xlabel="component 1", ylabel="component 2")
        panel.legend(fontsize=8)
    return page.png(figure)


def figure_transfer(results: dict) -> bytes:
    move, conditions = results["transfer"], results["settings"]["conditions"]
    values = np.array([move["success"][name] for name in conditions])
    bounds = np.array([move["interval"][name] for name in conditions]).T
    title = f"donor's answer in the recipient's language, {move['pairs']} pairs, 95 % Wilson"
    with page.figure(7, 3.8) as (figure, panel):
        panel.bar(range(len(values)), values, yerr=np.abs(bounds - values), capsize=4)
        panel.set_xticks(range(len(values)), [NAMES[name] for name in conditions], rotation=25, ha="right", fontsize=8)
        panel.set(title=title, ylabel="share of pairs", ylim=(0, 1.05))
    return page.png(figure)
