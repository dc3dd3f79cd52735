"""1.py and 2.py at Qwen2.5-3B's exact shape beside other ways and beside the least that any way must do, on one thread.

The checkpoint has random bfloat16 weights and a cut vocabulary (no script here reads embeddings); it says nothing about
the real model. Ours is run as two processes; the others are measured on one layer and extrapolated, after a comparison of
their effective ranks with ours. Seconds are CPU seconds of one thread, which other work on the machine changes little.

dense            singular values of the seven matrices in float32, and the full SVD of every head's formed d x d kernel
TransformerLens  kernels by its FactoredMatrix (transformer_lens/FactoredMatrix.py, `svd()`), the matrices densely
weightwatcher    singular values of the seven matrices as its analyze() takes them without CUDA: `W.astype(float)`, then
                 scipy's svd (weightwatcher.py `combined_eigenvalues()`, RMT_Util.py `_svd_vals_accurate`); no kernels
floor            one read as float32, one syrk and one eigvalsh per matrix, one QR per factor of a kernel

Torch's svdvals is slow on a wide matrix (W_down as stored), so the dense ways are shown with wide ones transposed, too. None
of the others is charged for what 2.py adds (W_gate's leading vectors, energies, nulls), but where the line says so.

Run        python -m bench.structure [--folder DIR] [--layers 36] [--dense-heads 2]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.linalg import blas

import utils
from lab import checkpoints

ROOT = Path(__file__).parent.parent
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
VOCABULARY = 1024
SHARD_LAYERS = 9
DIRECTIONS = 20  # of a head, as 2.py's default
STORED = {name: f"model.layers.0.self_attn.{name[0]}_proj.weight" for name in ("query", "key", "value", "output")}
STORED |= {name: f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoint (5.6 GB) goes; default: a temporary folder")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--dense-heads", type=int, default=2)
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):  # libraries read these when imported
        command = [sys.executable, "-m", "bench.structure", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=os.environ | ONE_THREAD, cwd=ROOT).returncode)
    with tempfile.TemporaryDirectory() as temporary:
        path = arguments.folder or Path(temporary) / "qwen2.5-3b-shape"
        if not (path / "config.json").exists():
            write_checkpoint(path, arguments.layers)
        out = Path(temporary) / "out"
        ours = {name: run_script(name, path, out) for name in ("1.py", "2.py")}
        ranks = [np.load(out / name)[0] for name in ("one_weight_eff_rank.npy", "one_head_eff_rank.npy")]
        folder = checkpoints.find_model(str(path))
        layer = next(checkpoints.stream_layers(folder))
        compare(layer, folder, *ranks, arguments.dense_heads)
        report(ours, measured(layer, folder, arguments.dense_heads), folder)


def report(ours: dict, others: dict, folder: checkpoints.ModelFolder) -> None:
    """Times of all layers and the ratios that count."""
    total = sum(seconds for seconds, _, _ in ours.values())
    print(f"{folder.layers} layers x {folder.heads} heads, CPU seconds on {torch.get_num_threads()} thread")
    for name, (seconds, wall, peak) in ours.items():
        print(f"{name}: {seconds:.1f} s (by the clock {wall:.1f}), peak resident memory {peak / 2**20:.2f} GiB")
    print(f"ours, both: {total:.1f} s")
    for name, seconds in others.items():
        seconds *= folder.layers
        if name.startswith("floor"):
            continue
        print(f"{name}: {seconds:.1f} s, {seconds / total:.2f} times ours")
    least = {name: others[key] * folder.layers for name, key in (("1.py", "floor"), ("2.py", "floor of 2.py"))}
    for name, seconds in least.items():
        print(f"{name}: {ours[name][0] / seconds:.2f} times its floor of {seconds:.1f} s")
    print(f"ours, both / both floors: {total / sum(least.values()):.2f}")


def write_checkpoint(folder: Path, layers: int) -> None:
    """Random bfloat16 weights in the names, shapes and sharding of the hub's checkpoint; transformers can load it."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = checkpoints.QWEN25_3B_SHAPE | {"num_hidden_layers": layers, "vocab_size": VOCABULARY}
    config = shape | {
        "architectures": ["Qwen2ForCausalLM"],
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = width // shape["num_attention_heads"] * shape["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.o_proj.weight": (width, width),
        "self_attn.q_proj.bias": (width,),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.bias": (keys,),
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
            tensors["model.norm.weight"] = torch.ones(width).bfloat16()
        file = f"model-{first // SHARD_LAYERS + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


def run_script(name: str, folder: Path, out: Path) -> tuple[float, float, int]:
    """(CPU seconds, seconds by the clock, peak resident KiB) of a script's process; mapped file pages count as resident."""
    command = [sys.executable, name, "--model", str(folder), "--out", str(out), "--device", "cpu", "--fresh"]
    probe = (
        "import resource, subprocess, sys, time; start = time.monotonic(); "
        "subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", probe, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, wall, peak = result.stdout.split()
    return float(seconds), float(wall), int(peak)


def kernel_parts(layer, folder: checkpoints.ModelFolder) -> tuple[torch.Tensor, torch.Tensor]:
    """W_Qᵀ (h, d, dh) and its group's W_K (h, dh, d) of every head, float32."""
    query = layer.query.float().view(folder.heads, folder.head_width, -1)
    key = layer.key.float().view(folder.groups, folder.head_width, -1)
    return query.mT, key.repeat_interleave(folder.heads // folder.groups, 0)


def compare(layer, folder, weight_ranks: np.ndarray, head_ranks: np.ndarray, heads: int) -> None:
    """Stop unless our effective ranks of the first layer are those of dense singular values."""
    dense = [effective_rank(torch.linalg.svdvals(upright(getattr(layer, name).float()))) for name in STORED]
    np.testing.assert_allclose(weight_ranks, dense, rtol=1e-4)
    query, key = (part[:heads] for part in kernel_parts(layer, folder))
    formed = [
        effective_rank(torch.linalg.svdvals(left @ right)[: folder.head_width]) for left, right in zip(query, key)
    ]
    np.testing.assert_allclose(head_ranks[:heads], formed, rtol=1e-3)
    _, values, _ = factored_svd(*kernel_parts(layer, folder))
    np.testing.assert_allclose(head_ranks, utils.effective_rank(values), rtol=1e-3)


def effective_rank(values: torch.Tensor) -> float:
    return utils.effective_rank(values).item()


def upright(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, or its transpose where that is the tall one."""
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T.contiguous()


def factored_svd(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """SVD of left @ right as TransformerLens' FactoredMatrix takes it: of both factors, then of the small middle."""
    left_u, left_s, left_vh = torch.linalg.svd(left, full_matrices=False)
    right_u, right_s, right_vh = torch.linalg.svd(right, full_matrices=False)
    middle = left_s[..., :, None] * left_vh @ right_u * right_s[..., None, :]
    u, values, vh = torch.linalg.svd(middle, full_matrices=False)
    return left_u @ u, values, right_vh.mT @ vh.mT


def measured(layer, folder: checkpoints.ModelFolder, heads: int) -> dict[str, float]:
    """CPU seconds per layer of the other ways."""
    floats = [getattr(layer, name).float() for name in STORED]
    query, key = kernel_parts(layer, folder)
    formed = sum(clock(torch.linalg.svd, left @ right) for left, right in zip(query[:heads], key)) / heads
    stored = sum(clock(torch.linalg.svdvals, matrix) for matrix in floats)
    turned = sum(clock(torch.linalg.svdvals, upright(matrix)) for matrix in floats)
    factored = clock(factored_svd, query, key)
    vectors = clock(lambda: torch.linalg.svd(layer.gate.float(), full_matrices=False))
    return {
        "dense": folder.heads * formed + stored,
        "dense, wide matrices transposed": folder.heads * formed + turned,
        "TransformerLens": factored + stored,
        "TransformerLens, wide matrices transposed": factored + turned,
        "TransformerLens, and W_gate's singular vectors": factored + stored + vectors,
        "weightwatcher": sum(clock(watched, matrix) for matrix in floats),
        "floor": clock(lambda: [floor(folder) for _ in range(3)]) / 3,
        "floor of 2.py": clock(lambda: [second_floor(folder) for _ in range(3)]) / 3,
    }


def watched(matrix: torch.Tensor) -> np.ndarray:
    return scipy.linalg.svd(matrix.numpy().astype(float), compute_uv=False)


def clock(work, *arguments) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def floor(folder: checkpoints.ModelFolder) -> None:
    """The least work of a layer: its matrices read as float32, their Gram matrices and eigenvalues, a QR per factor."""
    matrices = {name: read(folder, name) for name in STORED}
    for matrix in matrices.values():
        torch.linalg.eigvalsh(torch.from_numpy(gram(matrix, matrix.shape[0] <= matrix.shape[1]).T), UPLO="U")
    for name in ("query", "key"):
        torch.linalg.qr(matrices[name].unflatten(0, (-1, folder.head_width)).mT, mode="r")


def second_floor(folder: checkpoints.ModelFolder) -> None:
    """The least that 2.py does with a layer beyond heads: W_gate's leading vectors, and one product with each matrix."""
    heads = torch.randn(folder.heads * DIRECTIONS, folder.width)
    for name in ("gate", "up", "output", "down"):
        matrix = read(folder, name)
        (heads @ (matrix if matrix.shape[0] == folder.width else matrix.T)).square().sum(1)
        if name == "gate":
            width = folder.width
            scipy.linalg.eigh(gram(matrix, False).T, lower=False, subset_by_index=(width - DIRECTIONS, width - 1))


def read(folder: checkpoints.ModelFolder, name: str) -> torch.Tensor:
    """A matrix of the first layer as float32."""
    with safe_open(folder.path / "model-00001.safetensors", framework="pt") as tensors:
        return tensors.get_tensor(STORED[name]).float()


def gram(matrix: torch.Tensor, wide: bool) -> np.ndarray:
    """Lower triangle of W Wᵀ of a wide matrix, of WᵀW of a tall one: as many operations as it takes."""
    return blas.ssyrk(1.0, matrix.numpy().T, trans=int(wide), lower=1)


if __name__ == "__main__":
    main()
