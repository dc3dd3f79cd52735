"""What phase 2's page shows beside the verdict: rivals, contingencies, depth and channels. None of it decides on the primary Z."""

from reports.page import decimal, listing, percent, place
from reports.phase2_figures import drawn_spaces
from reports.phase2_tables import (
    POOLINGS,
    READERS,
    SHOWN_LAYERS,
    SPACES,
    SUBSPACES,
    WHAT,
    ard_table,
    candidates_table,
    channels_table,
    depth_table,
    draws_text,
    passing,
    rivals_table,
    sweep_table,
)


def rivals_section(results: dict) -> str:
    order, rivals = results["rival_order"], results["rivals"]
    k = rivals[order[0]]["k"]
    return f"""
        ## 6 Rivals on held-out problems

        All of one size, k {k}, which the problems of a fit can determine, at {place(rivals[order[0]]["site"])}, {POOLINGS["mean"]};
        what is fitted is fitted anew for every fold on the others, and different problems are those of one fold, so that Z's own
        numbers differ a little from section 2's.

        {what_list(order)}

        {rivals_table(rivals, order)}

        {draws_text(rivals[order[0]])} draws; p is the largest of all nulls', the shuffled problems' among them, and no Holm's.
    """


def what_list(names: list[str]) -> str:
    return "\n".join(f"- {SUBSPACES[name]}: {' '.join(WHAT[name].split())}." for name in names)


def contingencies_section(results: dict) -> str:
    found = results.get("contingencies")
    if not found:
        count, of = passing(results["grid"]), len(results["grid"])
        why = f"they run where no configuration separates, and {count} of {of} do"
        why = "the Z of --z-from is scored and nothing is fitted" if "given" in results else why
        why = "--contingencies never" if results["settings"]["contingencies"] == "never" else why
        return f"""
            ## 7 Contingencies

            Not run: {why}.
        """
    names = [name for name in SUBSPACES if name in found["candidates"] and name not in results["rival_order"]]
    passed = listing(
        [SUBSPACES[name] for name in SUBSPACES if found["candidates"].get(name, {}).get("holds")] or ["none"]
    )
    below = sum(row["centred"]["contrast"] < 1 for row in found["sweep"])
    return f"""
        ## 7 Contingencies

        The recipe's ways out, (a) and (c) as in section 6, and:

        {what_list(names)}

        Fitted at the last position, where phase 3 patches, and scored on problems that they were not fitted on; *holds* as in the
        grid, with the offset and without it, after Holm over all contingencies and layers (the previous layer's: over the grid).
        Holding: {passed}.

        {candidates_table(found["candidates"])}

        As in the recipe, fitted on means over tokens:

        {candidates_table(found["as_recipe"])}

        Of every layer's Z, {below} of {len(found["sweep"])} have a contrast below 1 without the offset; the
        {min(SHOWN_LAYERS, len(found["sweep"]))} lowest (p before Holm; more draws where there is hope):

        {sweep_table(found["sweep"])}

        ![Zs of other layers, and ARD-MMD along depth](phase2_layers.png)

        *Left: the Z of every layer without the offset, beside its nulls. Right: how much of Z the most relevant coordinates of
        ARD-MMD hold, beside chance.*

        {ard_table(found["ard"])}
    """


def depth_section(results: dict) -> str:
    flagged = [
        f"{READERS[reader]} ({listing([name for space, name in SPACES.items() if spaces[space]])})"
        for reader, spaces in results["depth_ceiling"].items()
        if any(spaces.values())
    ]
    flat = f"At its ceiling at every place, so uninformative and not drawn: {listing(flagged)}." if flagged else ""
    silent = any(value is None for value in results["depth"]["answer"]["all"])
    answers = (
        """No answer recurs among these problems, so that none can be decoded across languages, and no selectivity is
        known."""
        if silent
        else """Answer: nearest mean of the other language's answers; its chance is what control tasks reach, with
        answers dealt out anew, so that the lead over it is the selectivity (Hewitt & Liang 2019)."""
    )
    drawn = listing([READERS[reader] for reader in READERS if drawn_spaces(results, reader)] or ["no reader"])
    return f"""
        ## 8 Depth

        Read in {POOLINGS[results["primary"]["pooling"]]} at every place by nearest neighbours and means in another language, so that
        nothing is trained. Problem: whether a problem's nearest neighbour in another language is its own version; chance:
        {results["shuffles"]} shuffled orders. {answers} Language: nearest language mean, chance
        {percent(results["chance"]["language"])}. No intervals. {flat}

        ![What can be read along depth](phase2_depth.png)

        *Drawn: {drawn}; the effective rank of the activations; linear CKA of the languages beside shuffled problems; of
        {results["problems"]} problems.*

        At Z's place, {place(results["primary"]["site"])}:

        {depth_table(results, results["primary"]["site"])}

        {cka_text(results["depth"]["cka"], results["primary"]["site"])}
    """


def cka_text(cka: dict, site: int) -> str:
    value, low, high = (decimal(cka[key][site]) for key in ("value", "low", "high"))
    return f"Linear CKA of the languages there, whole stream: {value}; shuffled problems {low} to {high} (5 to 95 %)."


def channels_section(results: dict) -> str:
    found = results["channels"]
    band = found["haar"]
    return f"""
        ## 9 Channels

        Of what attention and the FFN of a layer add to the stream, Δ, the share of its length that lies inside Z, |P_Z Δ|/|Δ|, mean
        over prompts. By chance √(k/d) = {percent(found["chance"])}; of {results["read_draws"]} Haar subspaces for each layer and part
        5 to 95 % lie between {percent(band["low"])} and {percent(band["high"])}, so that about a tenth of layers leaves that band by
        chance.

        ![What attention and FFN add inside Z](phase2_channels.png)

        *Share of attention's and the FFN's addition that lies inside Z, by layer; orange: random subspaces.*

        {channels_table(found)}
    """
