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


TERMS = {
    "effective rank": """exp of the entropy of an attention kernel's singular values, each as a share of their sum: how many
        directions it reads, at most as many as a head is wide; mean over a layer's heads. *Resamples* draw its heads anew, or
        whole groups of heads that share keys (KV groups), and look for the lowest layer again.""",
    "FFN alignment": """how much of what the FFN's weights read lies inside the directions that the layer's heads read, over what
        random directions would hold (2.py): below 1 it avoids them.""",
    "L6.out": "the residual stream behind layer 6 (layers count from 0); what layer 7 reads.",
    "Z, Z⊥": "a subspace of the stream, and all directions orthogonal to it.",
    "whole stream, swap": """one prompt's stream at its last position is replaced by that of another prompt, wholly or inside
        a subspace only, and the layers above go on from there.""",
    "kind of problem": """`words` (stories), `sums`, `successor` (the number after), `reasoning`, `antonyms`, hardest first: phase
        3 takes the first that is solved often enough. `problems` are a user's or the model's own.""",
    "surely": "by the end of the 95 % interval.",
    "exploratory": "looked at without a prediction: the weights single out no layer.",
    "head 0": "the directions that the layer's first attention head reads alone; else all of its heads together.",
    "best of the subspaces tested": "the one whose verdict is nearest to the hypothesis; another may move more.",
    "coverage, leak": "what swapping Z moves of the answer, and of the language, as shares of what the whole stream moves there.",
    "D": """coverage − leak − (what Z⊥ moves of the answer) + (what Z⊥ moves of the language): 2 by the hypothesis, about 0 for
        directions that know nothing of either.""",
    "wins across languages": """how often the donor's answer, in the recipient's language, becomes the most probable one
        where the donor was asked in another language.""",
    "D of the draws' pairs": "D of the few pairs of prompts for which random draws were swapped too: p ranks it among theirs.",
    "Haar": "random subspaces of the same size, drawn evenly over all.",
    "matched draws": """random subspaces drawn as the stream varies, a null like Haar. Where they hold more than half of the distance
        between problems (contrasts), or the Z that they are matched to more than half of the stream's variance (swaps), they are
        the stream itself: they stand beside and decide nothing. The bridge's map has to beat them all the same.""",
    "PCA": "the directions in which the stream varies most within a language.",
    "ARD-MMD": """automatic relevance determination with maximum mean discrepancy: the stream's coordinates, weighed by gradients,
        that part different problems' tokens and not one problem's versions.""",
    "contrast": """distance of a problem's versions in two languages, relative to that of different problems, inside Z over
        the same outside (ratio_Z / ratio_Z⊥); below 1 Z keeps the problem and drops the language.""",
    "without the offset": "with every language's mean removed, means estimated on other problems.",
    "beyond the text": "more than numerals, words, or an untrained twin of the model tell of the same problems.",
    "foil, twin": """a text that differs from another in a word or clause, and so in its answer; the same model with the entries
        of its layers' weights shuffled, or with its untrained ones.""",
    "Holm": """p corrected for how many were tested together: in phase 2 the configurations or contingencies, in phase 3 the
        subspaces swapped there.""",
}


def terms(names) -> str:
    """What these words mean, a line each."""
    return "\n".join(f"- *{term}*: {page.prose(TERMS[term])}" for term in names)


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
