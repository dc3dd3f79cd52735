"""What the ablation's page says first: the verdict in a sentence, the numbers that decided, what follows, and what was run."""

import verdicts
from reports import page
from reports.ablation_tables import (
    by_role,
    ends,
    lambdas,
    nats,
    null_of,
    null_p,
    paired,
    perplexity,
    points,
    signed,
    times,
)
from reports.page import listing, p_value, percent

EDIT = """{doing} the stream's part along the {directions} (of {width}) in which the languages differ, behind layers {first} to
    {last},"""
BREAKS = """breaks the model rather than its reasoning: answers get worse, and so does plain text{as_much}"""
UNSPECIFIC = """makes answers worse, but no more than random directions do that change the stream as much: this is the size of
    the change, and nothing about language"""
SPECIFIC = """makes answers worse, more than random directions do that change the stream as much, and does not damage
    plain text: the answer needs what is removed{rival}"""
RIVAL = """costs the answer, and so does the same along made-up languages (groups of prompts that mix the real ones), at least as
    much ({rival} against {own} nats): nothing specific to language is shown, beyond random directions as large ({random}); plain
    text is not damaged"""
PAPER = """**The claim tested** (arXiv 2505.15257: a model reasons better once the language is removed from its middle layers)"""
MEANS = {
    "ablation_helps": "holds here {at}",
    "ablation_hurts": "does not hold here {at}: the opposite was measured",
    "no_effect": """does not hold here {at} (*not there*: an effect that changes the odds by a factor of {factor:g} is
        excluded{complete})""",
    "inconclusive": "is neither shown nor excluded {at} (*not shown*: {why})",
    "untestable": "*cannot be tested* with this model and these problems: {why}",
}
NOT_NEEDED = """Everything at the last position there can be replaced by its mean without loss, with Z kept ({z} nats, {before} →
    {after} right) or with Haar-random subspaces of its size kept ({random} nats, {draws} draws): nothing at this place is needed
    there, and nothing follows for Z."""
Z_MEANS = {
    True: "All but Z can go at the last position: the answer stays, as with no Haar-random subspace of Z's size.",
    False: "Without all but Z at the last position the answer is lost{drawn}.",
    None: "Whether the answer stays without all but Z at the last position is neither shown nor excluded.",
}


def edit_text(results: dict, row: dict) -> str:
    """What a row takes out, in words."""
    layers = next(part["layers"] for part in results["thirds"] if part["name"] == row["place"])
    doing = "removing" if row["strength"] == 1 else f"shrinking by {100 * row['strength']:g} %"
    rank = len(results["languages"]) - 1
    directions = "one direction" if rank == 1 else f"{rank} directions"
    width = results["problems"]["width"]
    return EDIT.format(doing=doing, directions=directions, width=width, first=layers[0], last=layers[-1])


def why_untestable(results: dict) -> str:
    """The first reason why nothing can be told."""
    problems, guess = results["problems"], results["guessing"]
    if not results["measured"]:
        if guess["p"] >= verdicts.LEVEL:
            shuffled = f"with answers shuffled up to {percent(guess['high'])}"
            right = f"{percent(guess['accuracy'])} of {prompts_of(results, 'all')} prompts right"
            return f"it answers no better than by guessing ({right}, {shuffled})"
        solved = f"only {problems['solved']} of {problems['test']} test problems"
        return f"{solved} are solved unedited, {results['needed']} are needed"
    return "the odds of the right answer rise, but all answers are right already, so that no more can become right"


def why_inconclusive(results: dict) -> str:
    """What keeps the verdict open."""
    effect, row = results["effects"]["primary"], by_role(results)["primary"]
    if effect["rises"] and not effect["beyond_rise"]:
        return "the odds rise, but random directions that change the stream as much raise them too"
    if effect["rises"] or effect["falls"]:
        return "the odds and the share of right answers move in opposite directions"
    if effect["within"]:
        return "the share of right answers moves, and the odds do not"
    if row["odds"]["low"] > 0 or row["odds"]["high"] < 0:
        return f"""the interval, {nats(row["odds"])} nats, leaves out no effect, but the sign-flip test over problems does not: p
            {p_value(row["odds"]["p"])}"""
    return f"the interval, {nats(row['odds'])} nats, holds both no effect and one of a factor {results['factor']:g}"


def what_happened(results: dict) -> str:
    """The verdict's main clause."""
    effect, verdict = results["effects"]["primary"], results["verdict"]
    if verdict == "ablation_hurts":
        if effect["text"]:
            return BREAKS.format(as_much="" if effect["text_specific"] else ", as much as random directions damage it")
        return beyond_random(results) if effect["beyond_fall"] else UNSPECIFIC
    text = ", and damages plain text" if effect["text"] else ""
    return {
        "ablation_helps": f"makes the model answer better, and more so than any random direction{text}",
        "no_effect": f"""changes the odds of the right answer by less than a factor of {results["factor"]:g}: no effect of that size
            is there{text}""",
        "inconclusive": f"has an effect that is neither shown nor excluded ({why_inconclusive(results)}){text}",
        "untestable": f"cannot show what it does for the answers: {why_untestable(results)}{text}",
    }[verdict]


def rival_row(results: dict) -> dict:
    """The made-up languages at the primary λ."""
    strength = by_role(results)["primary"]["strength"]
    return next(row for row in results["rows"] if row["condition"] == "shuffled" and row["strength"] == strength)


def beyond_random(results: dict) -> str:
    """What hurts more than random directions do: is it the language, or do other directions along which prompts differ?"""
    own, rival = by_role(results)["primary"]["odds"]["value"], rival_row(results)["odds"]["value"]
    if rival > own:
        return SPECIFIC.format(rival=f", and made-up languages less ({signed(rival)} against {signed(own)} nats)")
    random = ends(null_of(results, "primary")["odds"])
    return RIVAL.format(rival=signed(rival), own=signed(own), random=random)


def verdict_text(results: dict) -> str:
    """One sentence with the numbers that decided, then what λ = 1 does."""
    model = results["model"]["name"]
    if not results["measured"]:
        return page.prose(f"""In {model}, no edit can be judged: {why_untestable(results)} on the kind of problem that suits it best,
            {results["rung"]} (`untestable`).""")
    rows = by_role(results)
    row, null = rows["primary"], null_of(results, "primary")
    return page.prose(f"""In {model}, {edit_text(results, row)} {what_happened(results)}. Log-odds of the right answer
        {nats(row["odds"])} nats, random directions {ends(null["odds"])}; right answers {percent(results["none"]["accuracy"])} →
        {percent(row["accuracy"])} of {prompts_of(results)} prompts; perplexity of plain text
        {times(row["text"]["value"])} (`{results["verdict"]}`).
        {complete_text(results)}""")


def complete_text(results: dict) -> str:
    """What λ = 1 does, beside its null."""
    row, effect, null = by_role(results)["complete"], results["effects"]["complete"], null_of(results, "complete")
    made = next(one for one in results["rows"] if one["condition"] == "shuffled" and one["strength"] == 1)
    own, rival = row["odds"]["value"], made["odds"]["value"]
    says, beside = "changes the odds of the right answer by an amount whose sign is not sure", ""
    if effect["falls"]:
        says, beside = "lowers the odds of the right answer", beyond_draws(null, effect["beyond_fall"], "further")
    elif effect["rises"]:
        says, beside = "raises the odds of the right answer", beyond_draws(null, effect["beyond_rise"], "further")
    beside = f", {beside}" if beside else ""
    made_up = f"lower them more ({signed(rival)})" if rival < min(own, 0) else f"change them by {signed(rival)}"
    text = f"damages plain text, {beyond_draws(null, effect['text_specific'], 'more')}"
    text = text if effect["text"] else "does not damage plain text"
    return f"""Taking *all* of it out (λ = 1) {says}{beside}: {signed(own)} nats (random {ends(null["odds"])}); made-up languages
        {made_up}. It {text}: perplexity {times(row["text"]["value"])} (random {ends(null["text"], times)}); right
        {percent(row["accuracy"])}."""


def beyond_draws(null: dict, beyond: bool, how: str) -> str:
    """How an edit does beside random draws: `how` is the way in which it goes beyond them; said of few draws as what they are."""
    draws = null["odds"]["draws"]
    if not beyond:
        return f"no {how} than random directions as large do"
    if 1 / (1 + draws) >= verdicts.LEVEL:
        return f"{how} than each of {draws} random draws as large, which are too few to tell"
    return f"{how} than random directions as large do"


def numbers_text(results: dict) -> str:
    """The numbers that decided, a line each."""
    if not results["measured"]:
        return page.prose(asked_line(results))
    lines = [asked_line(results), primary_line(results), text_line(results), thirds_line(results), mean_line(results)]
    lines += [kept_line(results), z_line(results), free_line(results), zero_line(results)]
    items = "\n".join(f"- {line}" for line in lines)
    return page.prose(f"""
        Deciding numbers, with 95 % intervals over problems. *Log-odds*: of the right answer, in whichever language, against all
        others of the answer set, in nats; ×2 in odds is 0.69. *Random directions*: M_s turned by a random rotation, at every place
        a change as long as its own; 5 to 95 % of draws:

        {items}
    """)


def asked_line(results: dict) -> str:
    problems, guess = results["problems"], results["guessing"]
    both = "no more can become right" if not results["can_rise"] else "with room on both sides"
    both = "too few are right to be lost" if not results["can_fall"] else both
    others = f"; M_s and λ come from {problems['development']} others with other answers" if results["measured"] else ""
    return f"""Asked: {results["rung"]}, {problems["test"]} test problems with {problems["test_answers"]} answers, in
        {listing(results["languages"])}{others}. Unedited {percent(results["none"]["accuracy"])} of the {prompts_of(results)} test
        prompts are right ({both}); of the {prompts_of(results, "all")} prompts of both halves {percent(guess["accuracy"])}, with
        answers shuffled {ends(guess, percent)}."""


def primary_line(results: dict) -> str:
    row, null = by_role(results)["primary"], null_of(results, "primary")
    return f"""Primary, named before looking: M_s out of the middle third, whole prompt, λ {lambdas(row)} (chosen on the development
        half): {nats(row["odds"])} nats, p {p_value(row["odds"]["p"])} (sign flips over problems); random directions
        {ends(null["odds"])}, p {null_p(null)}; right
        {paired(row)} points of {prompts_of(results)} prompts, exact p {p_value(row["p"])} over {results["problems"]["test"]}
        problems ({row["gained"]} gained right answers, {row["lost"]} lost some)."""


def prompts_of(results: dict, half: str = "test") -> int:
    """Problems of a half, or all of them, each asked in every language."""
    halves = ("development", "test") if half == "all" else (half,)
    return sum(results["problems"][name] for name in halves) * len(results["languages"])


def text_line(results: dict) -> str:
    row, null = by_role(results)["primary"], null_of(results, "primary")
    return f"""Plain text: the questions' own perplexity {perplexity(row["text"])}; random directions {ends(null["text"], times)}.
        From ×{results["damage"]:g} on, where the interval lies above 1, it counts as damaged."""


def thirds_line(results: dict) -> str:
    rows = [
        row for row in results["rows"]
        if row["condition"] == "language" and row["scope"] == "prefill" and row["strength"] == 1
    ]  # fmt: skip
    order = [part["name"] for part in results["thirds"]]
    parts = [
        f"{row['place']} {nats(row['odds'])} (text {times(row['text']['value'])})"
        for row in sorted(rows, key=lambda row: order.index(row["place"]))
    ]
    return f"By thirds of the layers, λ 1: {'; '.join(parts)}."


def mean_line(results: dict) -> str:
    rows = {row["condition"]: row for row in results["rows"] if row["strength"] == 1 and row["condition"] != "language"}
    both, own, made, weak = *(rows[name] for name in ("language_mean", "own_mean", "shuffled")), rival_row(results)
    return f"""Not removed but set to a mean: the languages' {nats(both["odds"])}, its own language's {nats(own["odds"])}. A rival,
        the subspace of made-up languages (groups of prompts): λ {lambdas(weak)} {nats(weak["odds"])}, λ 1 {nats(made["odds"])}."""


def kept_line(results: dict) -> str:
    rows = by_role(results)
    parts = [f"{percent(results['none']['kept'])} unedited"]
    for role, text in (("primary", "with the primary edit"), ("complete", "λ 1"), ("reinjected", "re-injected")):
        parts.append(f"{percent(rows[role]['kept'])} {text}")
    return f"In the language asked: {listing(parts)}."


def z_line(results: dict) -> str:
    rows, null = by_role(results), null_of(results, "z_perp")
    z = results["settings"]["z"]
    return f"""All but Z removed at Z's place ({page.place(z["site"])}, k {z["k"]}), whole
        prompt: {nats(rows["z_perp"]["odds"])}, right {percent(rows["z_perp"]["accuracy"])}, plain text
        {times(rows["z_perp"]["text"]["value"])}; all but Haar-random subspaces {ends(null["odds"])}; at the last position only
        {nats(rows["z_perp_last"]["odds"])}, right {percent(rows["z_perp_last"]["accuracy"])}; set to its language's mean there
        instead (judged) {nats(rows["z_perp_mean"]["odds"])}, right {percent(rows["z_perp_mean"]["accuracy"])}."""


def free_line(results: dict) -> str:
    free = results["free"]
    change = free["primary"]["accuracy"] - free["none"]["accuracy"]
    return f"""Free answers to {free["problems"]} of them, the primary edit on every token: right
        {percent(free["none"]["accuracy"])} → {percent(free["primary"]["accuracy"])} of {free["problems"] * len(results["languages"])}
        ({points(change)} points)."""


def zero_line(results: dict) -> str:
    largest = by_role(results)["nothing"]["largest"]
    same = "the same to the last bit" if largest == 0 else f"off by up to {largest:g}, **which must not be**"
    return f"Check: λ = 0 runs through the same edits; its scores are {same} as without any."


def claim_text(results: dict) -> str:
    """What follows for the paper's claim and for ours about Z."""
    why = why_inconclusive(results) if results["verdict"] == "inconclusive" else ""
    why = why_untestable(results) if results["verdict"] == "untestable" else why
    at, complete = (strength_text(results), complete_range(results)) if results["measured"] else ("", "")
    means = MEANS[results["verdict"]].format(factor=results["factor"], why=why, at=at, complete=complete)
    text = f"{PAPER} {means}."
    if not results["measured"]:
        return f"""{text} To try: a larger or another model (`--model`), easier problems (`--problems`), more exemplars
            (`--exemplars`)."""
    return f"{text} **For the recipe**: {recipe_text(results)} {removed_text(results)}"


def strength_text(results: dict) -> str:
    """The strength that the verdict is about, and whether a smaller one was not tried."""
    row, tried = by_role(results)["primary"], [one["strength"] for one in results["development"] if one["strength"]]
    smallest = " (the smallest tried)" if row["strength"] == min(tried) else ""
    return f"at λ {lambdas(row)}, the strength chosen{smallest}"


def complete_range(results: dict) -> str:
    """Whether at complete removal, too, an effect is excluded that it is at the strength chosen."""
    row, effect = by_role(results)["complete"], results["effects"]["complete"]
    if "primary" in row["roles"]:
        return ""
    return f"; at λ 1 it is {'too' if effect['within'] else 'not'}: {nats(row['odds'])} nats"


def not_needed(results: dict) -> bool:
    """Whether Z keeps the answer where random subspaces keep it too, so that the place tests nothing."""
    effect = results["effects"]["z_perp_mean"]
    return effect["intact"] and not effect["random_lose"]


def recipe_text(results: dict) -> str:
    """Whether Z alone keeps the answer, where something at its place is needed at all."""
    row, none, null = by_role(results)["z_perp_mean"], results["none"], null_of(results, "z_perp_mean")
    holds = next(claim["holds"] for claim in results["claims"] if claim["id"] == "z_perp")
    effect = results["effects"]["z_perp_mean"]
    if holds is None and not_needed(results):
        before, after = percent(none["accuracy"]), percent(row["accuracy"])
        random, draws = ends(null["odds"]), null["odds"]["draws"]
        return NOT_NEEDED.format(z=nats(row["odds"]), before=before, after=after, random=random, draws=draws)
    drawn = "" if effect["beyond_rise"] else ", as with Haar-random subspaces of Z's size"
    said = Z_MEANS[holds].format(drawn=drawn)
    if holds is None and effect["intact"] and not effect["beyond_rise"]:
        said = """All but Z can go at the last position, but so can all but Haar-random subspaces of its size: nothing about that is
            special to Z."""
    return f"{said} {mean_text(results)}"


def removed_text(results: dict) -> str:
    """What removing all but Z from the whole prompt does, which is not judged, and why."""
    row, damaged = by_role(results)["z_perp"], results["effects"]["z_perp"]["text"]
    far = f" (plain text's perplexity {times(row['text']['value'])})" if damaged else ""
    return f"""Removed from the whole prompt: {nats(row["odds"])} nats. That is not judged: it takes the stream where it never
        is{far}, so that what is lost says little of what Z holds."""


def mean_text(results: dict) -> str:
    """Whether the answer stays where the rest is set to its mean, which takes the stream less far from what it ever is."""
    row, none, effect = by_role(results)["z_perp_mean"], results["none"], results["effects"]["z_perp_mean"]
    null, says = null_of(results, "z_perp_mean"), "no more is kept than with Haar-random subspaces of Z's size"
    if effect["beyond_rise"]:
        kept = "so Z alone carries the answer there"
        says = kept if effect["intact"] else "Z keeps more of the answer than these, and not all of it"
        says += "; these are not matched to how much of the stream's variance Z holds"
    return f"""Set to its language's mean: {nats(row["odds"])} nats (Haar-random subspaces
        of its size {ends(null["odds"])}, p that one keeps as much {null_p(null)}), {percent(none["accuracy"])} →
        {percent(row["accuracy"])} right; {says}."""


def run_text(results: dict) -> list[str]:
    """The command that measured this, and what the weights are."""
    model, settings = results["model"], results["settings"]
    kept = {"languages": "--languages", "limit": "--limit", "batch": "--batch", "seed": "--seed"}
    kept |= {"device": "--device", "dtype": "--dtype"}
    command = ["python ablation.py --model", model["name"]]
    command += [f"--revision {model['revision']}"] if model.get("revision") else []
    for key, flag in kept.items():
        value = settings.get(key)
        if value is not None:
            command.append(f"{flag} {' '.join(value) if isinstance(value, list) else value}")
    if len(settings["ladder"]) == 1:
        command += ["--problems", *(name for name, _ in settings["problems"])]
    kind = model.get("quantisation")
    kind = f"quantised, {kind}: what runs are the dequantised weights" if kind else "not quantised"
    text = f"""**What was run**, after `phase2_z_extraction.py` with the same model and `--out`; files by name, without their
        folders. **Weights**: {model["name"]}, {model.get("revision") or f"hash {model.get('weights_hash', '–')}"}; {kind}; run as
        {settings.get("dtype", "–")} on {settings.get("device", "–")}."""
    return [page.prose(text), f"```\n{' '.join(command)}\n```"]
