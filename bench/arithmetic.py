"""On paper: what a hunt takes with models that do not run here, from their shapes alone. Nothing is measured.

Memory     the weights in 16 bits; keys and values of the prompts that phase 3 keeps
Operations of every part of a hunt, as lab/expected.py counts them (calibrated on a hunt of a 0.5 B model), and the seconds
           that they take at a speed that is given: --speed for the running model, in units of 1e12 a second. 1.py and 2.py
           run on the CPU in float64 at --cpu of these units.

Run        python -m bench.arithmetic [--speed 100] [--cpu 0.5]
"""

import argparse
from math import prod
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--speed", type=float, default=100, help="1e12 operations a second that the running model reaches"
    )
    parser.add_argument("--cpu", type=float, default=0.5, help="the same of float64 products on the CPU")
    arguments = parser.parse_args()
    rows = []
    for name, changes in SHAPES.items():
        shape = checkpoints.QWEN25_3B_SHAPE | changes
        config = AutoConfig.for_model(**shape)
        shapes = checkpoints.parameter_shapes(Path(name), config)
        head = config.hidden_size // config.num_attention_heads
        kept = 2 * config.num_hidden_layers * config.num_key_value_heads * head * PROMPTS * TOKENS * BYTES
        counts = expected.operations(shapes, config.vocab_size)
        at = {expected.STRUCTURE: arguments.cpu}
        seconds = {part: count / 1e12 / at.get(part, arguments.speed) for part, count in counts.items()}
        memory = [sum(map(prod, shapes.values())) * BYTES, kept]
        shown = [*(f"{size / 1e9:.1f} GB" for size in memory), *(page.show(value, 2) for value in seconds.values())]
        rows.append([name, *shown])
    print(page.table(["model", "weights", "keys and values", *(f"{part}, s" for part in counts)], rows))


if __name__ == "__main__":
    main()
