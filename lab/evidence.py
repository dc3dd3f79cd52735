"""What the hunt takes from each script's results: the numbers and names that its verdict, its claims and its page rest on."""

REASONING = "reasoning"  # folder of the second kind of problem
TASKS = {"math": "", "reasoning": f"{REASONING}/"}
CANDIDATES = (
    "centroid",
    "previous_layer",
    "sweep",
    "ard_mmd",
)  # contingencies in the recipe's order: all that hold are swapped
# in the order that a finding is named by
TESTED = ("weights", "weights_at_carrier", "best_layer", "handed", *CANDIDATES, "answer_means", "learned")
AT_CARRIER = (
    "weights_at_carrier",
    "weights",
)  # the predicted layer's Z, where the stream carries most, or at its own place
OF_WEIGHTS = ("weight", "weight_head0", "previous_layer", "sweep")  # methods that fit nothing on activations
REMOVALS = (
    "primary",
    "complete",
    "reinjected",
    "z_perp",
    "z_perp_mean",
)  # rows of the ablation, by the role that they play
PROFILE = ("coverage", "leak", "complement_transfer", "complement_language")
SHOWN = (*"method layer site k place d iia_cross full_iia_cross nulls p p_holm".split(), *PROFILE)
SHOWN += tuple("drawn gates within_share full_iia_same judged tests failed open_tests".split())
RIVALS = ("pca", "z")  # swapped for the same few donors, beside the Z that decided
DRAWN = ("haar", "matched", "missing", "pairing")  # nulls of a contrast, as far as a row has them
# of the curve along depth: shares of what the full swap moves at most, and how often the donor's answer wins in the other language
ARRIVES = ("site", "t_same_share", "g_share", "donor_recipient")
# in place of a phase 3 that was left out
UNPATCHED = {"verdict": "untestable", "decided_by": None, "pairs": 0, "rung": None, "tested": {}, "tests": {}}
UNPATCHED |= {"carriers": {"answer": [], "language": [], "joint": []}, "languages": []}


def gather(parts: dict, layers: int, left_out: dict | None = None) -> dict:
    """All of it, from {key of a step: its results}; the model has `layers` layers.

    What was left out (step -> name of the reason) has no numbers: None, or no entry among the tasks.
    """
    one, two, phase2 = (parts[key] for key in ("one", "two", "phase2"))
    left_out, phase3 = left_out or {}, parts.get("phase3", UNPATCHED)
    weights = phase3["tested"].get("weights", {})
    tasks = {key: folder for key, folder in TASKS.items() if f"{folder}phase2" in parts}
    return {
        "left_out": left_out,
        "width": phase2["width"],
        "path": path(parts, left_out),
        "weight_based": {
            "separates": phase2["verdict"],
            "beyond_text": phase2["beyond_text"],
            "causal": weights.get("verdict", "untestable"),
            **{key: weights.get(key) for key in ("place", "site")},
        },
        "layers": predicted(one, layers) | {"causal": next(iter(named(phase3, "best_layer")), None)},
        "arrival": arrival(phase3),
        "without_offset": without_offset(phase2),
        "text": beyond_text(phase2["text"]),
        "phases": one["phases"],
        "ffn_over_chance": two["ffn_alignment_over_chance"][two["settings"]["layer"]],
        "rivals": compared(phase2),
        "plane": plane(phase2),
        "tasks": {task: task_row(parts, folder, left_out) for task, folder in tasks.items()},
        "reports": {key: part["verdict"] for key, part in parts.items()},
        "ablation": ablation(parts["ablation"]) if "ablation" in parts else None,
        "bridge": {
            task: bridge(parts[f"{folder}phase3b"]) for task, folder in tasks.items() if f"{folder}phase3b" in parts
        },
    }


def predicted(one: dict, layers: int) -> dict:
    """Where the weights point: the lowest of all layers, and the lowest inner one, which the later phases use."""
    found = one["bottleneck"]
    return {
        "layers": layers,
        "predicted": found["layer"],
        "window": found["window"],
        "lowest": found["lowest"]["layer"],
        "relative_depth": found["layer"] / max(1, layers - 1),
        "effective_rank": found["mean"],
        "predicted_verdict": one["verdict"],
        **select(found, ("support", "support_groups")),
    }


def arrival(phase3: dict) -> dict | None:
    """How much swapping the whole stream moves along depth, and where it carries answer and language; None unpatched."""
    if not phase3["rung"]:
        return None
    curve = [select(row, ARRIVES) for row in phase3["curve"]]
    return {"curve": curve, "carriers": phase3["carriers"], "languages": phase3["languages"]}


def without_offset(phase2: dict) -> dict:
    """The primary Z's contrast with the language means removed, beside its nulls."""
    primary = phase2["primary"]
    found = select(primary["centred"], ("contrast", "low", "high", "p")) | drawn(primary["centred"])
    return found | measured_as(primary) | {"matched_share": primary["centred"].get("matched_share")}


def drawn(row: dict) -> dict:
    """The nulls of a contrast, of which its p is the largest."""
    return {name: row[name] for name in DRAWN if name in row}


def measured_as(row: dict) -> dict:
    """Size and pooling that a contrast is of: neither of two such is to be taken for the other."""
    return {key: row.get(key) for key in ("k", "pooling")}


def rival(row: dict) -> dict:
    """A subspace's contrast with the offset, and without it, with its interval."""
    centred = select(row["centred"], ("contrast", "low", "high"))
    return {"contrast": row["contrast"], "centred": centred, **measured_as(row)}


def beyond_text(text: dict) -> dict:
    """How often a text lies nearer to its translation than to its foil's inside Z, beside random subspaces and baselines."""
    if text["unmeasured"]:
        return {"unmeasured": text["unmeasured"]}
    differences = {name: row["difference"] for name, row in text["baselines"].items()}
    return {"unmeasured": None, **select(text, ("z", "haar", "comparisons")), "ahead_of": differences}


def plane(phase2: dict) -> dict:
    """What can be read inside Z: the language at the first site and at Z's, the problem there, and chance."""
    depth, site = phase2["depth"], phase2["z"]["site"]
    return {
        "language_first": depth["language"]["z"][0],
        "language": depth["language"]["z"][site],
        "language_chance": phase2["chance"]["language"],
        "problem": depth["problem"]["z"][site],
        "problem_shuffled": depth["problem_shuffled"]["z"][site],
    }


def tested_rows(phase3: dict) -> list[dict]:
    """Every Z that phase 3 tested, in the order of TESTED, and what told where it is; None where nothing was measured."""
    rows, shared = [], select(phase3, ("rung", "pairs"))
    for name in TESTED:
        if row := phase3["tested"].get(name):
            shown = {key: row.get(key) for key in SHOWN} | {"verdict": row.get("verdict", "untestable")}
            shown["rivals"] = rivals(phase3.get("beside"), name, row)
            shown["judged_answers"] = judged_answers(phase3.get("recipients", ()), row)
            rows.append({"name": name, "found_by": found_by(row, phase3["tested"]["weights"]), **shared, **shown})
    return rows


def judged_answers(recipients: list[dict], row: dict) -> int | None:
    """How many different answers the problems have on which a Z is judged; None where that cannot be told."""
    judged = [one["answer"] for one in recipients if row.get("judged_on") in ("all", one["half"])]
    return len(set(judged)) if judged and len(judged) == row.get("judged") else None


def rivals(beside: dict | None, name: str, row: dict) -> dict:
    """What else of a Z's size was swapped at its place, and the Z itself for the same donors; nothing where it was not."""
    if not beside or (beside["of"], beside["site"]) != (name, row.get("site")):
        return {}
    found = {key: beside["rivals"][key] for key in RIVALS if key in beside["rivals"]}
    return {key: {"coverage": rival["coverage"]} for key, rival in found.items() if rival["k"] == row["k"]}


def named(phase3: dict, name: str | None) -> list[dict]:
    """The row of a Z that phase 3 tested, in a list; none where it tested none of that name."""
    return [row for row in tested_rows(phase3) if row["name"] == name]


def found_by(row: dict, predicted: dict) -> str:
    """weights | weights, another place | weights, another layer | activations: what told where this Z is.

    `predicted` is the weight-based Z of the predicted layer at its own place.
    """
    if row["method"] not in OF_WEIGHTS:
        return "activations"
    if row["layer"] != predicted["layer"]:
        return "weights, another layer"
    return "weights" if row.get("site") in (None, predicted["site"]) else "weights, another place"


def untested(phase3: dict) -> str | None:
    """Why phase 3 can say nothing of any Z; None where it can."""
    if not phase3["rung"]:
        return "no_rung"
    return None if phase3["carriers"]["joint"] else "no_joint_carrier"


def path(parts: dict, left_out: dict) -> list[dict]:
    """The nodes of the recipe's tree that this hunt came by, with what was measured there; verdicts/ says which way."""
    phase0, phase2 = parts["phase0"], parts["phase2"]
    keys = ("verdict", "right", "n", "mcnemar_p", "no_room", "one_problem_away")
    behaviour = {"node": "behaviour", "languages": phase0["settings"]["languages"], **select(phase0, keys)}
    behaviour |= {who: phase0["names"][language] for who, language in phase0["compared"].items()}
    separation = {"node": "separation", **select(phase2, ("verdict", "beyond_text"))}
    separation["with_offset"] = {row["id"]: row["holds"] for row in phase2["claims"]}["primary"]
    separation |= select(phase2["tests"], ("centred", "primary_k")) | drawn(phase2["primary"])
    separation |= select(phase2["primary"], ("ratio_z", "ratio_z_perp", "p"))
    nodes = [behaviour, separation]
    if found := candidates(phase2):
        nodes.append({"node": "contingencies", "candidates": found})
    return [*nodes, patching(parts, left_out), {"node": "end"}]


def candidates(phase2: dict) -> list[dict]:
    """Phase 2's contingencies in the recipe's order; none where it needed none."""
    found = phase2.get("contingencies", {}).get("candidates", {})
    keys = ("layer", "k", "contrast", "p_holm", "holds")
    rows = [(name, found[name]) for name in CANDIDATES if name in found]
    return [
        {"z": name, **select(row, keys), **drawn(row), **measured_as(row), "centred": row["centred"]["contrast"]}
        for name, row in rows
    ]


def patching(parts: dict, left_out: dict) -> dict:
    """What phase 3 found of the Z that decided there.

    A Z that was learned for its effect may have decided; verdicts/ puts the best of the recipe's kind in its place, unless
    that one alone is causal.
    """
    z, phase3 = parts["phase2"]["z"], parts.get("phase3", UNPATCHED)
    row = next(iter(named(phase3, phase3["decided_by"])), None)
    node = {"node": "patching", "z": z["method"], **select(z, ("layer", "holds", "beyond_text")), "row": row}
    return node | select(phase3, ("tests", "verdict", "rung", "pairs")) | reason(phase3, left_out.get("phase3"))


def reason(phase3: dict, left_out: str | None) -> dict:
    """{"untested": the name of the reason} where phase 3 was left out or says nothing."""
    why = left_out or untested(phase3) or ("nothing_judged" if phase3["verdict"] == "untestable" else None)
    return {"untested": why} if why else {}


def task_row(parts: dict, prefix: str, left_out: dict) -> dict:
    """What one kind of problem says about the same Z."""
    phase2, phase3 = parts[f"{prefix}phase2"], parts.get(f"{prefix}phase3", UNPATCHED)
    held_out = phase2.get("contingencies", {}).get("candidates", {}).get(phase2["z"]["method"])
    scored = phase2.get("given") or held_out or of_grid(phase2) or phase2["primary"]
    row = {"problems": phase2["problems"], **select(scored, ("contrast", "p")), "centred": rival(scored)["centred"]}
    row |= {
        "rivals": compared(phase2),
        "primary": {"centred": rival(phase2["primary"])["centred"], **measured_as(phase2["primary"])},
    }
    row |= drawn(scored) | measured_as(scored)
    row |= {"patching": phase3["verdict"], "tested": tested_rows(phase3), **select(phase3, ("rung", "pairs"))}
    return row | reason(phase3, left_out.get(f"{prefix}phase3"))


def of_grid(phase2: dict) -> dict | None:
    """The configuration that phase 2 hands on in place of the primary one; None where it hands on another Z."""
    z, masks = phase2["z"], {"weight": "multi", "weight_head0": "head0"}
    wanted = {
        "mask": masks.get(z["method"]),
        "mask_layer": z["layer"],
        "site": z["site"],
        "k": z["k"],
        "pooling": z.get("position"),
    }
    return next((row for row in phase2.get("grid", []) if wanted.items() <= row.items()), None)


def compared(phase2: dict) -> dict:
    """The weights' Z beside the centroids' and one random subspace, on problems that none was fitted on."""
    return {name: rival(phase2["rivals"][name]) for name in ("weight", "centroid", "random")}


def ablation(found: dict) -> dict:
    """The removals that the ablation's claims are about, each beside its null; no rows where nothing could be removed."""
    keys = ("condition", "scope", "strength", "reinjection", "place", "odds", "text", "accuracy", "kept")
    by_role = {role: row for row in found["rows"] for role in row["roles"]}
    nulls = {null["role"]: select(null, ("odds", "p_fall")) for null in found["nulls"]}
    rows = [
        {"role": role, **select(by_role[role], keys), "null": nulls.get(role)} for role in REMOVALS if role in by_role
    ]
    return {"verdict": found["verdict"], "rung": found["rung"], "none": found["none"], "rows": rows}


def bridge(phase3b: dict) -> dict:
    """What phase 3b's primary map predicts, and what its vectors carry over."""
    name, transfer = phase3b["settings"]["primary"], phase3b["transfer"]
    return {
        "verdict": phase3b["verdict"],
        "map": name,
        "held_out_r2": select(phase3b["held_out_r2"], (name, "mean_shift")),
        "pairs": transfer["pairs"],
        "success": select(transfer["success"], (name, "identity", "shuffled", "own_language")),
        "interval": {
            name: transfer.get("interval", {}).get(name, (0.0, 1.0))
        },  # where nothing was measured there is none
        "p_against": {control: ps[name] for control, ps in transfer["p_against"].items()},
    }


def row_of(result: dict, folder: str) -> dict:
    """One model of a comparison, from its hunt's results; `dissociates`: what became of its claim that a Z is causal.

    `nearest`: the Z nearest to the hypothesis; where none is more than its nulls, that which moves most of the answer.
    """
    z, carriers = result["z"], (result["arrival"] or UNPATCHED)["carriers"]
    keys = (
        "name",
        "method",
        "site",
        "k",
        "verdict",
        "coverage",
        "leak",
        "complement_transfer",
        "d",
        "found_by",
        "nulls",
    )
    keys += ("p", "p_holm", "within_share", "rivals", "judged", "drawn", "pairs", "rung")
    row = {"folder": folder, **result["layers"], **select(result, ("reports", "verdict", "fingerprint", "model"))}
    measured = [point["site"] for point in (result["arrival"] or {"curve": []})["curve"]]
    row |= {"carriers": carriers, "measured": measured, "rung": result["tasks"]["math"]["rung"], "text": result["text"]}
    row |= {"weight_based": result["weight_based"], "without_offset": result["without_offset"]}
    row |= {"dissociates": next(claim["holds"] for claim in result["claims"] if claim["id"] == "causal")}
    tested = {row["name"]: row for row in result["tasks"]["math"]["tested"]}
    own = next((tested[name] for name in AT_CARRIER if tested.get(name, {}).get("coverage")), {})
    own_kind = [found for name, found in tested.items() if name != "learned"]  # one sought for its effect is no finding
    moving = [found for found in own_kind if found.get("nulls") and found["coverage"]["value"] is not None]
    most = max(moving, key=lambda found: found["coverage"]["value"], default=z)
    shown = {"z": z, "nearest": most if z.get("verdict") == "none" else z, "weights_swapped": own}
    row |= {"second": second_kind(result["tasks"].get("reasoning"), keys)}
    return row | {what: {key: found.get(key) for key in keys} for what, found in shown.items()}


def second_kind(task: dict | None, keys: tuple[str, ...]) -> dict:
    """Of the second kind of problem its rung, and what moves most there of the weights' Zs and, of others, the answer means."""
    found = {"rung": None, "tested": []} if task is None else task
    measured = {
        row["name"]: row for row in found["tested"] if row.get("nulls") and row["coverage"]["value"] is not None
    }
    own = [measured[name] for name in AT_CARRIER if name in measured]
    shown = [max(own, key=lambda row: row["coverage"]["value"])] if own else []
    shown += [measured["answer_means"]] if "answer_means" in measured else []
    return {"rung": found["rung"], "tested": [{key: row.get(key) for key in keys} for row in shown]}


def select(values: dict, keys: tuple[str, ...]) -> dict:
    """The part of a record that has these keys."""
    return {key: values[key] for key in keys}
