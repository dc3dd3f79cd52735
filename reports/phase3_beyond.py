"""What the page of phase 3 says where no kind of problem could be used: what each lacked, and what may help."""

from reports import page
from reports.page import percent
from reports.phase3_opening import CANNOT, RECIPE, listing

UNSOLVED = """In {model} nothing was swapped: {lead}{everywhere} of {asked} problems that were asked (`{rung}`) are solved in
    every language, """
MODEL = "a larger or another model (`--model`), "
LACKS = {  # a rung's outcome: what the one that came farthest lacks, and what may help
    "too_few_solved": ["where {problems} are needed", f"{MODEL}easier problems (`--problems`)"],
    "too_few_answers": [
        "but these have {answers} different answers, where {needed} are needed", "problems with more answers (`--problems`)"],
    "little_mass": [
        "but {mass} of the probability lies on the answers, where {least} is needed",
        f"{MODEL}problems that it answers in words (`--problems`)"],
    "answers_are_written_alike": [
        "since the answers of all are written alike in all languages", "problems with answers in words (`--problems`)"],
}  # fmt: skip


def unsolved_text(results: dict) -> list[str]:
    """Verdict and numbers where no kind of problem could be used: what was tried, what the model says, what to try."""
    needed, free, instead = results["needed"], results["unsolved"], ""
    most = max(
        results["tried"], key=lambda row: (row["asked"] > 0, row["outcome"] != "too_few_solved", row["everywhere"])
    )
    lacks, remedy = LACKS[most["outcome"]]
    lead = "at most " if most["outcome"] == "too_few_solved" else ""
    said = {
        "model": results["model"]["name"],
        "lead": lead,
        "needed": needed["answers"],
        "problems": needed["problems"],
    }
    said |= {"least": page.needed(needed["mass"]), "mass": "–" if most["mass"] is None else percent(most["mass"])}
    verdict = (UNSOLVED + lacks).format(**most | said)
    tried = "\n".join(f"- {solved(row)} ({row['outcome'].replace('_', ' ')})" for row in results["tried"])
    if free is not None:
        rows = [
            [language, *(counts[kind] for kind in ("words", "digits", "wrong"))]
            for language, counts in free["counts"].items()
        ]
        instead = f"""Free answers to `{free["rung"]}`, {free["asked"]} in each language:

            {page.table(["language", "right in words", "right in digits", "wrong"], rows)}"""
    return [f"{page.prose(verdict)} (`{results['verdict']}`).", page.prose(f"""
        Solved, from the hardest kind on:

        {tried}

        Needed are {needed["problems"]} problems solved in every language with {needed["answers"]} different answers, on which
        {page.needed(needed["mass"])} of the probability lies; {needed["precheck"]} of each kind are asked first.

        {instead}

        {RECIPE} {CANNOT}. To try: {remedy}, more exemplars with answers in words (`--exemplars`), other languages
        (`--languages`).
    """)]  # fmt: skip


def solved(row: dict) -> str:
    mass = "" if row["mass"] is None else f", {percent(row['mass'])} of the probability on answers"
    counts = listing([f"{count} in {language}" for language, count in row["solved"].items()])
    return f"`{row['rung']}` {counts}, {row['everywhere']} in every language, of {row['asked']}{mass}"
