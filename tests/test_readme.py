"""The README's example that uses Z elsewhere does what the suite's own swap does; help, version and citation say what they must."""

import re

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

import utils
from lab import commands, models, runs, statistics, subspaces

SITE, K = 6, 10


def example() -> str:
    """The README's code for transformers."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return next(code for code in found if "safe_open" in code)


def test_the_readmes_swap_is_the_suites(tmp_path, monkeypatch, capsys):
    (z,) = utils.random_subspaces(statistics.seeded(0, "readme"), 1, K, 128).float()
    (tmp_path / "output" / "tiny").mkdir(parents=True)
    (tmp_path / "tiny").symlink_to(ROOT / "tiny")
    made = {"method": "weight", "layer": SITE - 1, "site": SITE, "k": K}
    file = subspaces.z_file(z.numpy(), made, {"name": "tiny", "revision": None})
    (tmp_path / "output" / "tiny" / "z.safetensors").write_bytes(file)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example(), names)
    assert torch.equal(names["z"], z) and names["site"] == SITE
    model = AutoModelForCausalLM.from_pretrained(ROOT / "tiny").eval()
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tiny")
    recipient = tokenizer(names["question"], return_tensors="pt")
    donor = tokenizer(names["question"].replace("has 2", "has 7"), return_tensors="pt")
    assert not torch.equal(donor["input_ids"], recipient["input_ids"])
    with torch.no_grad(), models.captured_sites(model, [SITE]) as streams:
        model(**donor)
    theirs = streams[SITE][:, -1:].clone()

    def swapped(stream):
        return stream + utils.project(theirs - stream, z)

    with torch.no_grad(), models.edited_stream(model, {SITE: swapped}, "last"):
        expected = model(**recipient).logits[0, -1]
    torch.testing.assert_close(names["logits"], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(**recipient).logits[0, -1], expected, atol=1e-2)  # the swap does something
    assert capsys.readouterr().out == tokenizer.decode(expected.argmax()) + "\n"


@pytest.mark.parametrize("name", runs.SCRIPTS.values())
def test_help_says_what_is_read_written_and_run(script, capsys, name):
    with pytest.raises(SystemExit) as end:
        script(name).main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    for part in (
        "\nQuestion ",
        "\nInputs ",
        "\nOutputs ",
        f"\nRun        python {name} --model ",
        " Qwen/Qwen2.5-3B)\n",
    ):
        assert part in said
    flags = re.findall(r"^  (--[a-z-]+)", said, re.MULTILINE)
    blocks = re.split(r"^  --[a-z-]+", said.split("options:")[1].split("\n\n")[0], flags=re.MULTILINE)[1:]
    assert len(flags) == len(blocks) and all(re.search(r"[a-z]{2}", block) for block in blocks)  # none without words


def test_the_version_is_the_citations(script, capsys):
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {commands.VERSION}\n" in citation
    with pytest.raises(SystemExit):
        script("1.py").main(["--version"])
    assert capsys.readouterr().out == f"Z hunt {commands.VERSION}\n"
