"""What all reports share: tables, number formats, claim rows, figures as bytes, and the fixed order of a page."""

import io
import re
from collections.abc import Sequence


def claim(identifier: str, text: str, recipe: str, measured: str, null: str, holds: bool | None) -> dict:
    """One row of a report's claims table; `holds` None = cannot be judged on this model."""
    return {"id": identifier, "claim": text, "recipe": recipe, "measured": measured, "null": null, "holds": holds}


def show(value: float | None, digits: int = 4) -> str:
    """A number as reports print it."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1e4 else f"{value:,.0f}"


def escape(text: str) -> str:
    """Text that a model wrote, made harmless inside a Markdown table."""
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([`*_|\[\]#~$])", r"\\\1", text).replace("\n", "⏎")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats at 4 significant digits, bare pipes escaped."""
    cells = [[show(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in [headers, *rows]]
    lines = [[re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in cells]
    lines.insert(1, ["---"] * len(headers))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(
    title: str, verdict: str, claims: Sequence[dict], sections: Sequence[str], limitations: Sequence[str]
) -> str:
    """The report's fixed order: verdict, claims, sections, limitations."""
    words = {True: "yes", False: "**no**", None: "not testable here"}
    columns = ("claim", "recipe", "measured", "null")
    rows = [[*(row[column] for column in columns), words[row["holds"]]] for row in claims]
    parts = [f"# {title}", f"**Verdict.** {verdict}"]
    if rows:
        parts += ["## Claims", table(["claim", "recipe", "measured", "null or chance", "holds"], rows)]
    parts += [*sections, "## Limitations", "\n".join(f"- {line}" for line in limitations)]
    return "\n\n".join(parts) + "\n"


def png(figure) -> bytes:
    """A matplotlib Figure as PNG bytes, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()
