"""The page of phase 2: what its numbers say of the recipe, section by section."""

import numpy as np

import verdicts
from reports import page

NAMES = page.METHODS | {
    "centroid": "centroid (arXiv 2505.15257)",
    "ard_mmd": "ARD-MMD",
    "pca": "PCA",
    "random": "random",
}
LEVEL = f"{verdicts.LEVEL:g}".removeprefix("0")  # as p is written: .05


def summary(results: dict) -> str:
    """The numbers that decided: of the weight-based Z, and of one that was given by --z-from."""
    text = ratios(results["primary"]) + f" (k {results['primary']['k']})"
    return text + (f"; the given Z: {ratios(results['given'])}" if "given" in results else "")


def ratios(row: dict) -> str:
    show = page.show
    return f"ratio_Z {show(row['ratio_z'], 3)}, ratio_Z⊥ {show(row['ratio_z_perp'], 3)}, p {show(row['p'], 2)}"


def claims(results: dict) -> list[dict]:
    """The recipe's four points and its contingency text, as rows."""
    show, grid, primary, offset = page.show, results["grid"], results["primary"], results["offset"]
    below = [row for row in grid if row["contrast"] < 1]
    beating = [row for row in below if row["p_holm"] < verdicts.LEVEL]
    haar = show(float(np.mean([row["haar_below_one"] for row in grid])), 2)
    by_k = primary_rows(results)
    contrasts = ", ".join(f"k = {row['k']}: {show(row['contrast'], 3)}" for row in by_k)
    return [
        page.claim(
            "ratio",
            "ratio_Z < ratio_Z⊥ in most configurations",
            "most",
            f"{len(below)} of {len(grid)}; {len(beating)} of them beat all three nulls after Holm",
            f"Haar subspaces are below 1 in {haar} of draws",
        ),
        page.claim(
            "primary",
            "ratio_Z < ratio_Z⊥ in the primary configuration",
            "ratio_Z ≪ ratio_Z⊥",
            f"{show(primary['ratio_z'], 3)} against {show(primary['ratio_z_perp'], 3)} at k = {primary['k']}",
            null_ps(primary),
        ),
        page.claim(
            "centred",
            "the separation is more than missing the language offset: it survives removal of language means",
            "not considered",
            f"contrast {show(offset['contrast'], 3)}; {offset['share']:.0%} of the distance is the offset",
            null_ps(offset),
        ),
        *energy_claims(results),
        multi_claim(grid),
        page.claim(
            "best_k",
            "k at the effective rank is the strongest",
            f"k ≈ {verdicts.RECIPE['strongest_k']} strongest",
            f"contrast {contrasts}",
            f"medians of Haar draws: {', '.join(show(row['haar']['middle'], 3) for row in by_k)}",
        ),
    ]


def primary_rows(results: dict) -> list[dict]:
    """The rows of the primary mask, site and pooling, one for each k."""
    return [row for row in results["grid"] if row["primary"]]


def null_ps(row: dict) -> str:
    show = page.show
    return f"p {show(row['haar']['p'], 2)} Haar, {show(row['matched']['p'], 2)} matched, {show(row['pairing']['p'], 2)} shuffled"


def energy_claims(results: dict) -> list[dict]:
    show, energy = page.show, results["content"]["energy"]
    chance = f"k/d {show(results['primary']['k'] / results['width'], 3)}"
    return [
        page.claim(
            "energy_cross",
            "the energy fraction in Z of differences between languages is below k/d",
            "< k/d",
            show(energy["cross_language"], 3),
            f"{chance}; {haar_null(energy['haar_cross_language'])}",
        ),
        page.claim(
            "energy_same",
            "the energy fraction in Z of differences between problems is above k/d",
            "> k/d",
            show(energy["same_language"], 3),
            f"{chance}; {haar_null(energy['haar_same_language'])}",
        ),
    ]


def haar_null(record: dict) -> str:
    return f"Haar 5 to 95 %: {interval(record)}, p {page.show(record['p'], 2)}"


def interval(record: dict) -> str:
    return f"{page.show(record['low'], 3)} to {page.show(record['high'], 3)}"


def multi_claim(grid: list[dict]) -> dict:
    show, pairs = page.show, mask_pairs(grid)
    wins = sum(multi["contrast"] <= head["contrast"] for multi, head in pairs)
    multi, head = next(pair for pair in pairs if pair[0]["primary"] and pair[0]["share"] == 1)
    own = f"contrast {show(multi['contrast'], 3)} against {show(head['contrast'], 3)} in the primary configuration"
    return page.claim(
        "multi",
        "the multi-head mask is at least as good as head 0",
        "≥",
        f"{own}; better or equal in {wins} of {len(pairs)}",
        f"half of {len(pairs)} by chance; configurations are not independent",
    )


def mask_pairs(grid: list[dict]) -> list[tuple[dict, dict]]:
    """(multi-head, head 0) rows of the same place, pooling and k."""
    key = ("place", "pooling", "share")
    heads = {tuple(row[name] for name in key): row for row in grid if row["mask"] == "head0"}
    return [(row, heads[tuple(row[name] for name in key)]) for row in grid if row["mask"] == "multi"]


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from results alone (the arrays are for later phases)."""
    title = f"Phase 2: Z extraction from {results['model']['name']}"
    sentence = page.prose(verdict_sentence(results))
    layer, by_k = results["settings"]["layer"], primary_rows(results)
    sections = [
        activations_section(results),
        primary_section(results, by_k),
        grid_section(results),
        content_section(results),
        rivals_section(results),
        contingency_section(results),
        plane_section(results["plane"], layer),
        f"## 9 What the recipe asks\n\n{answers(results, by_k)}",
    ]
    text = page.report(title, sentence, results, sections, limitations(results))
    files = {
        "phase2_output.md": text,
        "phase2_contrast.png": figure_contrast(results),
        "phase2_plane.png": figure_plane(results["plane"], results["chance"], layer),
        "phase2_updates.png": figure_updates(results["plane"], layer),
    }
    if "contingencies" in results:
        parts = results["contingencies"]
        files |= {"phase2_ard.png": figure_ard(parts["ard"]["layers"])}
        files |= {"phase2_sweep.png": figure_sweep(parts["sweep"], layer)}
    return files


def verdict_sentence(results: dict) -> str:
    primary, show, z = results["primary"], page.show, results["z"]
    what = {
        "clear": "separates language from problem",
        "partial": "separates language from problem in some configurations only",
        "none": "does not separate language from problem beyond chance",
    }[results["verdict"]]
    weights = f"The weight-based Z of {page.layer_name(results['settings']['layer'], results['layer_chosen'])}"
    centred = "still separates" if results["tests"]["centred"] else "does not separate"
    sentence = f"""{weights} {what} (`{results["verdict"]}`): in the primary configuration ratio_Z is {show(primary["ratio_z"], 3)} and
        ratio_Z⊥ {show(primary["ratio_z_perp"], 3)}, with p = {show(primary["haar"]["p"], 2)} against Haar-random,
        {show(primary["matched"]["p"], 2)} against covariance-matched subspaces and {show(primary["pairing"]["p"], 2)} against
        shuffled problems; once the constant offset between the languages is removed it {centred}. Handed on to phase 3:
        {NAMES[z["method"]]}, layer {z["layer"]}, site {z["site"]}, k = {z["k"]}"""
    if "given" in results:
        row = results["given"]
        sentence += f""", taken from an earlier run and fitted on nothing here; on these problems its contrast is
            {show(row["contrast"], 3)} (p {show(row["p"], 2)}), without the offset between the languages
            {show(row["centred_contrast"], 3)} (p {show(row["centred_p"], 2)})"""
    else:
        if z["fitted_on"]:
            sentence += f""", fitted on {len(z["fitted_on"])} of the {results["problems"]} problems, which phase 3 leaves
                out"""
        if results["weight_z"] == "none":
            held = "holds" if z["holds"] else "**does not hold** either"
            by_rule = f"by the rule for contingencies it {held}" if "contingencies" in results else "it does not hold"
            sentence += f" ({by_rule})"
    return sentence + "."


def activations_section(results: dict) -> str:
    sinks, layer, settings = results["sinks"], results["settings"]["layer"], results["settings"]
    files = page.problem_files(settings)
    common = ", ".join(
        f"position {row['position']} {page.escape(repr(row['token']))} ({row['prompts']})" for row in sinks["commonest"]
    )
    found = "there is none at any site."
    if any(sinks["per_site"]):
        found = f"at L{layer}.out {sinks['per_site'][layer + 1]} of {sinks['prompts']} prompts have one; "
        found += f"commonest at any site: {common}."
    return page.prose(f"""
        ## 1 Activations and sinks

        {results["problems"]} problems from {files} in {" and ".join(settings["languages"])}, residual stream at every site,
        {settings["dtype"]}. A sink is a position whose norm exceeds {sinks["factor"]} medians of its prompt: {found}
    """)


def primary_section(results: dict, by_k: list[dict]) -> str:
    layer = results["settings"]["layer"]
    columns = ("k", "ratio_z", "ratio_z_perp", "contrast")
    rows = [
        [*(row[column] for column in columns), row["haar"]["middle"], row["matched"]["middle"]]
        + [row["haar"]["p"], row["matched"]["p"], row["pairing"]["p"]]
        for row in by_k
    ]
    headers = ["k", "ratio_Z", "ratio_Z⊥", "contrast", "Haar median", "matched median"]
    return page.prose(f"""
        ## 2 Primary configuration

        ![Contrast against its nulls](phase2_contrast.png)

        Named before looking: mask of layer {layer}, site L{layer}.out, multi-head, mean over tokens, k = effective rank. ratio_S
        is the mean distance between a problem's versions over the mean distance between different problems of one language,
        inside S; contrast is ratio_Z / ratio_Z⊥. `clear` needs contrast < 1 with p < {LEVEL} against every null at all three k;
        `partial` needs that in some configuration of the grid after Holm.

        {page.table([*headers, "p Haar", "p matched", "p shuffled"], rows)}

        {offset_text(results["offset"], len(results["settings"]["languages"]))}
    """)


def offset_text(offset: dict, languages: int) -> str:
    show = page.show
    return f"""{offset["share"]:.0%} of the squared distance between a problem's versions is a constant language offset (rank
        {languages - 1}): a subspace that merely misses it scores well. With language means removed the contrast is
        {show(offset["contrast"], 3)} (Haar median {show(offset["haar"]["middle"], 3)}, p {show(offset["haar"]["p"], 2)}; matched
        {show(offset["matched"]["middle"], 3)}, p {show(offset["matched"]["p"], 2)}; shuffled p {show(offset["pairing"]["p"], 2)})."""


def grid_section(results: dict) -> str:
    rows = [
        [row["place"], row["mask"], row["pooling"].replace("_", " "), row["k"], row["ratio_z"], row["ratio_z_perp"]]
        + [row["energy_cross_language"] / (row["k"] / results["width"]), row["p"], row["p_holm"]]
        for row in results["grid"]
    ]
    headers = ["mask and site", "mask", "pooling", "k", "ratio_Z", "ratio_Z⊥", "energy across languages / (k/d)"]
    return page.prose(f"""
        ## 3 The grid

        All {len(results["grid"])} configurations, exploratory; p is the largest of the three nulls', Holm over the grid. Where no
        position is a sink, the mean without sinks is the mean and is left out.

        {page.table([*headers, "p", "Holm"], rows)}
    """)


def content_section(results: dict) -> str:
    show, part = page.show, results["content"]
    spaces = {"z": "Z", "z_perp": "Z⊥", "all": "whole stream", "haar": "Haar of Z's size, mean"}
    rows = []
    for key, name in spaces.items():
        read = [
            f"{show(part[key][measure])} ({show(part[key][f'{measure}_shuffled'], 2)})"
            for measure in ("problem", "problem_raw")
        ]
        rows.append([name, part[key]["language"], *read])
    haar = [interval(part["haar_null"][measure]) for measure in ("language", "problem", "problem_raw")]
    rows.append(["Haar, 5 to 95 %", *haar])
    rows.append(["chance", results["chance"]["language"], "in brackets: shuffled problems", "in brackets"])
    return page.prose(f"""
        ## 4 Language and problem inside and outside Z

        Leave-one-problem-out, primary configuration. *Language*: share of activations nearest to their own language's centroid.
        *Problem*: share whose nearest neighbour in the other language is the same problem, after removing language means (and
        without); in brackets the same with problems shuffled, its chance level.

        {page.table(["space", "language", "problem", "problem, means kept"], rows)}
    """)


def rivals_section(results: dict) -> str:
    show, rivals = page.show, results["rivals"]
    rows = [
        [NAMES[name], row["ratio_z"], row["ratio_z_perp"], row["contrast"], row["language"]]
        + [f"{show(row['problem'], 3)} ({show(row['problem_shuffled'], 2)})"]
        + [row["haar"]["p"], row["matched"]["p"], row["pairing"]["p"]]
        for name, row in ((name, rivals[name]) for name in results["rival_order"])
    ]
    headers = ["subspace", "ratio_Z", "ratio_Z⊥", "contrast", "language in Z", "problem in Z (shuffled)"]
    warning = ""
    if rivals["random"]["pairing"]["p"] < verdicts.LEVEL:
        warning = "The random subspace passes the shuffled null too: here that null alone says nothing about Z."
    return page.prose(f"""
        ## 5 Rivals on held-out problems

        Every subspace has k = {rivals["weight"]["k"]} (what {results["problems"]} problems in folds determine) and is scored only
        on problems that it was not fitted on; problems are looked up among those held out together (in brackets: shuffled).

        {page.table([*headers, "p Haar", "p matched", "p shuffled"], rows)}

        {warning}
    """)


def contingency_section(results: dict) -> str:
    if "contingencies" not in results:
        reason = {
            "clear": "the weight-based Z holds",
            "partial": "the weight-based Z holds in some configuration",
            "none": "`--contingencies never` was given",
        }[results["weight_z"]]
        reason = "Z was given by `--z-from`" if "given" in results else reason
        return f"## 6 Contingencies\n\nNot run: {reason}."
    parts = results["contingencies"]
    rows = [
        [NAMES[name], f"L{row['layer']}", row["k"], row["contrast"], row["p"], row["p_holm"], page.HOLDS[row["holds"]]]
        for name, row in parts["candidates"].items()  # in alphabetical order, as the JSON has them
    ]
    ard_rows = [
        [f"L{row['layer']}.out", row["size"], row["overlap"], row["chance"], f"{row['overlap'] / row['chance']:.2f}×"]
        for row in parts["ard"]["layers"]
    ]
    return page.prose(f"""
        ## 6 Contingencies

        Candidates, each scored on problems it was not fitted on; p is the largest of three nulls', Holm over centroid, ARD-MMD
        and all layers that the grid has not tested; the previous layer keeps its p from the grid.

        {page.table(["candidate", "layer", "k", "contrast", "p", "Holm", "holds"], rows)}

        ![Layer sweep](phase2_sweep.png)

        ![Relevances of ARD-MMD](phase2_ard.png)

        ARD-MMD (contrastive; Σ1/ℓ² fixed, so that ℓ → ∞ is no solution): |Z| is the fewest coordinates with
        {parts["ard"]["relevant_share"]:.0%} of the relevance; overlap is the similarity of the k most relevant coordinates to the
        weight-based Z of that size, k/d by chance.

        {page.table(["fitted at", "|Z|", "overlap with the weight-based Z", "chance", "ratio"], ard_rows)}
    """)


def plane_section(plane: dict, layer: int) -> str:
    show = page.show
    return page.prose(f"""
        ## 7 Information plane

        ![Language and problem along depth](phase2_plane.png)

        Site 0 is the token embeddings: what can be read there is read from the tokens themselves (where numerals are written
        alike in both languages, from those), not from reasoning.

        ## 8 Updates inside and outside Z

        ![Updates inside and outside Z](phase2_updates.png)

        ‖P_Z Δh‖ / ‖P_Z⊥ Δh‖ of each layer's update Δh (mean-pooled), beside √(k/(d−k)) = {show(plane["update_chance"], 3)} for an
        update in a random direction: at L{layer} it is {show(plane["update"][layer], 3)}, median over layers
        {show(float(np.median(plane["update"])), 3)}.
    """)


def answers(results: dict, by_k: list[dict]) -> str:
    """The recipe's questions in words, each with its numbers."""
    show, rows = page.show, {row["id"]: row for row in results["claims"]}
    questions = {
        "ratio": "Is ratio_Z < ratio_Z⊥ across most configurations, beyond chance?",
        "energy_cross": "Is less of the language difference inside Z than chance gives?",
        "energy_same": "Is more of the variation between problems inside Z than chance gives?",
        "multi": "Is the multi-head mask at least as good as head 0?",
    }
    lines = []
    for identifier, question in questions.items():
        row = rows[identifier]
        lines.append(f"- {question} {'Yes' if row['holds'] else 'No'}: {row['measured']} ({row['null']}).")
    first, last = by_k[0], by_k[-1]
    best = min(by_k, key=lambda row: row["contrast"])
    verb = "separates" if first["contrast"] < last["contrast"] else "does not separate"
    smaller = f"""k = {first["k"]} {verb} more strongly than k = {last["k"]} (contrast {show(first["contrast"], 3)} against
        {show(last["contrast"], 3)})"""
    significant = [str(row["k"]) for row in by_k if row["contrast"] < 1 and row["p"] < verdicts.LEVEL]
    beats = "No k beats all three nulls."
    if significant:
        beats = f"Taken alone, k = {', '.join(significant)} beats all three nulls at p < {LEVEL}; section 3 has it after Holm."
    lines.append(
        f"- Which k is best? k = {best['k']} has the lowest contrast, {show(best['contrast'], 3)}. {smaller}. {beats}"
    )
    return page.prose("\n".join(lines))


def limitations(results: dict) -> list[str]:
    gains = "." if results["settings"]["fold_norm"] else ", and without RMSNorm gains (as in the recipe)."
    lines = [
        """What the versions of a problem share on the page, such as numerals written alike, counts as the same problem too. The
            value at site 0 in the information plane is that part.""",
        f"""{results["problems"]} problems; distances between them are not independent, so p comes from random subspaces and
            shuffled problems and not from a distribution over problems.""",
        "Separation is correlational: whether the model uses Z is phase 3's question.",
        f"Kernels are taken at relative position 0, without biases{gains}",
    ]
    if not results.get("given", results["z"])["holds"]:
        lines.insert(0, "The Z handed on did not pass its test; later phases show what it does all the same.")
    return [page.prose(line) for line in lines]


def figure_contrast(results: dict) -> bytes:
    with page.figure(9, 4, 1, 2) as (figure, (left, right)):
        contrast_panel(left, primary_rows(results))
        rivals_panel(right, {name: results["rivals"][name] for name in results["rival_order"]})
    return page.png(figure)


def contrast_panel(panel, by_k: list[dict]) -> None:
    places = np.arange(len(by_k))
    for offset, key, label in ((-0.18, "haar", "Haar"), (0.18, "matched", "covariance-matched")):
        low, middle, high = (np.array([row[key][point] for row in by_k]) for point in ("low", "middle", "high"))
        whiskers, label = [middle - low, high - middle], f"{label}: median, 5 and 95 %"
        panel.errorbar(places + offset, middle, whiskers, fmt="_", capsize=5, label=label)
    panel.plot(places, [row["contrast"] for row in by_k], "o", color="tab:red", label="weight-based Z")
    panel.axhline(1, color="black", linestyle=":", linewidth=1)
    panel.set_xticks(places, [f"k = {row['k']}" for row in by_k])
    panel.set(title="contrast ratio_Z / ratio_Z⊥ (lower separates)", ylabel="contrast")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=8, loc="lower right")


def rivals_panel(panel, rivals: dict) -> None:
    panel.bar(range(len(rivals)), [row["contrast"] for row in rivals.values()], color="tab:gray")
    panel.axhline(1, color="black", linestyle=":", linewidth=1)
    panel.set_xticks(range(len(rivals)), list(rivals), rotation=20)
    panel.set(title=f"rivals on held-out problems, k = {rivals['weight']['k']}", ylabel="contrast")
    for key, label, color in (("haar", "Haar: 5 %", "tab:blue"), ("matched", "matched: 5 %", "tab:orange")):
        panel.axhline(rivals["weight"][key]["low"], color=color, linestyle="--", linewidth=1, label=label)
    panel.legend(fontsize=8)


def figure_plane(plane: dict, chance: dict, layer: int) -> bytes:
    sites = np.arange(len(plane["language"]))
    with page.figure(10, 4, 1, 2) as (figure, (left, right)):
        for suffix, label, style in (("", "stream", "-"), ("_in_z", "inside Z", "--")):
            for read, color in (("language", "tab:orange"), ("problem", "tab:blue")):
                left.plot(sites, plane[read + suffix], style, color=color, marker=".", label=f"{read}, {label}")
        left.axhline(chance["language"], color="tab:orange", linestyle=":", linewidth=1, label="chance, language")
        left.plot(sites, plane["problem_shuffled"], ":", color="tab:blue", linewidth=1, label="problem, shuffled")
        left.axvline(layer + 1, color="tab:red", linewidth=1, label=f"L{layer}.out")
        title = "what can be read at each site"
        left.set(title=title, xlabel="site (layers passed)", ylabel="share right", ylim=(0, 1.05))
        left.legend(fontsize=7)
        right.plot(plane["language"], plane["problem"], color="gray", linewidth=1)
        points = right.scatter(plane["language"], plane["problem"], c=sites, cmap="viridis", zorder=3)
        figure.colorbar(points, ax=right, label="site")
        right.set(title="information plane of the stream", xlabel="language", ylabel="problem")
        right.set(xlim=(0, 1.05), ylim=(0, 1.05))
    return page.png(figure)


def figure_updates(plane: dict, layer: int) -> bytes:
    with page.figure(6, 3.5) as (figure, panel):
        panel.plot(plane["update"], marker=".", label="mean over prompts")
        label = "random direction √(k/(d−k))"
        panel.axhline(plane["update_chance"], color="black", linestyle=":", label=label)
        panel.axvline(layer, color="tab:red", linewidth=1, label=f"bottleneck L{layer}")
        title = "size of each layer's update inside Z over outside"
        panel.set(title=title, xlabel="layer", ylabel="‖P_Z Δh‖ / ‖P_Z⊥ Δh‖", ylim=(0, None))
        panel.legend(fontsize=8)
    return page.png(figure)


def figure_ard(layers: list[dict]) -> bytes:
    with page.figure(6, 3.5) as (figure, panel):
        for row in layers:
            spectrum = np.maximum(row["spectrum"], 1e-6)
            label = f"L{row['layer']}.out, |Z| = {row['size']}"
            panel.plot(np.linspace(0, 1, len(spectrum)), spectrum, label=label)
        panel.axhline(1, color="black", linestyle=":", linewidth=1, label="all equal")
        panel.set(title="relevances 1/ℓ², sorted", xlabel="share of dimensions", ylabel="relevance", yscale="log")
        panel.legend(fontsize=7)
    return page.png(figure)


def figure_sweep(sweep: list[dict], layer: int) -> bytes:
    with page.figure(6, 3.5) as (figure, panel):
        panel.plot([row["contrast"] for row in sweep], marker=".", color="tab:red", label="weight-based Z of the layer")
        for key, label in (("haar", "Haar"), ("matched", "covariance-matched")):
            panel.plot([row[key]["low"] for row in sweep], linestyle="--", linewidth=1, label=f"{label}: 5 %")
        panel.axhline(1, color="black", linestyle=":", linewidth=1)
        panel.axvline(layer, color="gray", linewidth=1, label=f"bottleneck L{layer}")
        panel.set(title="every layer's own Z at its output", xlabel="layer", ylabel="contrast ratio_Z / ratio_Z⊥")
        panel.legend(fontsize=7)
    return page.png(figure)
