"""The hunt's pages: for one model the verdict, the recipe's list and the tree with the path taken, or several models side by side."""

from reports import page
from reports.hunt_beside import COMPARED, compared, comparison_pages, comparison_summary
from reports.hunt_beyond import TERMS, ablation_section, bridge_cells, terms
from reports.hunt_figures import branch, figure_overview, figure_tree, which
from reports.hunt_opening import opening, untested, verdict_text
from reports.hunt_tables import (
    CANDIDATES,
    NOT_RUN,
    REASONS,
    SOURCES,
    beside,
    contingencies_swapped,
    contingency_table,
    evidence,
    first_nodes,
    layer_text,
    measured,
    report_table,
    swapped,
    task_cells,
    tested_table,
    tier_table,
    versus_table,
)
from reports.page import place

CLAIMS = {  # the recipe's publishability list
    "structure": ("a bottleneck of attention that the FFN avoids", "minimal 1"),
    "separation": ("the weight-based Z separates language from problem in activations", "minimal 2"),
    "comparison": ("the weight-based Z does better than arXiv 2505.15257's on the same model and data", "minimal 3"),
    "causal": ("patching shows a causal role of Z", "strong 4"),
    "second_model": ("another model has it too", "strong 5"),
    "information": ("language fades and the problem stays along depth (information bottleneck)", "strong 6"),
    "universal": ("the layer can be predicted from weights", "transformative 7"),
    "bridge": ("a bridge carries answers across languages at inference time", "transformative 8"),
    "not_just_math": ("Z found on math acts on another kind of problem too", "transformative 9"),
}


def claims(results: dict) -> list[dict]:
    """The recipe's list; of several models the parts that ask for more than one."""
    if "models" in results:
        return [page.claim(name, *COMPARED[name], *cells) for name, cells in compared(results).items()]
    return [page.claim(name, *CLAIMS[name], *cells) for name, cells in evidence(results).items()]


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """The report of one model with its pictures, or of a comparison."""
    if "models" in results:
        return comparison_pages(results)
    title = f"The hunt for Z in {results['model']['name']}"
    text = page.report(
        title, verdict_text(results), results, sections(results), limitations(results), opening=opening(results)
    )
    files = {"hunt_tree.png": figure_tree(results), "hunt_output.md": text}
    return files | ({"hunt_overview.png": figure_overview(results)} if results["arrival"] else {})


def summary(results: dict) -> str:
    """What decided, on one line."""
    if "models" in results:
        return comparison_summary(results)
    node, z, why = first_nodes(results["path"])["patching"], results["z"], untested(results)
    if why:
        return f"no cause tested, {REASONS[why]} (Z of L{node['layer']}: {SOURCES[node['z']]})"
    which = f"{page.SUBSPACES[z['name']]}, {place(z['site'])}"
    return f"{which}: {swapped(z)[0]}; {page.random_text(z)}; {z['pairs']} pairs of {z['rung']}"


def sections(results: dict) -> list[str]:
    return [
        "## 1 What it would take",
        page.prose("""
            The recipe names three tiers of what would be worth publishing; each asks for the ones above it too. A tier has
            failed when one of its claims has, and is open while none has failed and one could not be tested."""),
        tier_table(results),
        "## 2 Beside arXiv 2505.15257",
        page.prose("""
            That paper finds language directions in activations and removes them; the recipe takes Z from weights. Its six
            aspects, with what was measured in this model. The paper builds no Z: as one counts here what is left of the
            stream's main directions once the languages' centroids are taken out, which is this suite's reading."""),
        versus_table(results),
        "## 3 Decision tree",
        "![The recipe's tree with the path taken](hunt_tree.png)",
        tree_table(results),
        "## 4 Predicted and causal layer",
        layer_text(results["layers"]),
        "## 5 Contingencies",
        contingency_table(results["path"]),
        "## 6 Math and reasoning",
        page.prose("""
            *Math* and *reasoning* are the two runs, whichever kind of problem was solved often enough to be swapped in each (in
            the table). The second is not arithmetic; Z is the one found on math, with nothing fitted here (best places,
            best layers and answer means are chosen anew, on development answers). Contrasts on math are those of the Z
            handed on, on held-out problems where it was fitted."""),
        beside({task: task_cells(row) for task, row in results["tasks"].items()}),
        tested_table(results["tasks"]),
        "## 7 Removing the language instead",
        *(ablation_section(results["ablation"]) if results["ablation"] else [NOT_RUN]),
        "## 8 Bridge",
        beside({task: bridge_cells(row) for task, row in results["bridge"].items()}),
        "## 9 Reports",
        report_table(results),
        "## Terms",
        terms(TERMS),
    ]


def tree_table(results: dict) -> str:
    """The tree's nodes that the hunt came by: which way it went, by which numbers, beside which null."""
    rows = []
    for node in results["path"]:
        swap = node["node"] == "patching" and "untested" not in node
        name = f"patching: the {which(node['row'])}" if swap else node["node"]
        rows.append([name, branch(node), *(cell or "–" for cell in measured(node))])
        if node["node"] == "patching":
            rows += [
                [f"patching: {CANDIDATES[row['method']]}", f"`{row['verdict']}`", *swapped(row)]
                for row in contingencies_swapped(results)
            ]
    return page.table(["node", "branch", "measured", "null"], rows)


def limitations(results: dict) -> list[str]:
    """What the verdict does not say, or hangs on."""
    nodes, lines = first_nodes(results["path"]), []
    behaviour, patching = nodes["behaviour"], nodes["patching"]
    if patching["z"] in ("centroid", "ard_mmd"):
        lines.append("The Z that was handed on was fitted on activations: nothing about it was predicted from weights.")
    if behaviour["taken"] == "untestable":
        right = " and ".join(f"{behaviour['right'][language]}/{behaviour['n']}" for language in behaviour["languages"])
        lines.append(f"""Whether {behaviour["candidate"]} is ahead could not be tested ({behaviour["no_room"]}: {right}): the hunt
            rests on structure and activations alone.""")
    elif behaviour["taken"] != "yes":
        name = behaviour["candidate"]
        lines.append(
            f"No behavioural advantage of {name} was found: the hunt rests on structure and activations alone."
        )
    if "untested" in patching:
        lines.append(f"""No cause could be tested on math, since {REASONS[patching["untested"]]}: nothing here says what the
            model uses there, or that it uses nothing.""")
    else:
        lines.append("""Only the last position of the prompt was swapped, and only the subspaces and places in section 6: an
            answer may pass elsewhere, and in other directions.""")
    if behaviour["one_problem_away"]:
        others = " or ".join(f"`{name}`" for name in behaviour["one_problem_away"])
        lines.append(f"Phase 0's verdict hangs on one problem: one answer more or less right would make it {others}.")
    return [
        *map(page.prose, lines),
        "The verdict follows from fixed rules applied to one primary configuration; everything else in the reports is exploratory.",
        "Each report has limitations of its own.",
        "The information bottleneck of the recipe is about mutual information, which nothing here measures.",
    ]
