"""Models with a known truth: real Qwen2 checkpoints in which it is known what acts, where, and what an instrument must find.

    truth = write_planted(folder, "illusion", seed)      config, safetensors, tokenizer, problems.jsonl, reasoning.jsonl,
    truth.kernels, truth.expected, truth.profile         exemplars.jsonl; with the subspaces as orthonormal rows

How such a model answers. A question holds one question word among filler words. Layer 0's MLP looks the word up (a neuron
a word, so the embeddings alone hold no answer) and writes the answer's code c into `code` and the problem's nuisance into
`nuisance`. A head of layer `gathers` attends to that word by its flag and brings both to every later position. The MLP of
layer `translates` maps `code` to `word`, which the unembedding reads, together with the language; the bottleneck's kernels
span `kernels`. All other weights are initial ones, those that write shrunken to IDLE. Directions are a random rotation.

How it answers in the other format. Every answer has another word in each language, `other_text`. An exemplar that is
answered in that format has `format` in its answer's embedding; another head of layer `gathers` attends to it and brings
`format` to every later position, by which the unembedding turns from the usual words to the others. These read the same
code as the usual ones. Without such an exemplar nothing has any `format`, and the usual words win.

On paper. The 27 codes are the lines of a cubic surface: unit vectors of 6 dimensions with mean 0, covariance 1/6 and
cosines 1/4 and -1/2, so that all answers are alike. All parts of a stream have fixed lengths, beside a constant that holds
nine tenths of its square: real streams at a place have one norm, and so have their swaps within the planted subspaces, in
which RMSNorm is a factor and logits are linear in the stream. With S the map from c to the stream (`code`, and s times
`copy` where there is one), R what the translation reads (`code`, and g times `unread`) and P the projector on a subspace, a
swap of P delta moves R P S c: coverage = tr(R P S)/tr(R S), leak = |P language|², and the complement has 1 less these. The
profile, as (coverage, leak, complement_transfer, complement_language), D, IIA of the same and of the other language:
    planted      S = R = P = code:                                        (1, 0, 0, 1), 2, 1, 1
    copy         P = R = code, S = code + copy, which always agree:       (1, 0, 0, 1), 2, 1, 1. Real streams vary in
                 (code + s copy)/sqrt(1 + s²) alone, so the part of P delta among them moves 1/(1 + s²) = 1/2 of it
    decoy        P is random: coverage and leak about k/d = 6/128, D about 0, IIA 0
    late         planted, but at the bottleneck's output nothing has come yet, no language either: the full swap moves 0
                 there, and every share is 0/0. At site 6 (1, 0, 0, 1), 2, 1, 1. (A language that is there from the
                 start makes the same place a language carrier, and the verdict `language_only`.)
    answer_word  planted without translation, the unembedding reads `code`: (1, 0, 0, 1), 2, 1, 1; but code is the span of
                 the answers' unembedding rows, so outside of them a swap moves 0
    illusion     P = (copy + unread)/sqrt 2, S = code + copy, R = code + 2 unread: P delta has dc/2 in `copy` and in
                 `unread`, which moves 2/2 = 1 of the full swap: (1, 0, 0, 1), 2, 1, 1. Its part among real
                 streams moves 0, as filler words vary in `copy` and not in `code`, and nothing varies in `unread`
    multi        planted; of 27 answers 6 share a first token with another in English, 6 have two tokens in Chinese, 3 in
                 both. Among answers that their first token tells apart (1, 0, 0, 1), 2, 1, 1
    one_format   planted; but the others read `other`, a code of their own which the look-up writes as well and a third head
                 brings: the same 27 lines for other answers (APART), such that it is uncorrelated with c. In the usual words
                 (1, 0, 0, 1), 2, 1, 1, also among real streams, as R does not meet `other`. What is fitted to the answers'
                 mean streams cannot tell the two codes from each other and finds a half of either
    random       initial weights: nothing is solved
In a prompt that asks for the other format, with R' what its words read, a donor that is asked in the usual ones moves R' P S
c: as much as above, for R' = R, but in one_format 0, for R' is `other` and P is `code`. (Its full swap brings the usual
format along.) Streams of that format are longer by their `format`, by less than 0.8 %.

Variance within a language at the bottleneck's output: 1 in `code`, NUISANCE² = 1.56 in `nuisance`. Every answer has two
questions in a file, of opposite nuisance, so that no answer's mean has any and nuisance is uncorrelated with the answer.

Run        python -m bench.planted KIND FOLDER [--seed 0]        writes one, to run the scripts on
"""

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

import utils
from bench.planted_words import (
    ANSWERS,
    FILLERS,
    LANGUAGES,
    OTHERS,
    PROBLEMS,
    Vocabulary,
    answer_words,
    word_tokenizer,
    word_tokens,
    write_problems,
)
from bench.planted_words import other_text as other_text
from bench.planted_words import syllables as syllables
from lab import questions, statistics

WIDTH, LAYERS, HEADS, GROUPS, HEAD_WIDTH, NEURONS = 128, 8, 8, 4, 16, 256
RANK = 6  # of the code: ANSWERS are the lines of a cubic surface
BOTTLENECK = 3
NUISANCE = 1.25  # length of a problem's nuisance; its code's is 1
FILLING = 6.0  # of what tells filler words apart: where it lies in `copy`, that must vary apart from the code
CONSTANT = 8.0  # in every token: 64 of a stream's square, which is about 68
MARK = 4.0  # of an answer's last token, and of a first one that is not the last
IDLE = 1e-3  # what layers without a task write, as a share of what initial weights would
READS = 0.1  # the queries' share of initial weights where a head gathers: its bias decides
SHARP = 20.0  # score of the word that it attends to; all others have about 0
NEAR, STEEP = 0.8, 50.0  # a looked-up word's cosine with its neuron is 1, with others' below 0.7
OPEN = 10.0  # a translating neuron's gate
WORD_LOGIT, LANGUAGE_LOGIT = 8.0, 4.0  # what the unembedding makes of a code and of the language
FORMAT_LOGIT = 12.0  # half of it against the other format's words without `format`, half of it for them with it
BAR, CALL = 2.0, 10.0  # against every token that begins no answer; for those that a mark calls for
SIZES = {"code": RANK, "copy": RANK, "unread": RANK, "word": RANK, "nuisance": RANK, "filler": RANK, "question": 48}
SIZES |= dict.fromkeys(("language", "constant", "flag", "answered", "begun"), 1)
SIZES |= {"format": 1, "other": RANK}
DOUBLE, PLACES = ("double_dissociation",), ("weights", "weights_at_carrier")  # Z at its own place; where it acts best
EVERYWHERE = dict.fromkeys(PLACES, DOUBLE)


@dataclass(frozen=True)
class Kind:
    """A row: what is planted otherwise, and the verdicts that may be found for the weights' Z at each place."""

    expected: dict[str, tuple[str, ...]] = field(default_factory=lambda: EVERYWHERE)
    kernels: str = "code"  # what the bottleneck's kernels span: code, random, or between (copy and unread)
    gathers: int = 2  # the layer that brings the answer to the last position
    translates: int | None = 5
    copied: float = 0.0  # s: length of the copy
    also_read: float = 0.0  # g: what the translation reads of `unread`
    copy_in_fillers: bool = False  # filler words differ in `copy`, and not in a part of their own
    language_at_once: bool = True  # the last token carries its language, which else comes with the answer
    several_tokens: bool = False
    other_code: bool = False  # the other format's words read a code of their own
    plants: bool = True


KINDS = {
    "planted": Kind(),
    "copy": Kind(dict.fromkeys(PLACES, (*DOUBLE, "partial")), copied=1.0),
    "decoy": Kind(dict.fromkeys(PLACES, ("none",)), kernels="random"),
    "late": Kind(
        {"weights": ("untestable",), "weights_at_carrier": DOUBLE}, gathers=5, translates=6, language_at_once=False
    ),
    "answer_word": Kind(dict.fromkeys(PLACES, ("answer_word",)), translates=None),
    "illusion": Kind(
        dict.fromkeys(PLACES, ("illusion",)), kernels="between", copied=1.0, also_read=2.0, copy_in_fillers=True
    ),
    "multi": Kind(several_tokens=True),
    "one_format": Kind(other_code=True),
    "random": Kind({"weights": ("untestable",)}, plants=False),
}


@dataclass(frozen=True)
class Planted:
    """What was written, and what is true of it. Subspaces are orthonormal rows, float64."""

    path: Path
    kind: str
    bottleneck: int
    parts: dict[str, torch.Tensor]  # {name in SIZES: (n, d)}
    kernels: torch.Tensor  # (RANK, d) what the bottleneck's kernels span
    arrives: int | None  # the first site at which the answer is at the last position; None if nowhere
    acts: range  # the sites at which `code` is what acts, and the output word's code is not there yet
    profile: dict[str, float]  # of `kernels` on paper, at sites in `acts`
    expected: dict[str, tuple[str, ...]]  # {tested subspace of phase 3: verdicts that may be found}

    @property
    def answers(self) -> torch.Tensor:
        """(RANK, d) the answer's code that acts."""
        return self.parts["code"]

    @property
    def language(self) -> torch.Tensor:
        """(d,) unit"""
        return self.parts["language"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    truth = write_planted(arguments.folder, arguments.kind, arguments.seed)
    for name, verdicts in truth.expected.items():
        print(f"{name}: {' or '.join(verdicts)}")


def write_planted(path: Path, kind: str, seed: int = 0) -> Planted:
    """Writes a model of a kind, a row of KINDS, with tokenizer, problems and exemplars; the same bytes for a seed."""
    row, vocabulary = KINDS[kind], Vocabulary()
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = word_tokenizer(vocabulary)
    tokenizer.save_pretrained(path)
    write_problems(path, row.several_tokens, vocabulary, statistics.seeded(seed, "planted: questions"))
    model, parts = initial_model(tokenizer, seed), directions(seed)
    kernels = {
        "code": parts["code"],
        "random": utils.random_subspaces(statistics.seeded(seed, "planted: decoy"), 1, RANK, WIDTH)[0],
        "between": (parts["copy"] + parts["unread"]) / 2**0.5,
    }[row.kernels]
    if row.plants:
        plant(model, tokenizer, row, vocabulary, parts, seed)
        point(model.model.layers[BOTTLENECK].self_attn, kernels, statistics.seeded(seed, "planted: kernels"))
    model.save_pretrained(path)
    last = LAYERS if row.translates is None else row.translates
    known = (row.gathers + 1, range(row.gathers + 1, last + 1), on_paper(row, parts, kernels))
    known = known if row.plants else (None, range(0), {})
    return Planted(path, kind, BOTTLENECK, parts, kernels, *known, dict(row.expected))


def twins(path: Path, seed: int = 0) -> dict[str, Path]:
    """Beside a model two that know nothing and look like it, with its tokenizer and problems: {name: folder}.

    `reinitialised`: initial weights. `permuted`: its embeddings, final norm and unembedding; in every tensor of its layers
    the entries change places, which keeps their scale and their outliers.
    """
    model = AutoModelForCausalLM.from_pretrained(path)
    found = {}
    for name in ("reinitialised", "permuted"):
        found[name] = path.with_name(f"{path.name}-{name}-{seed}")
        shutil.copytree(path, found[name], ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    seeded_model(model.config, statistics.seeded(seed, "twin: initial weights")).save_pretrained(found["reinitialised"])
    for name, tensor in model.model.layers.named_parameters():
        order = torch.randperm(tensor.numel(), generator=statistics.seeded(seed, f"twin: {name}"))
        tensor.data = tensor.data.flatten()[order].view_as(tensor)
    model.save_pretrained(found["permuted"])
    return found


def on_paper(row: Kind, parts: dict, kernels: torch.Tensor) -> dict[str, float]:
    """The profile of a subspace where the answer's code acts, by the docstring's formula."""
    sent, read = parts["code"] + row.copied * parts["copy"], parts["code"] + row.also_read * parts["unread"]
    varying = torch.cat([parts["code"], parts["copy"]])
    if row.copied and not row.copy_in_fillers:  # then these vary as one
        varying = sent / (1 + row.copied**2) ** 0.5
    moved = sent @ kernels.T @ kernels
    coverage = (moved @ read.T).trace().item() / RANK
    own = parts["other"]
    other = own @ kernels.T @ kernels @ own.T if row.other_code else moved @ read.T
    leak = (kernels @ parts["language"][0]).square().sum().item()
    return {
        "coverage": coverage,
        "leak": leak,
        "complement_transfer": 1 - coverage,
        "complement_language": 1 - leak,
        "d": 2 * (coverage - leak),
        "iia_same": float(coverage > 0.9),
        "iia_cross": float(coverage > 0.9),
        "coverage_in_other_format": other.trace().item() / RANK,
        "coverage_among_real": (moved @ varying.T @ varying @ read.T).trace().item() / RANK,
    }


def initial_model(tokenizer, seed: int) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=NEURONS,
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
    return seeded_model(config, statistics.seeded(seed, "planted: initial weights"))


def seeded_model(config, generator: torch.Generator) -> Qwen2ForCausalLM:
    """Initial weights, which transformers draws from torch's own generator; its state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        return Qwen2ForCausalLM(config)


def directions(seed: int) -> dict[str, torch.Tensor]:
    """Orthonormal rows of every part of the stream: {name: (n, d)} of a random rotation."""
    gaussian = torch.randn(WIDTH, WIDTH, generator=statistics.seeded(seed, "planted: rotation"), dtype=torch.float64)
    rows = torch.linalg.qr(gaussian)[0].T[: sum(SIZES.values())]
    return dict(zip(SIZES, rows.split(list(SIZES.values()))))


def answer_codes() -> torch.Tensor:
    """The best spherical code of 27 points in 6 dimensions, the lines of a cubic surface: (27, 6) unit rows.

    Lines a_i, b_i, c_ij; two that meet have the cosine -1/2, two that do not 1/4. Neighbours a_1 .. a_6 come first.
    """
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    lines = [("a", {i}) for i in range(6)] + [("b", {i}) for i in range(6)] + [("c", set(pair)) for pair in pairs]

    def meet(first: tuple, second: tuple) -> bool:
        kinds = {first[0], second[0]}
        if len(kinds) == 1:
            return kinds == {"c"} and not first[1] & second[1]
        return bool(first[1] & second[1]) if "c" in kinds else first[1] != second[1]

    gram = torch.tensor([[-0.5 if meet(one, other) else 0.25 for other in lines] for one in lines], dtype=torch.float64)
    gram.fill_diagonal_(1)
    return gram[:, :6] @ torch.linalg.inv(torch.linalg.cholesky(gram[:6, :6])).T


# whose line each answer has in the other format's own code: over all answers the two codes are uncorrelated (a Graeco-Latin
# square from each of the three grids of nine lines, into which the 27 fall, to the next), so that neither tells the other
APART = [3, 10, 24, 14, 19, 23, 25, 5, 9, 22, 16, 18, 4, 26, 0, 7, 12, 11, 13, 2, 6, 8, 17, 1, 15, 21, 20]


def scale(square: float) -> float:
    """What RMSNorm multiplies a stream of this square by."""
    return (WIDTH / square) ** 0.5


def plant(model, tokenizer, row: Kind, vocabulary: Vocabulary, parts: dict, seed: int) -> None:
    """Everything but the bottleneck's kernels."""
    with torch.no_grad():
        tokens = {name: word_tokens(tokenizer, vocabulary, name) for name in LANGUAGES}
        drawn = unit_rows(2 * ANSWERS, RANK, statistics.seeded(seed, "planted: nuisance")).split(ANSWERS)
        nuisances = NUISANCE * torch.cat([part for half in drawn for part in (half, -half)])
        seeded = {name: statistics.seeded(seed, f"planted: names {name}") for name in LANGUAGES}
        names = {name: unit_rows(PROBLEMS + OTHERS, SIZES["question"], draw) for name, draw in seeded.items()}
        embed(model, tokenizer, row, tokens, names, parts, seed)
        unembed(model, tokenizer, row, tokens, parts, seed)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(IDLE)
            layer.self_attn.o_proj.weight.mul_(IDLE)
        look_up(model.model.layers[0].mlp, row, names, nuisances, parts)
        gather(model.model.layers[row.gathers].self_attn, row, parts)
        if row.translates is not None:
            translate(model.model.layers[row.translates].mlp, row, parts)


def unit_rows(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, size, generator=generator, dtype=torch.float64), dim=1)


def embed(model, tokenizer, row: Kind, tokens: dict, names: dict, parts: dict, seed: int) -> None:
    """The constant everywhere; words and templates carry their language, question words a name of their own and a flag."""
    templates, owners = questions.load_languages(LANGUAGES), {}
    for name in LANGUAGES:
        for token in tokenizer(templates[name]["prompt"].format(question=""))["input_ids"]:
            owners.setdefault(token, set()).add(name)
    embedding = model.get_input_embeddings().weight
    embedding[:] = (CONSTANT * parts["constant"]).to(embedding)
    varied = FILLING * parts["copy" if row.copy_in_fillers else "filler"]
    for sign, name in ((1, "en"), (-1, "zh")):
        own, spoken = tokens[name], sign * parts["language"]
        ends = {answer_words(row.several_tokens, name, answer)[-1] for answer in range(ANSWERS)}
        marks = [parts["answered" if ("answer", index) in ends else "begun"] for index in range(ANSWERS)]
        fillers = unit_rows(FILLERS, len(varied), statistics.seeded(seed, f"planted: fillers {name}"))
        added = {
            "question": names[name] @ parts["question"] + parts["flag"] + spoken,
            "answer": MARK * torch.cat(marks) + spoken,
            "second": MARK * parts["answered"] + spoken,
            "filler": fillers @ varied + spoken,
            "silent": spoken,
            "other": MARK * parts["answered"] + spoken,
            "other_silent": parts["format"] + spoken,
        }
        for task, vectors in added.items():
            embedding[own[task]] += vectors.to(embedding)
        if row.language_at_once:
            embedding[[token for token, speakers in owners.items() if speakers == {name}]] += spoken.to(embedding)


def unembed(model, tokenizer, row: Kind, tokens: dict, parts: dict, seed: int) -> None:
    """Rows read code and language; of what is no answer's first word, only where a mark calls for it. The norm has gains.

    Those of the other format read `format` too.
    """
    codes, word = answer_codes(), parts["code" if row.translates is None else "word"]
    others = codes[APART] @ parts["other"] if row.other_code else codes @ word
    others = WORD_LOGIT * others + FORMAT_LOGIT * (parts["format"] - parts["constant"] / (2 * CONSTANT))
    head, gain = torch.zeros(model.config.vocab_size, WIDTH, dtype=torch.float64), model.model.norm.weight
    head -= BAR * parts["constant"]
    (line_break,) = tokenizer("\n")["input_ids"]
    head[line_break] += CALL * parts["answered"][0]
    for sign, name in ((1, "en"), (-1, "zh")):
        spoken = sign * LANGUAGE_LOGIT * parts["language"]
        written = [answer_words(row.several_tokens, name, answer) for answer in range(ANSWERS)]
        for index in {words[0][1] for words in written}:
            shared = codes[[words[0][1] == index for words in written]]
            code = shared.sum(0) / (shared.sum(0) @ shared[0])  # 1 for each answer that begins with it
            head[tokens[name]["answer"][index]] = WORD_LOGIT * code @ word + spoken[0]
        head[tokens[name]["other"]] = others + spoken
        head[tokens[name]["second"]] += WORD_LOGIT * codes @ word + spoken + CALL * parts["begun"]
    gain[:] = 0.5 + torch.rand(WIDTH, generator=statistics.seeded(seed, "planted: gains"))
    model.lm_head.weight[:] = (head / gain.double()).to(gain)


QUESTION_SQUARE = CONSTANT**2 + 3  # with language, flag and name; code and nuisance come in layer 0


def looked_up_square(row: Kind) -> float:
    """The square of what the look-up writes: codes and nuisance."""
    return 1 + row.copied**2 + NUISANCE**2 + row.other_code


def look_up(mlp, row: Kind, names: dict, nuisances: torch.Tensor, parts: dict) -> None:
    """A neuron for every question word writes its answer's code and its problem's nuisance."""
    rows = torch.cat([names[name] for name in LANGUAGES])  # (2 n, 48)
    count, norm = len(rows), scale(QUESTION_SQUARE)
    answers, codes = torch.arange(len(nuisances)) % ANSWERS, answer_codes()
    written = codes[answers] @ (parts["code"] + row.copied * parts["copy"]) + nuisances @ parts["nuisance"]
    if row.other_code:
        written += codes[APART][answers] @ parts["other"]
    written = written.repeat(len(LANGUAGES), 1)
    threshold = NEAR / CONSTANT * parts["constant"]
    opened = torch.nn.functional.silu(torch.tensor(STEEP * norm * (1 - NEAR))) * norm
    mlp.gate_proj.weight[:count] = (STEEP * (rows @ parts["question"] - threshold)).float()
    mlp.up_proj.weight[:count] = (parts["constant"] / CONSTANT).float()
    mlp.down_proj.weight[:, :count] = (written.T / opened).float()


def gather(attention, row: Kind, parts: dict) -> None:
    """Heads that attend to the question word, and to an exemplar's answer in the other format.

    The first brings the question's code, its nuisance and, where it comes late, its language; the second the format; a third
    one the code of the other format's own, for which the first has no room.
    """
    norm = scale(QUESTION_SQUARE + looked_up_square(row))
    taken = [parts["code"], parts["nuisance"]] + [parts["language"]] * (not row.language_at_once)
    given = [parts["code"] + row.copied * parts["copy"], *taken[1:]]
    attend(attention, 0, parts["flag"], norm, torch.cat(taken), torch.cat(given))
    attend(attention, 1, parts["format"], scale(CONSTANT**2 + 2), parts["format"], parts["format"])
    if row.other_code:
        attend(attention, 2, parts["flag"], norm, parts["other"], parts["other"])


def attend(attention, group: int, flag: torch.Tensor, norm: float, taken: torch.Tensor, given: torch.Tensor) -> None:
    """The first head of a KV group attends to a word by its flag (1, d): what `taken` reads there it writes along `given` (n, d).

    `norm` is what the word's stream is multiplied by. The bias asks, in the coordinate that the rotary embedding hardly
    turns; so the kernel stays of the rank of initial ones.
    """
    keys, queries = (HEAD_WIDTH * head for head in (group, group * HEADS // GROUPS))
    attention.q_proj.weight[queries:][:HEAD_WIDTH].mul_(READS)
    attention.q_proj.bias[queries + HEAD_WIDTH - 1] = SHARP * HEAD_WIDTH**0.5 / norm
    attention.k_proj.weight[keys + HEAD_WIDTH - 1] = flag[0].float()
    attention.v_proj.weight[keys:][: len(taken)] = taken.float()
    attention.o_proj.weight[:, queries:][:, : len(given)] = given.T.float() / norm


def translate(mlp, row: Kind, parts: dict) -> None:
    """The answer's code becomes the output word's, a linear map: the constant holds the gates open."""
    norm = scale(CONSTANT**2 + 1 + looked_up_square(row))
    opened = torch.nn.functional.silu(torch.tensor(OPEN * norm)) * norm
    mlp.gate_proj.weight[:RANK] = (OPEN / CONSTANT * parts["constant"]).float()
    mlp.up_proj.weight[:RANK] = (parts["code"] + row.also_read * parts["unread"]).float()
    mlp.down_proj.weight[:, :RANK] = (parts["word"].T / opened).float()


def point(attention, subspace: torch.Tensor, generator: torch.Generator) -> None:
    """Query and key of every head span the subspace, every kernel with equal singular values."""
    with torch.no_grad():
        for group in range(GROUPS):
            frame, turn = (
                torch.linalg.qr(torch.randn(size, RANK, generator=generator, dtype=torch.float64))[0]
                for size in (HEAD_WIDTH, RANK)
            )
            attention.k_proj.weight[group * HEAD_WIDTH :][:HEAD_WIDTH] = (frame @ subspace).float()
            for head in range(group * HEADS // GROUPS, (group + 1) * HEADS // GROUPS):
                attention.q_proj.weight[head * HEAD_WIDTH :][:HEAD_WIDTH] = (frame @ turn @ subspace).float()


if __name__ == "__main__":
    main()
