"""What the hunt's page takes from the two scripts beyond phase 3: the ablation, and the bridge."""

import math

from reports import page
from reports.page import decimal, p_value, show

REMOVED = {
    "language": "language subspace",
    "language_reinjected": "language subspace, re-injected",
    "z_perp": "all but Z",
}
REMOVED |= {"z_perp_mean": "all but Z, its mean put there"}
WHERE = {"last": "last prompt position", "prefill": "whole prompt", "all": "prompt and answer"}


def ablation_section(found: dict) -> list[str]:
    """The removal that arXiv 2505.15257 makes, and all but Z, each beside random directions and the damage to plain text."""
    detail = "[The ablation](ablation_output.md) says more."
    if not found["rows"]:
        return [
            page.prose(f"`{found['verdict']}`: nothing was removed, since too little of it could be lost. {detail}")
        ]
    text = f"""arXiv 2505.15257 removes a language subspace at inference, from the middle of the layers. On `{found["rung"]}`:
        `{found["verdict"]}`. The log-odds are those of the right answer, in nats; beside them 5 to 95 % of random directions that
        change the stream as much, and p that these go as far; of all but Z, p that all but a random subspace keeps as much of the
        answer. {detail}"""
    headers = ["removed", "λ", "log-odds (95 %)", "random", "p", "right", "text's perplexity"]
    return [page.prose(text), page.table(headers, [ablation_row(row, found["none"]) for row in found["rows"]])]


def ablation_row(row: dict, none: dict) -> list[str]:
    null, odds = row["null"], row["odds"]
    random, p = "–", "–"
    if null is not None:
        low, high = (f"{null['odds'][end]:+.2f}" for end in ("low", "high"))
        random = f"{low} to {high}"
        keeps = row["role"].startswith("z_perp") or odds["value"] > 0
        p = p_value(null["odds"]["p"] if keeps else null["p_fall"], null["odds"]["draws"])
    above = f", late −{row['reinjection']:g}" if row["reinjection"] else ""
    change = f"{odds['value']:+.2f} ({odds['low']:+.2f} to {odds['high']:+.2f})"
    right = f"{page.percent(none['accuracy'])} → {page.percent(row['accuracy'])}"
    what = f"{REMOVED[row['condition']]}, {WHERE[row['scope']]}"
    return [
        what,
        f"{row['strength']:g}{above}",
        change,
        random,
        p,
        right,
        f"×{show(math.exp(min(row['text']['value'], 20)), 3)}",
    ]


def transfer(bridge: dict) -> tuple[str, str]:
    """How often mapped vectors carry the answer over, and how often their controls do."""
    if not bridge["pairs"]:
        return "nothing could be sent: no pairs", "–"
    rate = {name: page.percent(value) for name, value in bridge["success"].items()}
    p = {control: p_value(value) for control, value in bridge["p_against"].items()}
    return (
        f"mapped vectors give the donor's answer in {rate[bridge['map']]} of {bridge['pairs']} pairs",
        f"unmapped {rate['identity']} (p {p['identity']}), shuffled map {rate['shuffled']} (p {p['shuffled']}), the "
        f"target language's own vector {rate['own_language']}",
    )


def bridge_cells(bridge: dict) -> dict:
    """What one kind of problem says about the bridge."""
    r2, (sent, controls) = bridge["held_out_r2"], transfer(bridge)
    return {
        f"held-out R², {bridge['map']} (mean shift)": f"{decimal(r2[bridge['map']])} ({decimal(r2['mean_shift'])})",
        "transfer": sent,
        "controls": controls,
        "verdict": f"`{bridge['verdict']}`",
    }
