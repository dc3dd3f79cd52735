"""Whatever a model's files hold, the scripts say in one line what is wrong with them, or read them."""

import json
from pathlib import Path

import pytest
import torch
from conftest import random_model
from gguf_files import write_gguf
from hypothesis import given
from hypothesis import strategies as st
from mutations import NUMBERS, ODD, TEXTS, Tally, changed, damaged, fuzzed, in_time, json_files, put, written
from safetensors.torch import load_file, save_file

from lab import checkpoints, models, runs, tensors

NARROW = {
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
FAMILIES = ["qwen2", "gemma3_text", "phi3", "qwen2_moe"]  # plain; norms around; fused; experts


def looked_at(path: Path) -> checkpoints.ModelFolder:
    """What 1.py reads of a model before and while it measures: names, shapes, every matrix."""
    folder = checkpoints.find_model(str(path))
    assert folder.identity and folder.prefix is not None and isinstance(folder.is_qwen25_3b, bool)
    assert min(folder.layers, folder.heads, folder.groups, folder.width, folder.head_width) > 0
    for layer in checkpoints.stream_layers(folder):
        assert len(layer.query) == folder.heads * folder.head_width
        assert len(layer.key) == folder.groups * folder.head_width
    return folder


def narrow(path: Path, family: str) -> Path:
    return random_model(path, family, **NARROW | ({"head_dim": 4} if family == "gemma3_text" else {}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A narrow model of some families, whose files are changed and put back."""
    return {family: narrow(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


MORE = [
    "transformers_weights",
    "quantization_config",
    "dtype",
    "head_dim",
    "partial_rotary_factor",
    "auto_map",
    "sliding_window",
]


@st.composite
def configurations(draw: st.DrawFn, sound: dict[str, dict]) -> tuple[str, bytes]:
    """A family and a configuration of it, with a key now and then that it need not have."""
    family = draw(st.sampled_from(FAMILIES))
    config = {key: value for key, value in sound[family].items() if key != "layer_types" or draw(st.booleans())}
    more = {} if draw(st.integers(0, 4)) else {draw(st.sampled_from(MORE)): draw(ODD)}
    return family, draw(json_files(config | more, 1 if more else 2))


def test_configurations(folders):
    tally = Tally()
    sound = {family: json.loads((path / "config.json").read_text()) for family, path in folders.items()}

    @fuzzed
    @given(configurations(sound))
    def one(chosen: tuple[str, bytes]) -> None:
        family, content = chosen
        put(folders[family] / "config.json", content)
        tally(lambda: looked_at(folders[family]))

    try:
        one()
    finally:
        for family, config in sound.items():
            put(folders[family] / "config.json", written(config))
    tally.settle()


DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "C64",
    "F4",
    "F6_E2M3",
]


@st.composite
def safetensors(draw: st.DrawFn, head: dict, body: bytes) -> bytes:
    """A file whose header is changed, names one twice or lies about its length, or whose bytes are damaged."""
    way = draw(st.integers(0, 9))
    if way < 3:
        head = draw(changed(head))
    elif way < 5:  # one tensor in another type, its bytes made to fit
        name = draw(st.sampled_from(sorted(set(head) - {"__metadata__"})))
        head, size = {key: dict(value) for key, value in head.items()}, draw(st.sampled_from([1, 2, 4, 8]))
        head[name]["dtype"] = draw(st.sampled_from(DTYPES))
        start, end = head[name]["data_offsets"]
        length = (end - start) // 4 * size
        for other in head.values():
            if other.get("data_offsets", [0])[0] > start:
                other["data_offsets"] = [place + length - (end - start) for place in other["data_offsets"]]
        head[name]["data_offsets"] = [start, start + length]
        body = body[:start] + body[start : start + length].ljust(length, b"\0") + body[end:]
    elif way == 5:
        place = 4 * draw(st.integers(0, len(body) // 4 - 1))
        odd = draw(st.sampled_from([float("nan"), float("inf"), 1e38, 0.0]))
        body = body[:place] + torch.tensor([odd]).numpy().tobytes() + body[place + 4 :]
    text = written(head)
    if way == 6:
        name = written(draw(st.sampled_from(sorted(head))))
        text = text.replace(name, draw(st.sampled_from([written(other) for other in sorted(head)] + [b'"\xff"'])))
    length = len(text) if way != 7 else draw(st.sampled_from([0, 1, len(text) - 1, len(text) + 1, 2**40, 2**64 - 1]))
    content = length.to_bytes(8, "little") + text + body
    return draw(damaged(content, len(text) + 8)) if way > 7 else content


def test_safetensors(folders):
    tally, path = Tally(), folders["qwen2"]
    sound = (path / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(sound[:8], "little")

    @fuzzed
    @given(safetensors(json.loads(sound[8:start]), sound[start:]))
    def one(content: bytes) -> None:
        put(path / "model.safetensors", content)
        tally(lambda: looked_at(path))

    try:
        one()
    finally:
        put(path / "model.safetensors", sound)
    tally.settle()


def test_the_index_of_shards(tmp_path):
    tally, path = Tally(), narrow(tmp_path, "qwen2")
    parts = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(parts)
    shards = {"one.safetensors": names[: len(names) // 2], "two.safetensors": names[len(names) // 2 :]}
    for file, own in shards.items():
        save_file({name: parts[name] for name in own}, path / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, own in shards.items() for name in own}}

    @fuzzed
    @given(json_files(index))
    def one(content: bytes) -> None:
        put(path / "model.safetensors.index.json", content)
        tally(lambda: looked_at(path))

    one()
    tally.settle()


@st.composite
def gguf_files(draw: st.DrawFn, content: bytes, keys: list[bytes]) -> bytes:
    """A file of which one number or word behind a metadata key, or a byte of its head, is another."""
    if not draw(st.integers(0, 3)):
        return draw(damaged(content, 600 if draw(st.booleans()) else None))
    key = draw(st.sampled_from(keys))
    place = content.index(key) + len(key) + draw(st.sampled_from([-1, 0, 4, 4, 8, 12, 16, 40, 100]))
    size = draw(st.sampled_from([1, 4, 8]))
    number = draw(st.sampled_from([number for number in NUMBERS if isinstance(number, int)]) | st.integers(0, 40))
    new = (number % 256**size).to_bytes(size, "little")
    return content[:place] + new + content[place + size :]


@pytest.mark.parametrize("length", [2**25, 2**62])
def test_a_gguf_header_without_end_is_refused_at_once(folders, tmp_path, length):
    """The file's reader goes through as many values as the header says, though the file ends before them."""
    file = write_gguf(tmp_path / "qwen2.gguf", folders["qwen2"], "F32")
    content, key = file.read_bytes(), b"tokenizer.ggml.token_type"
    place = content.index(key) + len(key) + 8  # behind the kinds of value and of element, four bytes each
    file.write_bytes(content[:place] + length.to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises(runs.UserError, match=f"no usable GGUF file.*an array of {length} values"):
        checkpoints.find_model(str(file))
    with in_time():
        file.write_bytes(content[:place] + (2**23).to_bytes(8, "little"))
        with pytest.raises(runs.UserError, match="no usable GGUF file.*leads beyond its end"):
            checkpoints.find_model(str(file))


def test_gguf_files(folders, tmp_path):
    tally, known = Tally(), {}
    for family in ("qwen2", "gemma3_text"):
        file = write_gguf(tmp_path / f"{family}.gguf", folders[family], "F32")
        checkpoints.find_model(str(file))
        keys = [name.encode() for name in tensors.read_gguf(file).fields if not name.startswith("GGUF.")]
        keys += [b"token_embd.weight", b"blk.0.attn_q.weight", b"blk.1.ffn_down", b"output_norm.weight"]
        known[file] = (file.read_bytes(), keys)
    files = st.sampled_from(sorted(known)).flatmap(lambda file: st.tuples(st.just(file), gguf_files(*known[file])))

    @fuzzed
    @given(files)
    def one(chosen: tuple[Path, bytes]) -> None:
        file = put(*chosen)
        tally(lambda: models.load_tokenizer(looked_at(file)))

    one()
    tally.settle()


def read_by(folder: checkpoints.ModelFolder) -> None:
    """What a phase does with a tokenizer before it runs a model, and with the model's output."""
    tokenizer = models.load_tokenizer(folder)
    models.check_reading(tokenizer, {"en": ["How many are 3 and 4?"], "zh": ["三加四等于多少？"]})
    rows = tokenizer(["Q: 1 + 2?", "问：三加四"], return_tensors="pt", padding=True)["input_ids"]
    tokenizer.batch_decode(rows, skip_special_tokens=True)
    tokenizer.batch_decode(torch.arange(200)[:, None], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizers(folders, name):
    tally, path = Tally(), folders["qwen2"]
    folder, sound = checkpoints.find_model(str(path)), (path / name).read_bytes()
    odd = st.sampled_from([*NUMBERS, *TEXTS, None, [], {}, {"type": "Sequence"}, {"type": "Replace"}, "<|endoftext|>"])

    @fuzzed
    @given(json_files(json.loads(sound), 2, odd))
    def one(content: bytes) -> None:
        put(path / name, content)
        tally(lambda: read_by(folder))

    try:
        one()
    finally:
        put(path / name, sound)
    tally.settle()
