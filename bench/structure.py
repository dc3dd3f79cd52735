"""1.py and 2.py at Qwen2.5-3B's exact shape: time and peak memory, beside the dense way on the same cores.

The checkpoint has random bfloat16 weights and a cut vocabulary (no script here reads embeddings); it says nothing about
the real model. The dense way forms every head's d x d kernel and takes its full SVD (values and vectors, since 2.py needs
them), and takes the plain SVD of every matrix. It is measured on a few heads and one layer's matrices and extrapolated.

Run        python -m bench.structure [--folder DIR] [--layers 36] [--dense-heads 2]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from lab import checkpoints

ROOT = Path(__file__).parent.parent
VOCABULARY = 1024
SHARD_LAYERS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoint (5.6 GB) goes; default: a temporary folder")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--dense-heads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "qwen2.5-3b-shape"
        if not (folder / "config.json").exists():
            write_checkpoint(folder, arguments.layers)
        ours = [run_script(name, folder, Path(temporary) / "out") for name in ("1.py", "2.py")]
        folder = checkpoints.find_model(str(folder))
        dense = {dtype: dense_seconds(folder, arguments.dense_heads, dtype) for dtype in (torch.float32, torch.float64)}
    layers, heads = arguments.layers, checkpoints.QWEN25_3B_SHAPE["num_attention_heads"]
    print(f"threads: {torch.get_num_threads()}, layers: {layers}")
    for name, (seconds, peak) in zip(("1.py", "2.py"), ours):
        print(f"{name} (float64): {seconds:.0f} s, peak resident memory {peak / 2**20:.2f} GiB")
    for dtype, times in dense.items():
        total = layers * (heads * times["kernel"] + times["matrices"])
        print(f"dense way in {dtype}, extrapolated to {layers} layers x {heads} heads: {total:.0f} s")
        print(
            f"  one kernel {times['kernel']:.2f} s (values and vectors), seven matrices {times['matrices']:.1f} s (values)"
        )
        print(f"  ratio dense / (1.py + 2.py): {total / (ours[0][0] + ours[1][0]):.1f}")


def write_checkpoint(folder: Path, layers: int) -> None:
    """Random bfloat16 weights in the names, shapes and sharding of the hub's checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = checkpoints.QWEN25_3B_SHAPE | {"num_hidden_layers": layers, "vocab_size": VOCABULARY}
    config = shape | {
        "architectures": ["Qwen2ForCausalLM"],
        "max_position_embeddings": 32768,
        "torch_dtype": "bfloat16",
    }
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = width // shape["num_attention_heads"] * shape["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, width),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    draw, weight_map = torch.Generator().manual_seed(0), {}
    for first in range(0, layers, SHARD_LAYERS):
        tensors = {
            f"model.layers.{layer}.{name}": torch.randn(size, generator=draw).mul_(0.02).bfloat16()
            for layer in range(first, min(first + SHARD_LAYERS, layers))
            for name, size in shapes.items()
        }
        if first == 0:
            tensors["model.embed_tokens.weight"] = torch.randn(VOCABULARY, width, generator=draw).bfloat16()
        file = f"model-{first // SHARD_LAYERS + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


def run_script(name: str, folder: Path, out: Path) -> tuple[float, int]:
    """(seconds, peak resident KiB) of a script in a process of its own; mapped file pages count as resident."""
    command = [sys.executable, name, "--model", str(folder), "--out", str(out), "--device", "cpu", "--fresh"]
    probe = (
        "import resource, subprocess, sys, time; start = time.monotonic(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); "
        "print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, peak = result.stdout.split()
    return float(seconds), int(peak)


def dense_seconds(folder: checkpoints.ModelFolder, heads: int, dtype: torch.dtype) -> dict:
    """Seconds for the full SVD of one formed kernel, and for the singular values of one layer's seven matrices."""
    layer = next(checkpoints.stream_layers(folder))
    query = layer.query.to(dtype).view(folder.heads, folder.head_width, -1)
    key = layer.key.to(dtype).view(folder.groups, folder.head_width, -1)
    repeats = folder.heads // folder.groups
    start = time.monotonic()
    for head in range(heads):
        torch.linalg.svd(query[head].T @ key[head // repeats])
    middle = time.monotonic()
    for matrix in (layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down):
        torch.linalg.svdvals(matrix.to(dtype))
    return {"kernel": (middle - start) / heads, "matrices": time.monotonic() - middle}


if __name__ == "__main__":
    main()
