"""Models with a known answer: real Qwen2 checkpoints in which an answer subspace and a language direction are planted.

Every problem is one question word (and filler words, the noise) in two languages. A question word's embedding is its
answer's direction plus its language's direction. The first layer attends evenly and copies that content to all later
positions; every other layer leaves the stream as it is; the unembedding of an answer word is answer plus language
direction. So the model answers each problem, in the language it was asked in, through the planted subspace alone, and
ends the line: answer words carry a direction of their own that the line break is read from. The bottleneck layer's
kernels span the answer directions (planted) or a random subspace (decoy).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from bench.planted import syllables
from lab import runs

WIDTH, LAYERS, HEADS, GROUPS, HEAD_WIDTH = 64, 6, 4, 2, 16
BOTTLENECK = 4
FILLERS = 30
REASONING = 12  # problems of a second file, which the model solves in the same way
LANGUAGE_SHARE = (
    0.1  # attention divides the one answer direction by the prompt's length, but not the language of all tokens
)
LANGUAGES = ("en", "zh")


@dataclass
class Control:
    path: Path
    answers: torch.Tensor  # (rank, d) orthonormal rows: the planted Z
    language: torch.Tensor  # (d,) unit


def write_control(
    path: Path,
    kind: str = "planted",
    rank: int = 6,
    problems: int = 20,
    noise: float = 0.0,
    seed: int = 0,
    rotate: bool = True,
    language_share: float = 1.0,
) -> Control:
    """Write a checkpoint with tokenizer and problems; `kind` is planted, decoy or random (untouched initial weights).

    Attention divides the one question word by the prompt's length, but not the language, which all tokens carry: for
    patching, `language_share` below 1 makes the first layer gather less of it.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 2 * problems + FILLERS + 2 * REASONING
    words = {
        "en": [syllables(index) for index in range(count)],
        "zh": [chr(0x5000 + 2 * index) + chr(0x5001 + 2 * index) for index in range(count)],
    }
    tokenizer = word_tokenizer(words)
    tokenizer.save_pretrained(path)
    write_problems(path, words, problems, noise > 0, generator)
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=GROUPS,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=WIDTH**-0.5,
        )
    )
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0] if rotate else torch.eye(WIDTH)
    answers, language = basis[:rank], basis[rank]
    if kind != "random":
        plant(model, tokenizer, words, problems, answers, language, basis, noise, language_share, generator)
        kernels = answers if kind == "planted" else torch.linalg.qr(torch.randn(WIDTH, rank, generator=generator))[0].T
        plant_kernels(model.model.layers[BOTTLENECK].self_attn, kernels, generator)
    model.save_pretrained(path)
    return Control(path, answers.double(), language.double())


def word_tokenizer(words: dict) -> Qwen2Tokenizer:
    """Qwen2's tokenizer class with every word, and every piece of the prompt templates, as one token."""
    pieces = (
        [f" {word}" for word in words["en"]]
        + words["zh"]
        + ["Question", ":", "\nAnswer", "问题", "：", "\n", "答案", "\n\n"]
    )
    return Qwen2Tokenizer(model_max_length=256).train_new_from_iterator(
        [pieces], 4000, min_frequency=1, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )


def write_problems(path: Path, words: dict, problems: int, fillers: bool, generator: torch.Generator) -> None:
    """problems.jsonl and reasoning.jsonl: a question word (and fillers of its own in each language), and its answer word.

    exemplars.jsonl: one exemplar of the silent word, which carries its language and nothing else.
    """
    asked, answers, silent = places(problems)
    silent = {language: words[language][silent] for language in LANGUAGES}
    exemplar = {"id": "exemplar", "answer": silent["en"], "question": silent, "answer_text": silent}
    (path / "exemplars.jsonl").write_text(json.dumps(exemplar, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = []
    for index, (asks, answers_it) in enumerate(zip(asked, answers)):
        question = {}
        for language, joint in (("en", " "), ("zh", "")):
            chosen = (2 * problems + torch.randint(FILLERS - 1, (4,), generator=generator)).tolist() if fillers else []
            question[language] = joint.join(words[language][word] for word in [asks, *chosen])
        answer = {language: words[language][answers_it] for language in LANGUAGES}
        line = {"id": str(index), "category": "planted", "answer": answer["en"], "question": question}
        lines.append(json.dumps(line | {"answer_text": answer}, ensure_ascii=False))
    (path / "problems.jsonl").write_text("\n".join(lines[:problems]) + "\n", encoding="utf-8")
    (path / "reasoning.jsonl").write_text("\n".join(lines[problems:]) + "\n", encoding="utf-8")


def places(problems: int) -> tuple[list[int], list[int], int]:
    """Which words ask and which answer, of problems and then of the second file's; and the silent word, the last filler."""
    second = 2 * problems + FILLERS
    asked = [*range(problems), *range(second, second + REASONING)]
    answers = [*range(problems, 2 * problems), *range(second + REASONING, second + 2 * REASONING)]
    return asked, answers, second - 1


def plant(model, tokenizer, words, problems, answers, language, basis, noise, language_share, generator) -> None:
    """Embeddings, the gathering first layer, idle other layers, and the unembedding."""
    rank = len(answers)
    answered = basis[rank + 1]
    asked, answering, silent = places(problems)
    drawn = [torch.randn(problems, rank, generator=generator), torch.randn(REASONING, rank, generator=generator)]
    codes = torch.nn.functional.normalize(torch.cat(drawn), dim=1) @ answers
    embedding, head = model.model.embed_tokens.weight.data.zero_(), model.lm_head.weight.data.zero_()
    templates = json.loads((runs.ROOT / "data" / "languages.json").read_text(encoding="utf-8"))
    for sign, name in ((1, "en"), (-1, "zh")):
        for token in tokenizer(templates[name]["prompt"].format(question=""))["input_ids"]:
            embedding[token] = sign * language
        for index, word in enumerate(words[name]):
            (token,) = tokenizer(templates[name]["answer"].format(answer=word))["input_ids"]
            if index in asked:
                embedding[token] = codes[asked.index(index)] + sign * language
            elif index in answering:
                head[token] = codes[answering.index(index)] + sign * language
                embedding[token] = 10 * answered
            elif index == silent:
                embedding[token] = sign * language
            else:
                embedding[token] = noise * torch.randn(WIDTH, generator=generator) / WIDTH**0.5 + sign * language
    (line_break,) = tokenizer("\n")["input_ids"]
    embedding[line_break], head[line_break] = 0, 10 * answered
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        layer.mlp.down_proj.weight.data.zero_()
        attention.o_proj.weight.data.zero_()
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.bias.data.zero_()
        if (
            index == 0
        ):  # even attention; the first value group carries the planted coordinates, the first head returns them
            attention.q_proj.weight.data.zero_()
            kept = basis[: rank + 2].clone()
            kept[rank] *= language_share**0.5  # on the way in and on the way out
            attention.v_proj.weight.data.zero_()[: rank + 2] = kept
            attention.o_proj.weight.data[:, : rank + 2] = kept.T
            tiny = 1e-3 * torch.randn(attention.q_proj.weight.shape, generator=generator)
            attention.q_proj.weight.data += tiny  # so that the layer's kernels have the rank of random ones


def plant_kernels(attention, subspace: torch.Tensor, generator: torch.Generator) -> None:
    """Query and key of every head span the subspace, with equal singular values."""
    frame = torch.linalg.qr(torch.randn(HEAD_WIDTH, len(subspace), generator=generator))[0]
    for projection, count in ((attention.q_proj, HEADS), (attention.k_proj, GROUPS)):
        projection.weight.data = torch.cat([frame @ subspace] * count)
