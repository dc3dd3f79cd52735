"""On paper: what a hunt takes with models that do not run here, from their shapes alone. Nothing is measured.

Memory     the weights in 16 bits; keys and values of the prompts that phase 3 keeps; on GPUs of --memory gigabytes, of which
           a sixth is left to activations, how many that takes and the flags that spread or share the work
Operations of every part of a hunt, as lab/expected.py counts them (calibrated on a hunt of a 0.5 B model), and the seconds
           that they take at a speed that is given: --speed for the running model, in units of 1e12 a second, and --structure
           for the Gram matrices of 1.py and 2.py. A hunt has expected.STARTS seconds more, which no size changes.

Run        python -m bench.arithmetic [--speed 100] [--structure 0.5] [--memory 80]
"""

import argparse
from math import ceil, prod
from pathlib import Path

from transformers import AutoConfig

from lab import checkpoints, expected
from reports import page

SHAPES = {  # from the models' published configurations
    "Qwen2.5-3B": {},
    "Qwen2.5-7B": {
        "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "Qwen2.5-72B": {
        "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": 8,
        "intermediate_size": 29568, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
PROMPTS, TOKENS = 80, 250  # that phase 3 patches: 40 problems in two languages, few-shot
BYTES = 2  # of a weight, and of a key or value
SHARE = 5 / 6  # of a GPU's memory for these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--speed", type=float, default=100, help="1e12 operations a second that the running model reaches"
    )
    parser.add_argument(
        "--structure", type=float, default=0.5, help="the same of 1.py's and 2.py's products (a CPU's, float64)"
    )
    parser.add_argument("--memory", type=float, default=80, help="gigabytes of a GPU")
    arguments = parser.parse_args()
    rows = []
    for name, changes in SHAPES.items():
        shape = checkpoints.QWEN25_3B_SHAPE | changes
        config = AutoConfig.for_model(**shape)
        shapes = checkpoints.parameter_shapes(Path(name), config)
        head = config.hidden_size // config.num_attention_heads
        kept = 2 * config.num_hidden_layers * config.num_key_value_heads * head * PROMPTS * TOKENS * BYTES
        counts = expected.operations(shapes, config.vocab_size)
        at = {expected.STRUCTURE: arguments.structure}
        seconds = {part: count / 1e12 / at.get(part, arguments.speed) for part, count in counts.items()}
        memory = [sum(map(prod, shapes.values())) * BYTES, kept]
        gpus = ceil(sum(memory) / 1e9 / (arguments.memory * SHARE))
        whole = expected.minutes(expected.STARTS + sum(seconds.values()))
        flags = "`--processes N` on N GPUs" if gpus == 1 else "none: spread over them by itself"
        shown = [*(f"{size / 1e9:.1f} GB" for size in memory), str(gpus), flags, whole]
        rows.append([name, *shown, *(f"{value:.{0 if value >= 10 else 1}f}" for value in seconds.values())])
    columns = ["model", "weights", "keys and values", f"GPUs of {arguments.memory:g} GB", "flags", "hunt"]
    print(page.table([*columns, *(f"{part}, s" for part in counts)], rows))


if __name__ == "__main__":
    main()
