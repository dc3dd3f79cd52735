"""The patching engine against a full forward pass with a hook per condition: conditions per second, in one run.

A condition replaces the last position's stream at a site in every prompt of one padded batch, and asks for one token's
log-probability. Both sides get the same batch, vectors and tokens; the hooked pass forms logits at the last position
only. Rounds alternate between the sides and the best of each counts. Log-probabilities must agree.
The Qwen2.5-3B shape has random bfloat16 weights (6.2 GB in memory) and random prompts; it says nothing about the real model.

Run        python -m bench.patching [--shape qwen2.5-3b] [--device auto]
"""

import argparse
import time
from collections.abc import Callable

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BatchEncoding

from lab import checkpoints, engine, models, questions, runs, statistics

# per shape: sites, prompts in the batch, conditions of the engine, conditions of the hooked way, rounds, tolerance
PLANS = {
    "tiny": ((2, 5, 7), 16, 200, 10, 5, 1e-4),
    "qwen2.5-3b": ((18, 34), 2, 128, 2, 3, 0.1),  # a logit above 2 has steps of 1/64 in bfloat16
}
PROMPT_TOKENS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=PLANS, default="tiny")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    sites, batch, *plan = PLANS[arguments.shape]
    device = runs.choose_device(arguments.device)
    load = trained_model if arguments.shape == "tiny" else random_model
    model, tokenizer, prompts = load(device, batch)
    length = models.padded_batch(tokenizer, prompts, device)["input_ids"].shape[1]
    layers = len(models.site_modules(model)) - 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{arguments.shape}, {model.dtype}, {layers} layers, {batch} prompts padded to {length} tokens, {name}")
    for site in sites:
        compare(model, tokenizer, prompts, site, *plan)


def trained_model(device: torch.device, batch: int) -> tuple:
    """(model, tokenizer, prompts): the embedded model on its own problems, few-shot, in two languages."""
    path = runs.ROOT / "tiny"
    model, tokenizer = models.load_model(checkpoints.find_model(str(path)), device, torch.float32)
    languages = questions.load_languages(["en", "zh"])
    problems, exemplars = (
        questions.load_problems([path / name], list(languages)) for name in ("problems.jsonl", "exemplars.jsonl")
    )
    prompts = [
        questions.prompt_text(problem, language, languages, exemplars) for problem in problems for language in languages
    ]
    return model, tokenizer, prompts[:batch]


def random_model(device: torch.device, batch: int) -> tuple:
    """(model, stand-in tokenizer, prompts): Qwen2.5-3B's exact shape; a prompt is a list of token ids."""
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
    size = (batch, PROMPT_TOKENS)
    prompts = torch.randint(config.vocab_size, size, generator=statistics.seeded(0, "prompts")).tolist()
    return model.eval(), random_tokenizer, prompts


def random_tokenizer(prompts: list[list[int]], **_) -> BatchEncoding:
    ids = torch.tensor(prompts)
    return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def compare(
    model, tokenizer, prompts: list, site: int, conditions: int, hooked_conditions: int, rounds: int, tolerance: float
) -> None:
    """Prints both sides' conditions per second at a site, the ratio, and the largest difference."""
    draw = statistics.seeded(0, f"patching {site}")
    tokens = torch.randint(model.config.vocab_size, (len(prompts), 1), generator=draw)
    candidates = [[row] for row in tokens.tolist()]
    inputs = models.padded_batch(tokenizer, prompts, model.device)
    own = engine.PatchedPrompts(model, tokenizer, prompts, candidates).streams[:, site, None].float().cpu()
    noise = torch.randn(len(prompts), conditions, own.shape[-1], generator=draw)
    vectors = (own + noise * own.norm(dim=-1, keepdim=True) / own.shape[-1] ** 0.5).to(model.device, model.dtype)
    some = vectors[:, :hooked_conditions]
    seconds = []
    for _ in range(rounds):
        prefill, patcher = timed(lambda: engine.PatchedPrompts(model, tokenizer, prompts, candidates), model.device)
        scoring, ours = timed(lambda patcher=patcher: patcher.scores(site, vectors)[..., 0], model.device)
        hooked, theirs = timed(lambda: hooked_scores(model, inputs, site, some, tokens), model.device)
        seconds.append((prefill, scoring, hooked))
        difference = (ours[:, :hooked_conditions] - theirs).abs().max().item()
        assert difference <= tolerance, f"site {site}: log-probabilities differ by {difference:.2g}"
    prefill, scoring, hooked = map(min, zip(*seconds))
    rate, with_prefill, without = hooked_conditions / hooked, conditions / (prefill + scoring), conditions / scoring
    print(
        f"site {site}: hooked {rate:.4g} conditions/s, engine {with_prefill:.4g}: {with_prefill / rate:.1f} times "
        f"({conditions} conditions and the prefill's {prefill:.3g} s; without it {without:.4g}: {without / rate:.1f} times)"
    )
    print(
        f"  largest difference in log-probability {difference:.1e} (tolerance {tolerance:g}); "
        f"standard deviation over conditions {ours.std(1).mean():.2g}"
    )


@torch.inference_mode()
def hooked_scores(model, inputs: dict, site: int, vectors: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of one token per prompt, a full pass for every condition. vectors (b, c, d) -> (b, c) on the CPU"""
    scores = []
    for condition in vectors.unbind(1):
        with models.edited_stream(model, {site: lambda _, new=condition: new[:, None]}, "last"):
            logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        scores.append(logits.log_softmax(-1).gather(1, tokens.to(logits.device)))
    return torch.cat(scores, 1).cpu()


def timed(work: Callable, device: torch.device) -> tuple:
    """(seconds, result), the device's queue emptied before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    wait(device)
    start = time.monotonic()
    result = work()
    wait(device)
    return time.monotonic() - start, result


if __name__ == "__main__":
    main()
