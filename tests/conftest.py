"""Real checkpoints of every supported family, and the scripts as modules."""

import os

# here and in child processes: two workers with two threads each are in each other's way
os.environ["OMP_NUM_THREADS"] = "1"

import importlib
import re
import shutil
import signal
import sys
from pathlib import Path

import fewer
import pytest
import torch
import transformers
from matplotlib.figure import Figure

from lab import runs
from reports import page

ROOT = Path(__file__).parent.parent
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
FAMILIES = {  # model_type -> (transformers' name, what its small model needs beyond SMALL)
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),  # not width / heads
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "gemma2": ("Gemma2", {"head_dim": 16}),
    "gemma3_text": ("Gemma3", {"head_dim": 16, "num_key_value_heads": 1}),
    "phi3": ("Phi3", {}),
    "olmo2": ("Olmo2", {}),
    "gpt_neox": ("GPTNeoX", {"num_key_value_heads": None}),  # it knows no groups
    "qwen2_moe": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 40, "mlp_only_layers": [1]}),
    "qwen3_moe": ("Qwen3Moe", EXPERTS | {"head_dim": 16}),
}
SMALL = {
    "vocab_size": 682,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as jobs in the background have it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list) -> None:
    """Files with slow tests first: two workers, each with a file at a time, then end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def interruptible() -> None:
    """In a child process: Ctrl-C reaches it also where the tests run in the background, whose jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def load_script(name: str):
    """A script of the suite as a module, whatever its file is called."""
    return importlib.import_module(name.removesuffix(".py"))


def random_model(path: Path, family: str = "qwen2", seed: int = 0, shards: str = "5GB", **changes) -> Path:
    """Write a randomly initialised checkpoint of a real class, with the embedded model's tokenizer and problems."""
    torch.manual_seed(seed)
    name, own = FAMILIES[family]
    text = "TextConfig" if family.endswith("_text") else "Config"
    config = getattr(transformers, f"{name}{text}")(**(SMALL | own | changes))
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for name, parameter in model.named_parameters():  # gains of 1 and biases of 0 would hide a wrong fold
        if "norm" in name or name.endswith("bias"):
            parameter.data.uniform_(0.5, 1.5)
    model.save_pretrained(path, max_shard_size=shards)
    for name in ("tokenizer.json", "tokenizer_config.json", "problems.jsonl", "exemplars.jsonl", "reasoning.jsonl"):
        shutil.copy(ROOT / "tiny" / name, path / name)
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A random grouped-query Qwen2 model; tests must not write into it."""
    return random_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def families(tmp_path_factory) -> dict[str, Path]:
    """One random model per family."""
    return {name: random_model(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


# modules whose pictures are rendered, those of every script among them; a test elsewhere can ask for `real_pictures`
RENDERED = {f"test_{name}" for name in ("page", "scripts", "hunt", "processes", "readme", "tiny")}
PICTURE, LAYOUT = page.png, Figure.tight_layout


@pytest.fixture(scope="module", autouse=True)
def sketches(request):
    """In other modules figures are drawn on and not rendered, which takes half of a small script's time."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] not in RENDERED:
            patch.setattr(Figure, "tight_layout", lambda *_, **__: None)
            patch.setattr(page, "png", sketch)
        yield


@pytest.fixture(scope="module")
def fewer_draws():
    with fewer.applied(fewer.DRAWS):
        yield


@pytest.fixture
def real_pictures(monkeypatch):
    """Pictures as a user gets them: for pages of verdicts that no script is led to here."""
    monkeypatch.setattr(Figure, "tight_layout", LAYOUT)
    monkeypatch.setattr(page, "png", PICTURE)


def sketch(drawing: Figure) -> bytes:
    """What stands for a picture: its titles and labels."""
    words = [panel.get_title() + panel.get_xlabel() + panel.get_ylabel() for panel in drawing.axes]
    return b"\x89PNG" + "\n".join(words).encode()


@pytest.fixture(scope="session")
def script():
    return load_script


PROGRESS = re.compile(r".+: \d+( of \d+| \w+\(s\)) after \d+ s")  # a line a minute, on a machine that is slow


def fails(script, capsys, name: str, *flags) -> str:
    """Run a script as a user does; it must exit with 2 and one line on stderr, which is returned."""
    sys.stdout.flush()
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        runs.run_script(lambda: script(name).main([str(flag) for flag in flags]))
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if not line.startswith("Loading weights") and not PROGRESS.fullmatch(line)]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
