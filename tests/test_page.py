"""What all pages share: folding of wrapped prose, tables, and text that a model wrote."""

import ast
import re

from conftest import ROOT

from reports import page


def test_prose_folds_wrapped_lines_and_leaves_the_rest_alone():
    table = page.table(["a", "b"], [[1, 2.0], ["x|y", None]])
    text = f"""
        ## 1 Heading

        ![A figure](figure.png)

        One sentence that is
        wrapped, and its
        end.

        {table}

        - a list
          that goes on
        - and on
    """
    blocks = page.prose(text).split("\n\n")
    assert blocks[:3] == ["## 1 Heading", "![A figure](figure.png)", "One sentence that is wrapped, and its end."]
    assert blocks[3] == table
    assert blocks[4] == "- a list that goes on\n- and on"


def test_what_a_model_wrote_cannot_break_a_table():
    rows = [["`a` | <b>\n# c", 1]]
    (*_, line) = page.table(["output", "n"], [[page.escape(rows[0][0]), 1]]).splitlines()
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert "<b>" not in line


def test_a_figure_has_the_same_bytes_each_time():
    drawn = []
    for _ in range(2):
        with page.figure(3, 2, columns=2) as (figure, (left, right)):
            left.plot([1, 2])
            right.plot([2, 1])
        drawn.append(page.png(figure))
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG")


def test_the_readme_names_verdicts_that_exist():
    """Every name in the README's table of verdicts is one that verdicts/ can give."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("| verdict of")[1].splitlines()[2:] if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row.split("|", 2)[2])}
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "verdicts").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    given = {node.value for node in nodes if isinstance(node.value, str)}
    assert len(named) > 15
    unknown = {name for name in named - given if not name.endswith("_advantage")}  # made from the languages' names
    assert not unknown


def test_an_interval_of_no_width_and_a_bound_are_written_as_they_are():
    exact = {"value": 1.0, "low": 0.9999, "high": 1.0}
    assert page.span(exact) == "100.0 %" and page.span(exact | {"low": 0.99}) == "100.0 % (99.0 to 100.0)"
    assert page.p_value(1 / 8, 7, "layers") == "< .126 (7 layers)"
    assert page.p_value(1 / 121, 120) == "< .009 (120 draws)" and page.p_value(0.125, 23) == ".12 (23 draws)"


def test_a_report_says_how_quantised_weights_are_stored():
    results = {"claims": [], "model": {"name": "x.gguf", "quantisation": "Q4_K_M (68 % Q4_K, 32 % Q6_K)"}}
    text = page.report("T", "it is.", results, [], ["none"]).decode()
    assert text.splitlines()[4].startswith("**Weights.** Quantised, Q4_K_M (68 % Q4_K, 32 % Q6_K): ")
    assert "Weights." not in page.report("T", "it is.", results | {"model": {"quantisation": None}}, [], []).decode()
