"""What phase 3b's page says first: the verdict in a sentence, what follows from it, and the numbers that decided."""

import verdicts
from reports import page
from reports.page import decimal, listing, p_value, percent
from reports.phase3b_tables import NAMES, SUBSPACES, TESTS, TWINS, ends, p_of, sent

MAP = "a linear map learned on other answers"
INSIDE = "In {model}, inside Z ({k} of {width} directions of the stream at {place})"
THERE = f"{INSIDE}, {MAP} predicts a problem's {{target}} vector from its {{source}} one"
FITS = "held-out R² {r2}; its own answer's vector is the nearest in {nearest} of problems, by chance {chance}"
VERDICTS = {
    "bridge": f"""{THERE}, and does so better than the source's words, than twins of the model that have not learned it
        and than other subspaces allow: {FITS}; R² of {{numbers}}""",
    "linear_but_unspecific": f"""{THERE} ({FITS}; share of the error that it saves, its gain, {{gain}}){{passed}}, but
        {{failed}}""",
}
NO_MAP = f"""{INSIDE}, {MAP} does not predict a problem's {{target}} vector from its {{source}} one beyond shuffled problems:
    held-out R² {{r2}} ({{ends}}), {{shuffled}}; one that adds {{worth}} to what needs no matrix is
    excluded"""
OPEN_MAP = f"""{INSIDE}, whether {MAP} predicts a problem's {{target}} vector from its {{source}} one is left open: held-out R² {{r2}}
    ({{ends}}), {{shuffled}}; neither is it surely beyond these, nor is one excluded that adds {{worth}} to what needs no matrix"""
NO_MORE = f"""{INSIDE}, {MAP} predicts a problem's {{target}} vector from its {{source}} one (held-out R² {{r2}}), but {{best}} does so
    as well or nearly (R² {{unlearned}}): there is little that such a map would have to learn"""
OPEN_MORE = f"""{INSIDE}, {MAP} predicts a problem's {{target}} vector from its {{source}} one (held-out R² {{r2}}, {{ends}}), but
    whether it adds to {{best}} (R² {{unlearned}}) is left open: it is not surely better, nor is it excluded that it adds {{worth}}"""
OPEN_SPECIAL = f"""{THERE} ({FITS}; share of the error that it saves, its gain, {{gain}}){{passed}}; whether that is
    anything special is left open: {{failed}}"""
UNTESTABLE = {
    "no_rung": "phase 3 found no kind of problem that could be used",
    "few_problems": "too few problems solved in every language: {problems}, needed {least_problems}",
    "few_answers": "too few different answers of the problems solved: {answers}, needed {least_answers}",
    "few_unseen_problems": "too few problems solved whose answers Z was not fitted on: {problems}, needed {least_problems}",
    "few_unseen_answers": "too few different answers that Z was not fitted on: {answers}, needed {least_answers}",
}
MEANS = {
    "bridge": "holds on these problems: the map is a property of what the model has learned, and of Z",
    "linear_but_unspecific": """is not shown: a linear map is there, but {why}, so it is no evidence for Z (*not special*)""",
    "no_bridge": "is not shown: {why}",
    "inconclusive": "is left open: {why}",
    "untestable": "cannot be tested with this model and these problems; nothing follows for it",
}


def verdict_text(results: dict) -> str:
    """One sentence with the numbers that decided, and the verdict's name at its end."""
    return page.prose(f"{sentence(results)} (`{results['verdict']}`).")


def sentence(results: dict) -> str:
    model, settings = results["model"]["name"], results["settings"]
    if results["verdict"] == "untestable":
        return f"In {model}, no map between the languages inside Z could be tested: {reason(results)}"
    name = settings["primary"]
    said = {
        "model": model, "source": results["names"][settings["source"]], "target": results["names"][settings["target"]],
        "k": results["data"]["k"], "width": results["data"]["width"], "place": page.place(settings["z"]["site"]),
        "r2": decimal(results["held_out_r2"][name]), "shuffled": f"shuffled problems {ends(results['null']['shuffled'][name])}",
        "gain": decimal(results["gain"][name]), "nearest": percent(results["retrieval"][name]), "chance": percent(results["chance"]),
    }  # fmt: skip
    low, high = map(decimal, results["interval"][name])
    best = max(("mean_shift", "scaled_shift"), key=lambda other: unlearned(results, other))
    article = {"mean_shift": "a constant shift", "scaled_shift": "a shift with one fitted scale"}[best]
    said |= {"ends": f"{low} to {high}", "worth": decimal(verdicts.bridge.WORTH)}
    said |= {"best": article, "unlearned": decimal(unlearned(results, best))}
    if results["verdict"] == "bridge":
        return VERDICTS["bridge"].format(**said, numbers=beaten(results))
    missing = next((test for test in ("held_out", "beyond_shift") if not results["tests"][test]), None)
    if missing:
        kinds = {"held_out": (NO_MAP, OPEN_MAP), "beyond_shift": (NO_MORE, OPEN_MORE)}
        return kinds[missing][results["verdict"] == "inconclusive"].format(**said)
    passed = also_beaten(results)
    said |= {"passed": f"; {listing(passed)}" if passed else "", "failed": "; ".join(not_beaten(results))}
    return (OPEN_SPECIAL if results["verdict"] == "inconclusive" else VERDICTS["linear_but_unspecific"]).format(**said)


def unlearned(results: dict, name: str) -> float:
    """Held-out R² of what needs no matrix."""
    return results["scaled_shift_r2"] if name == "scaled_shift" else results["held_out_r2"][name]


def reason(results: dict) -> str:
    """Why nothing was measured."""
    needed = {f"least_{what}": count for what, count in results["settings"]["fewest"].items()}
    return page.prose(UNTESTABLE[results["unmeasured"]]).format(**results["data"], **needed)


def beaten(results: dict) -> str:
    """What the map inside Z beats, in numbers."""
    name = results["settings"]["primary"]
    twins = [row["mean"] for row in results["twins"]["kinds"].values()]
    others = [results["subspaces"][kind]["middle"] for kind in SUBSPACES]
    return f"""the source's words {decimal(results["words"]["r2"])}; gain {decimal(results["gain"][name])}, in twins
        {" and ".join(map(decimal, twins))}, in other subspaces {" and ".join(map(decimal, others))} (medians)"""


def also_beaten(results: dict) -> list[str]:
    """What the map inside Z beats although the verdict is no bridge, in words and numbers."""
    found, tests = [], results["tests"]
    if tests["beyond_words"]:
        found.append(f"the source's words predict less (R² {decimal(results['words']['r2'])})")
    if tests["beyond_twins"]:
        found.append(f"the model has learned it ({twins_gains(results, list(results['twins']['kinds']))})")
    if tests["beyond_subspaces"]:
        gains = [f"{decimal(results['subspaces'][kind]['middle'])} in {name}" for kind, name in SUBSPACES.items()]
        found.append(f"other subspaces do worse (gain {listing(gains)})")
    return found


def twins_gains(results: dict, kinds: list[str]) -> str:
    """What twins of these kinds gain, each kind by its name."""
    rows = results["twins"]["kinds"]
    return listing([f"{TWINS[kind]} gain {', '.join(map(decimal, rows[kind]['gains']))}" for kind in kinds])


def not_beaten(results: dict) -> list[str]:
    """What does as well as the map inside Z, and what follows, in words and numbers: a part for each test that failed."""
    found, tests, level = [], results["tests"], results["level"]
    own = results["gain"][results["settings"]["primary"]]
    if not tests["beyond_words"]:
        words, inside = results["words"]["r2"], results["held_out_r2"][results["settings"]["primary"]]
        found.append(f"the source's words {rival(words, inside)} (R² {decimal(words)}): it may be the wording")
    if tests["beyond_twins"] is None:
        found.append(f"""twins of the model could not be made ({results["twins"]["unmeasured"]}): whether the model has learned it is
            not known""")
    elif not tests["beyond_twins"]:
        rows = results["twins"]["kinds"]
        kinds = {TWINS[kind]: row["mean"] for kind, row in rows.items() if row["p"] >= level}
        others = [kind for kind, row in rows.items() if row["p"] < level]
        less = f", though {twins_gains(results, others)}" if others else ""
        found.append(f"{as_good(kinds, own)}{less}: it need not be what the model has learned")
    if not tests["beyond_subspaces"]:
        nulls = {f"{name} of Z's size": results["subspaces"][kind] for kind, name in SUBSPACES.items()}
        kinds = {name: null["middle"] for name, null in nulls.items() if null and null["p"] >= level}
        parts = [as_good(kinds, own)] if kinds else []
        parts += [f"Z leaves no room for {name}" for name, null in nulls.items() if null is None]
        follows = "it is not special to Z" if kinds else "whether it is special to Z is not known"
        found.append(f"{listing(parts)}: {follows}")
    if tests.get("beyond_kinds") is False:
        kinds = results["null"]["kinds"]
        found.append(f"partners of the same kind of problem do as well (R² {ends(kinds)}): it may be the kind alone")
    return found


def rival(value: float, own: float) -> str:
    """How something does that is not surely worse than the map inside Z, by what a page shows of both."""
    if decimal(value) == decimal(own):
        return "do as well"
    return "do better" if value > own else "do not surely do worse"


def as_good(kinds: dict[str, float], own: float) -> str:
    """Those that gain as much, with their gains."""
    gains = ", ".join(map(decimal, kinds.values()))
    return f"{listing(list(kinds))} {rival(min(kinds.values()), own)} (gain {gains} against {decimal(own)})"


def meaning_text(results: dict) -> str:
    """What the verdict means for the recipe."""
    return f"""**The hypothesis tested** (the recipe's: inside Z the languages differ by a linear map, which can be learned from few
        problems and then carries the answer of any other) {MEANS[results["verdict"]].format(why=why(results))}. {carried(results)}"""


def why(results: dict) -> str:
    """What the verdict rests on, in words that follow MEANS; nothing where they need none."""
    tests, verdict, more = results["tests"], results["verdict"], "; more answers would narrow the intervals"
    if verdict in ("bridge", "untestable"):
        return ""
    if verdict == "inconclusive" and not tests["held_out"]:
        return f"these problems neither show such a map nor exclude one worth having{more}"
    if verdict == "inconclusive" and not tests["beyond_shift"]:
        return f"these problems neither show that a map does more than a shift nor exclude it{more}"
    if verdict == "no_bridge":
        nothing = not tests["held_out"] and "held_out" not in results["open_tests"]
        absent = "what one language's vector holds of a problem does not tell the other's (*not there*)"
        return (
            absent
            if nothing
            else "inside Z the languages agree up to a constant or a scale already (*nothing to learn*)"
        )
    places = {"beyond_words": "the source's words", "beyond_twins": "twins of the model"}
    places |= {"beyond_subspaces": "other subspaces", "beyond_kinds": "the kind of problem"}
    same = [name for test, name in places.items() if tests.get(test) is False]
    if verdict == "inconclusive" and same:
        return f"a linear map is there, and that it is better than what {listing(same)} give is neither shown nor excluded{more}"
    missed = "there was nothing to compare it with: twins, or other subspaces as large, could not be made"
    if verdict == "inconclusive":
        return f"a linear map is there, but {missed}"
    return f"it is not shown to be better than what {listing(same)} give" if same else missed


def place_text(results: dict) -> str:
    """Where Z is asked, and whether a transfer could succeed there."""
    if results["unmeasured"]:
        return ""
    move, place = results["transfer"], page.place(results["settings"]["z"]["site"])
    carries = "Nothing could be sent there"
    if move["pairs"]:
        own = f"sending the vector that a perfect map would send brings the answer in {sent(results, 'own_language')}"
        hopeless = transfer_holds(results) is None and move["success"]["own_language"] < verdicts.bridge.REACHED
        ending = ", so that a transfer could hardly succeed at this place, whatever the map" if hopeless else ""
        carries = (
            f"There {own} of {move['pairs']} swaps{ending} (what the whole stream carries there, phase 3's page says)"
        )
    return f"""**Where.** Z is asked at its own place, {place}. {carries}. The tables of phase 3 and of the hunt swap this Z at the
        place that is best for it on development answers, which may be another."""


def transfer_holds(results: dict) -> bool | None:
    return next(row["holds"] for row in results["claims"] if row["id"] == "transfer")


def carried(results: dict) -> str:
    """What the transfer adds."""
    move, name = results["transfer"], results["settings"]["primary"]
    if results["unmeasured"]:
        return ""
    if not move["pairs"]:
        return "No mapped vector could be sent into the model: no two of these problems are a recipient and its donor."
    own, rate = sent(results, "own_language"), sent(results, name)
    holds = transfer_holds(results)
    unmapped = move["success"]["identity"]
    if holds is None and unmapped >= max(move["success"][name], verdicts.bridge.REACHED):
        return f"""Sent into the model, vectors that were not mapped bring the answer as often as mapped ones, in
            {sent(results, "identity")} and {rate} of {move["pairs"]} swaps: there is nothing to learn for a map."""
    if holds is None and verdicts.bridge.too_few(move["pairs"]):
        return f"""Whether mapped vectors carry the answer cannot be told from {move["pairs"]} swaps, in {rate} of which they bring it:
            no difference between so few can show."""
    if holds is None and move["success"]["own_language"] >= verdicts.bridge.REACHED:
        return f"""That mapped vectors carry the answer over more often than unmapped ones and those of a shuffled map is neither
            shown nor excluded: in {rate} of {move["pairs"]} swaps, {sent(results, "identity")} and
            {sent(results, "shuffled")}; the vector that a perfect map would send in {own}."""
    if holds is None:
        return f"""Whether mapped vectors carry the answer cannot be told at this place: the vector that a perfect map would send
            brings it in {own} of {move["pairs"]} swaps (mapped ones in {rate})."""
    if not holds:
        return f"""Sent into the model, mapped vectors surely carry the answer over in fewer than half of {move["pairs"]} swaps, in
            {rate}, and are not shown to do so more often than both unmapped ones ({sent(results, "identity")}) and those of a
            shuffled map ({sent(results, "shuffled")}); the vector that a perfect map would send does in {own}."""
    return f"""Sent into the model, mapped vectors carry the answer over more often than unmapped ones and those of a shuffled
        map: in {rate} of {move["pairs"]} swaps, {sent(results, "identity")} and
        {sent(results, "shuffled")}; the vector that a perfect map would send in {own}."""


def numbers_text(results: dict) -> str:
    """The numbers that decided, a line each, beside what they have to beat."""
    if results["unmeasured"]:
        return ""
    settings, data, name = results["settings"], results["data"], results["settings"]["primary"]
    above, words = results["p_above"][name], results["words"]
    low, high = (decimal(end) for end in results["interval"][name])
    shuffled = results["null"]["shuffled"][name]
    lines = [
        f"""Z: {page.METHODS.get(settings["z"]["method"], settings["z"]["method"])}, {data["k"]} of {data["width"]} directions at
        {page.place(settings["z"]["site"])}, last prompt position; {data["problems"]} problems with {data["answers"]} answers
        (`{settings["rung"]}`), of {data["usable"]} that the model solves in both languages{trained_on(data)}""",
        f"""{NAMES[name]}, named before looking: held-out R² {decimal(results["held_out_r2"][name])} ({low} to {high}); shuffled
        problems {ends(shuffled)}, p {p_of(shuffled)}""",
        f"""Without a matrix: mean shift R² {decimal(results["held_out_r2"]["mean_shift"])} (p {p_value(above["mean_shift"])}), with
        one fitted scale {decimal(results["scaled_shift_r2"])} (p {p_value(above["scaled_shift"])}); gain beyond the best of these
        {decimal(results["gain"][name])}""",
        f"""The source's words, as a bag of embeddings, predict the same target with R² {decimal(words["r2"])}; difference
        {page.span(words["difference"], decimal)}, p {p_value(words["p"])}""",
        *twin_lines(results),
        *[
            f"""The same in {SUBSPACES[kind]}: gain {ends(results["subspaces"][kind])}, p {p_of(results["subspaces"][kind])}"""
            for kind in SUBSPACES
            if results["subspaces"][kind]
        ],
    ]
    if kinds := results["null"]["kinds"]:
        lines.append(f"""Partners of the same kind of problem and another answer: R² {ends(kinds)}, p {p_of(kinds)}
            ({percent(kinds["kept"])} have none)""")
    left_open = [TESTS[test] for test in results["open_tests"]]
    failed = [TESTS[test] for test in results["because"] if test not in results["open_tests"]]
    lines.append(f"Tests failed, {len(failed)} of {len(results['tests'])}: {'; '.join(failed) or 'none'}")
    if left_open:
        lines.append(f"Tests neither passed nor surely failed, {len(left_open)}: {'; '.join(left_open)}")
    items = "\n".join(f"- {' '.join(line.split())}." for line in lines)
    return f"Deciding numbers, with 95 % intervals over answers in brackets, and 5 to 95 % of random draws:\n\n{items}"


def trained_on(data: dict) -> str:
    """Which problems only train the maps, and which are left out."""
    taken = data["problems"] + data["training"]
    further = (
        f"""; {data["training"]} further problems, with the {data["fitted_answers"]} answers that Z was fitted on, only train the
        maps"""
        if data["training"]
        else ""
    )
    left = data["usable"] - taken
    return f"{further}; the other {left} are left out, since at most {taken} are taken" if left > 0 else further


def twin_lines(results: dict) -> list[str]:
    if results["twins"]["unmeasured"]:
        return [f"Twins of the model could not be made: {results['twins']['unmeasured']}"]
    return [
        f"""The same in {TWINS[kind]}: gain {", ".join(map(decimal, row["gains"]))}, p {p_value(row["p"])}"""
        for kind, row in results["twins"]["kinds"].items()
    ]


def command_text(results: dict) -> str:
    """What was run."""
    model, settings = results["model"], results["settings"]
    quantised = model.get("quantisation")
    weights = f"quantised, {quantised}: what runs are the dequantised weights" if quantised else "not quantised"
    return f"""**What was run**, after `phase3_patching.py` with the same model and `--out`: `python phase3b_bridge.py --model
        {model["name"]} --batch {settings["batch"]} --seed {settings["seed"]} --device {settings["device"]} --dtype
        {settings["dtype"]}`. **Weights**: {model["name"]}, {weights}."""
