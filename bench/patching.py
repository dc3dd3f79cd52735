"""The patching engine against other ways to patch: conditions per second, in one run on the same prompts.

A condition replaces the last position's stream at a site; its score is every answer's log-probability within the answer set.
All get the same weights, prompts, vectors and answers: the one-token answers of the antonyms, few-shot (of the model
folder's own problems where it has some). Full ways (bench/peers.py) run the whole prompt through the model for every
condition: a hook of PyTorch's, nnsight, TransformerLens, pyvene. Others keep something of the prompt, which is not charged
to them; the engine's prefill is shown both charged and not.

Before anything is timed a way must give the engine's scores, within TOLERANCE; one that does not, or does not run, is said
so and not timed. In the first round every batch of --batches is tried, later only the fastest; the best round counts. On one
thread of a CPU seconds are the process's own, which other work on the machine changes little.
A random-weights model of Qwen2.5-3B's shape has bfloat16 weights (6.2 GB in memory) and random prompts and answers; it says
nothing about the real model.

The other libraries are no requirement of the suite. In an environment of their own, with requirements.txt installed first:
           pip install nnsight transformer-lens pyvene      (HookedTransformer: transformer-lens<4)
Run        python -m bench.patching [--model tiny | random-qwen2.5-3b | FOLDER | FILE.gguf] [--sites 20] [--prompts 1]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BatchEncoding

from bench import peers
from lab import answers, checkpoints, engine, models, questions, runs, statistics

RANDOM = "random-qwen2.5-3b"
# sites, prompts, conditions of the engine for each, conditions of the others, their batches
PLANS = {
    "tiny": ([2, 5, 7], 16, 200, 32, [1, 8, 32]),
    RANDOM: ([18, 34], 2, 128, 2, [1, 2]),
    None: (None, 1, 200, 8, [1, 4, 8]),
}
PROMPT_TOKENS, RANDOM_ANSWERS = 200, 170  # of the model with random weights; the antonyms have 173 answers of one token
# of log-probabilities within the answer set. In bfloat16 the shape's own pass behind a cache is 0.14 off its whole pass (the
# largest of 170 answers and 4 conditions), the engine 0.15, and another condition 3
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.3}


@dataclass
class Task:
    """What all ways are given."""

    model: torch.nn.Module
    tokenizer: Callable
    prompts: list
    answers: list[tuple[int]]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    device = runs.choose_device(arguments.device)
    random = arguments.model == RANDOM
    task = random_task(device, arguments.prompts) if random else few_shot(arguments.model, device, arguments.prompts)
    layers = len(models.site_modules(task.model)) - 1
    lengths = [len(ids) for ids in task.tokenizer(task.prompts)["input_ids"]]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"
    print(
        f"{arguments.model}: {task.model.dtype}, {layers} layers, {len(lengths)} prompt(s) of {min(lengths)} to "
        f"{max(lengths)} tokens, {len(task.answers)} answers of one token, {name}"
    )
    for site in arguments.sites or [layers * 5 // 6]:
        compare(task, site, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help=f"a folder or .gguf file; {RANDOM}: that shape, random weights")
    parser.add_argument("--sites", type=int, nargs="+", help="default: five sixths of the layers")
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--conditions", type=int, help="the engine's for each prompt")
    parser.add_argument("--others", type=int, help="the other ways' conditions for each prompt")
    parser.add_argument("--batches", type=int, nargs="+", help="the other ways' conditions in one pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=peers.WAYS, default=list(peers.WAYS), metavar="WAY")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    plan = PLANS.get(arguments.model, PLANS[None])
    for name, value in zip(("sites", "prompts", "conditions", "others", "batches"), plan):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def few_shot(name: str, device: torch.device, count: int) -> Task:
    """A model on its own problems, or the antonyms, in English and Chinese by turns."""
    folder = checkpoints.find_model(name)
    model, tokenizer = models.load_model(folder, device, torch.float32)
    languages = questions.load_languages(["en", "zh"])
    files = questions.problem_files(None, folder, "problems.jsonl", runs.ROOT / "data" / "antonyms.jsonl")
    problems = questions.load_problems(files, list(languages))
    exemplars, _ = questions.load_exemplars(None, folder, languages, files, problems)
    prompts = [
        questions.prompt_text(problem, language, languages, exemplars) for problem in problems for language in languages
    ]
    known = answers.answer_set(tokenizer, problems, languages).tokens
    return Task(model, tokenizer, prompts[:count], [tokens for tokens in known if len(tokens) == 1])


def random_task(device: torch.device, count: int) -> Task:
    """Qwen2.5-3B's exact shape; a prompt is a list of token ids, for a stand-in tokenizer."""
    shape = dict(checkpoints.QWEN25_3B_SHAPE)
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device=device).tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)  # to_empty left its buffers undefined
    draw = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            # a wide query and key: under near uniform attention a wrong position would hide within bfloat16's steps
            std = 0.06 if "q_proj" in name or "k_proj" in name else 0.02
            torch.nn.init.normal_(parameter, std=std, generator=draw)
        else:
            torch.nn.init.constant_(parameter, float(name.endswith("norm.weight")))
    draw = statistics.seeded(0, "prompts")
    prompts = torch.randint(config.vocab_size, (count, PROMPT_TOKENS), generator=draw).tolist()
    tokens = torch.randperm(config.vocab_size, generator=draw)[:RANDOM_ANSWERS].tolist()
    return Task(model.eval().requires_grad_(False), random_tokenizer, prompts, [(token,) for token in tokens])


def random_tokenizer(prompts: list[list[int]], return_tensors: str | None = None, **_) -> BatchEncoding:
    return BatchEncoding(
        {"input_ids": prompts, "attention_mask": [[1] * len(ids) for ids in prompts]}, tensor_type=return_tensors
    )


def compare(task: Task, site: int, arguments: argparse.Namespace) -> None:
    """Equality of every way with the engine, then conditions per second of those that are equal."""
    vectors = random_vectors(task, site, arguments.conditions)
    some = vectors[:, : arguments.others]
    ours = engine_scores(prefilled(task), site, vectors)
    spread = ours.std(1).mean().item()
    print(f"site {site}: log-probabilities have a standard deviation of {spread:.2g} over conditions", flush=True)
    equal = {}
    for name in arguments.ways:
        try:
            equal[name] = checked(name, task, site, some, ours)
        except ImportError as error:
            print(f"  {name}: not installed ({runs.first_line(error)})", flush=True)
        except Exception as error:  # a library that does not know a model, or this transformers, raises any type
            print(f"  {name}: not timed, {type(error).__name__}: {runs.first_line(error)}", flush=True)
    charged, free, found = measure(task, site, vectors, some, equal, arguments)
    print(f"  engine: {charged:.4g} conditions/s with its prefill, {free:.4g} without")
    for name, (batch, rate) in found.items():
        ratios = f"{free / rate:.1f} times as fast without its prefill"
        if name in peers.FULL:
            ratios = f"{charged / rate:.1f} times as fast, {ratios}"
        print(f"  {name}: {rate:.4g} conditions/s, {batch} at once; the engine is {ratios}")


def random_vectors(task: Task, site: int, count: int) -> torch.Tensor:
    """The prompts' own streams plus noise of their length, (b, c, d)."""
    own = engine.last_streams(task.model, task.tokenizer, task.prompts, len(task.prompts))[:, site, None]
    noise = torch.randn(len(own), count, own.shape[-1], generator=statistics.seeded(0, f"patching {site}"))
    vectors = own + noise * own.norm(dim=-1, keepdim=True) / own.shape[-1] ** 0.5
    return vectors.to(task.model.device, task.model.dtype)


def prefilled(task: Task) -> list[tuple[list[int], engine.PatchedPrompts]]:
    """(indices of a batch's prompts, their engine), as the scripts make them: what prompts begin alike with runs once."""
    return list(engine.patched_prompts(task.model, task.tokenizer, task.prompts, task.answers, len(task.prompts)))


def engine_scores(patchers: list[tuple], site: int, vectors: torch.Tensor) -> torch.Tensor:
    """(b, c, d) -> (b, c, answers) on the CPU"""
    found = {}
    for chosen, patcher in patchers:
        found |= dict(zip(chosen, patcher.scores(site, vectors[chosen])))
    return torch.stack([found[index] for index in range(len(vectors))])


@torch.inference_mode()
def checked(name: str, task: Task, site: int, vectors: torch.Tensor, ours: torch.Tensor) -> list[Callable]:
    """The way, for every prompt; ValueError where it does not score as the engine does. Prints by how much it differs."""
    way = peers.WAYS[name](task.model, site)
    tokens = task.tokenizer(task.prompts)["input_ids"]
    asked = [way(torch.tensor([ids], device=task.model.device)) for ids in tokens]
    found, tolerance = way_scores(task, asked, vectors[:, :4], 2), TOLERANCE[task.model.dtype]
    difference = (found - ours[:, : found.shape[1]]).abs().max().item()
    if not difference <= tolerance:
        raise ValueError(f"log-probabilities differ from the engine's by {difference:.2g}, allowed are {tolerance:g}")
    print(f"  {name}: differs by {difference:.1e} at most (tolerance {tolerance:g})", flush=True)
    return asked


@torch.inference_mode()
def way_scores(task: Task, asked: Sequence[Callable], vectors: torch.Tensor, batch: int) -> torch.Tensor:
    """Answers' log-probabilities within the set, `batch` conditions in one pass. (b, c, d) -> (b, c, answers) on the CPU"""
    columns = torch.tensor(task.answers, device=vectors.device)[:, 0]
    return torch.stack(
        [
            torch.cat([run(part)[:, columns].float().log_softmax(-1).cpu() for part in own.split(batch)])
            for run, own in zip(asked, vectors)
        ]
    )


def measure(task: Task, site: int, vectors, some, equal: dict, arguments) -> tuple[float, float, dict]:
    """The engine's conditions per second with and without its prefill; of the ways (fastest batch, conditions per second).

    The best of the rounds, in which all take turns.
    """
    prefills, scorings, fastest, device = [], [], {}, task.model.device
    for _ in range(arguments.rounds):
        seconds, patchers = timed(lambda: prefilled(task), device)
        prefills.append(seconds)
        seconds, _ = timed(lambda patchers=patchers: engine_scores(patchers, site, vectors), device)
        scorings.append(seconds)
        for name, asked in equal.items():
            for batch in [fastest[name][1]] if name in fastest else arguments.batches:
                seconds, _ = timed(lambda asked=asked, batch=batch: way_scores(task, asked, some, batch), device)
                fastest[name] = min(fastest.get(name, (seconds, batch)), (seconds, batch))
    conditions, others = (array.shape[0] * array.shape[1] for array in (vectors, some))
    rates = {name: (batch, others / seconds) for name, (seconds, batch) in fastest.items()}
    return conditions / (min(prefills) + min(scorings)), conditions / min(scorings), rates


def timed(work: Callable, device: torch.device) -> tuple:
    """(seconds, result), a GPU's queue emptied before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.monotonic
    wait(device)
    start = clock()
    result = work()
    wait(device)
    return clock() - start, result


if __name__ == "__main__":
    main()
