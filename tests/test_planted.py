"""Models with a known truth: what their docstring works out on paper, measured in the models themselves."""

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import utils
from bench import planted
from lab import answers, checkpoints, models, problems, questions, statistics, swaps, transfer

SEEDS = (0, 1)
ACTING = [kind for kind, row in planted.KINDS.items() if row.plants]
PLANTED = [kind for kind in ACTING if kind != "decoy"]
PLACE = planted.BOTTLENECK + 1  # the bottleneck's output
SITES = range(planted.LAYERS + 1)
DONORS = 2
SHARES = ("coverage", "leak", "complement_transfer", "complement_language", "d", "iia_same", "iia_cross")
EXACT = 2e-3  # what layers without a task add, as a share of the full swap's effect


class Asked:
    """A model and its problems, asked in both languages; those whose answer its first token tells apart are swapped."""

    def __init__(self, truth: planted.Planted):
        self.truth, self.languages = truth, questions.load_languages(planted.LANGUAGES)
        self.folder = checkpoints.find_model(str(truth.path))
        self.model, self.tokenizer = models.load_model(self.folder, torch.device("cpu"), torch.float32)
        self.exemplars = self.read("exemplars")
        asked = self.read("problems")
        everything = answers.answer_set(self.tokenizer, asked, self.languages)
        at_once = everything.at_once(range(len(everything.answers)))
        self.problems = [problem for problem in asked if everything.place(problem) in at_once]
        self.known = answers.answer_set(self.tokenizer, self.problems, self.languages)
        self.places = np.array([self.known.place(problem) for problem in self.problems])
        self.patching = self.patch(self.problems, self.known)
        self.blocks = transfer.donor_blocks(self.places, statistics.seeded(0, "donors"), DONORS)

    @cached_property
    def full(self) -> dict[int, dict[str, float]]:
        """The full swap at every site."""
        return {site: self.measured(self.patching.scores(site, self.blocks)) for site in SITES}

    def read(self, name: str) -> list:
        return problems.load_problems([self.truth.path / f"{name}.jsonl"], list(self.languages))

    @cached_property
    def in_other_format(self) -> "Asked":
        """The same model and problems, asked and answered in the other format; all of the file's, as all are one word there."""
        asked = Asked.__new__(Asked)
        vars(asked).update(vars(self), exemplars=in_other_format(self.exemplars))
        asked.problems = in_other_format(self.read("problems"))
        asked.known = answers.answer_set(self.tokenizer, asked.problems, self.languages)
        asked.places = np.array([asked.known.place(problem) for problem in asked.problems])
        asked.patching = asked.patch(asked.problems, asked.known)
        return asked

    def prompts(self, asked: list) -> list[list[str]]:
        return [
            [questions.prompt_text(problem, name, self.languages, self.exemplars) for problem in asked]
            for name in self.languages
        ]

    def patch(self, asked: list, known: answers.AnswerSet) -> swaps.Patching:
        everyone = [np.arange(len(asked))]
        return swaps.Patching(self.model, self.tokenizer, self.prompts(asked), known.tokens, 32, everyone)

    def logits(self, language: int, edits: dict) -> torch.Tensor:
        """Of all problems in a language, at the last position, whose stream is edited: (problems, vocabulary)"""
        batch = models.padded_batch(self.tokenizer, self.prompts(self.problems)[language], self.model.device)
        with torch.inference_mode(), models.edited_stream(self.model, edits, "last"):
            return self.model(**batch).logits[:, -1]

    def firsts(self, language: int) -> torch.Tensor:
        """(problems,) the token with which each answer begins"""
        return torch.tensor([self.known.tokens[place * len(self.languages) + language][0] for place in self.places])

    def measured(self, scores: np.ndarray) -> dict[str, float]:
        scores = scores.reshape(*scores.shape[:-1], -1, 2)
        found = transfer.estimates(transfer.effects(scores, self.places, self.blocks))
        return {name: values[0] for name, values in found.items()}

    def swapped(self, site: int, basis: torch.Tensor, outside: bool = False) -> dict[str, float]:
        return self.measured(self.patching.scores(site, self.blocks, basis.float()[None], outside))

    def profile(self, site: int, basis: torch.Tensor) -> dict[str, float]:
        inside, outside = (self.swapped(site, basis, side) for side in (False, True))
        found = transfer.ratios(inside, outside, self.full[site])
        return found | {"iia_same": inside["iia_same"], "iia_cross": inside["donor_recipient"]}

    def moved_by(self, site: int, matrix: torch.Tensor) -> dict[str, float]:
        """A swap of `delta @ matrix`, which need not be a projection."""
        count, given = len(self.problems), np.array([np.flatnonzero(row) for row in self.blocks])  # (problems, DONORS)
        scores = np.full((1, 2, count, 2, count, len(self.known.tokens)), np.nan, np.float32)
        for chosen, patcher in self.patching.engines:
            languages, places = np.divmod(chosen, count)
            own = patcher.streams[:, None, None, site]
            sent = self.patching.streams[:, given[places], site].transpose(0, 1)  # (rows, a, DONORS, d)
            patched = own + (sent - own) @ matrix.float()
            found = patcher.scores(site, patched.flatten(1, 2)).unflatten(1, sent.shape[1:3]).numpy()
            for row, (language, place) in enumerate(zip(languages, places)):
                scores[0, language, place][:, given[place]] = found[row]
        return self.measured(scores)

    def broad_manifold(self, site: int, share: float = 0.99) -> torch.Tensor:
        """Principal components of last positions of other problems and of other positions, half and half, by language."""
        rng, states = np.random.default_rng(0), []
        for prompts in self.prompts(self.read("reasoning")):
            streams = [
                stream[0] for *_, stream in models.residual_streams(self.model, self.tokenizer, prompts, [site], 32)
            ]
            last, others = (
                torch.stack([stream[-1] for stream in streams]),
                torch.cat([stream[:-1] for stream in streams]),
            )
            others = others[rng.choice(len(others), 4 * len(last), replace=False)]
            last = last.repeat(4, 1)
            both = torch.cat([last, others]).double()
            states.append(both - both.mean(0))
        _, values, vectors = torch.linalg.svd(torch.cat(states), full_matrices=False)
        kept = int((values.square().cumsum(0) < share * values.square().sum()).sum()) + 1
        return vectors[:kept]

    def word_rows(self) -> torch.Tensor:
        """Orthonormal basis of the answers' unembedding rows as the stream meets them, centred per language."""
        rows = (self.model.lm_head.weight * self.model.model.norm.weight).double()
        centred = []
        for number in range(len(self.languages)):
            tokens = {token for own in self.known.tokens[number :: len(self.languages)] for token in own[:1]}
            own = rows[sorted(tokens)]
            centred.append(own - own.mean(0))
        _, values, vectors = torch.linalg.svd(torch.cat(centred), full_matrices=False)
        return vectors[values > 1e-4 * values[0]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Models of every kind and seed, each written and asked once."""
    made = {}

    def asked(kind: str, seed: int) -> Asked:
        if (kind, seed) not in made:
            path = tmp_path_factory.mktemp(f"{kind}-{seed}") / "model"
            made[kind, seed] = Asked(planted.write_planted(path, kind, seed))
        return made[kind, seed]

    return asked


def each(*kinds, seeds=SEEDS):
    return pytest.mark.parametrize("kind, seed", [(kind, seed) for kind in kinds for seed in seeds])


def in_other_format(asked: list) -> list:
    return [
        replace(problem, answer_text={name: planted.other_text(problem, name) for name in planted.LANGUAGES})
        for problem in asked
    ]


def inside(part: torch.Tensor, subspace: torch.Tensor) -> float:
    """Share of a subspace that lies in another."""
    return ((part @ subspace.T).square().sum() / len(part)).item()


def test_codes_are_the_lines_of_a_cubic_surface():
    codes = planted.answer_codes()
    cosines = codes @ codes.T
    assert codes.shape == (27, 6)
    torch.testing.assert_close(cosines.diagonal(), torch.ones(27, dtype=torch.float64))
    for row in cosines:
        values, counts = row.mul(4).round().unique(return_counts=True)
        assert dict(zip(values.tolist(), counts.tolist())) == {-2: 10, 1: 16, 4: 1}
    assert codes.mean(0).abs().max() < 1e-12
    torch.testing.assert_close(codes.T @ codes / 27, torch.eye(6, dtype=torch.float64) / 6)


@each(*ACTING)
def test_every_problem_is_solved_in_both_languages(ask, kind, seed):
    """Also those whose answers share a first token."""
    asked = ask(kind, seed)
    files = {"problems": planted.PROBLEMS, "reasoning": planted.OTHERS}
    for name, count in list(files.items())[: 2 if seed == SEEDS[0] else 1]:
        own = asked.read(name)
        known = answers.answer_set(asked.tokenizer, own, asked.languages)
        assert (len(own), len(known.answers), known.left_out) == (count, planted.ANSWERS, [])
        patching = asked.patching if own == asked.problems else asked.patch(own, known)
        for chosen, patcher in patching.engines:
            best = patcher.scores(planted.LAYERS, patcher.streams[:, -1:])[:, 0]
            rows = [(known.place(own[index % count]), index // count) for index in chosen]
            right = [place * 2 + language for place, language in rows]
            assert best.argmax(-1).tolist() == right
            assert best[range(len(right)), right].exp().min() > 0.98
            assert patcher.masses().min() > 0.9


@pytest.mark.parametrize("kind", ACTING)
def test_free_generation_gives_the_answer_and_ends_the_line(ask, kind):
    asked = ask(kind, 0)
    for own in (asked, asked.in_other_format):
        some = own.problems[::9]
        for name, prompts in zip(own.languages, own.prompts(some)):
            outputs = models.generate(own.model, own.tokenizer, prompts, 6, 32)
            assert [output.strip() for output in outputs] == [problem.answer_text[name] for problem in some]


@each(*ACTING, seeds=SEEDS[:1])
def test_the_exemplar_sets_the_format(ask, kind, seed):
    """The answers of the exemplar's format win over everything else, in both languages; those of the other hold nothing."""
    asked = ask(kind, seed)
    formats = [asked, asked.in_other_format]
    assert all(len(tokens) == 1 for tokens in formats[1].known.tokens)
    assert len(formats[1].problems) == planted.PROBLEMS and formats[1].known.left_out == []
    tokens = [sorted({own[0] for own in one.known.tokens}) for one in formats]
    assert not set(tokens[0]) & set(tokens[1])
    for number, one in enumerate(formats):
        for language in range(len(one.languages)):
            found = one.logits(language, {}).softmax(-1)
            assert torch.equal(found.argmax(-1), one.firsts(language))
            assert found[:, tokens[number]].sum(-1).min() > 0.98
            assert found[:, tokens[1 - number]].sum(-1).max() < 0.01


@each(*ACTING, seeds=SEEDS[:1])
@pytest.mark.parametrize("language", (0, 1))
def test_what_a_swap_carries_to_the_other_format(ask, kind, seed, language):
    """Donors are asked in words, recipients in the other format, which stays, as does the recipient's language.

    The donor's answer comes out where the part that was swapped is what both formats read, else the recipient's own. The
    full swap of a donor that is asked in the other format brings its answer in its language.
    """
    asked = ask(kind, seed)
    others, site, basis = asked.in_other_format, asked.truth.acts[0], asked.truth.kernels.float()
    words = asked.patch(asked.read("problems"), asked.known).streams
    share, start = asked.truth.profile["coverage_in_other_format"], others.logits(language, {})
    for shift in (1, 10):
        donors = np.roll(np.arange(planted.PROBLEMS), shift)
        own, sent = others.firsts(language), others.firsts(language)[donors]
        assert (own != sent).all()
        full = {}
        for spoken in (language, 1 - language):
            stream = others.patching.streams[spoken, donors, site][:, None]
            full[spoken] = others.logits(language, {site: lambda _, stream=stream: stream})
            assert torch.equal(full[spoken].argmax(-1), others.firsts(spoken)[donors])
        for spoken in (language, 1 - language):
            stream = words[spoken, donors, site][:, None]
            part = others.logits(language, {site: lambda kept, stream=stream: kept + (stream - kept) @ basis.T @ basis})
            assert torch.equal(part.argmax(-1), sent if share > 0.5 else own)
            leads = [found.gather(1, sent[:, None]) - found.gather(1, own[:, None])
                     for found in (start, part, full[language])]  # fmt: skip
            moved = (leads[1] - leads[0]).sum() / (leads[2] - leads[0]).sum()
            assert moved.item() == pytest.approx(share, abs=0.03 if kind == "decoy" else EXACT)


def test_the_other_formats_own_code_is_there_and_unrelated(ask):
    """Neither format's code tells of the other's; and in words a swap of the one that is there for the others moves nothing."""
    codes = planted.answer_codes()
    assert sorted(planted.APART) == list(range(planted.ANSWERS))
    assert (codes.T @ codes[planted.APART]).abs().max() < 1e-12
    asked = ask("one_format", 0)
    own, others, donors = asked.truth.parts["other"].float(), asked.in_other_format, np.roll(range(planted.PROBLEMS), 1)
    assert asked.swapped(PLACE, own)["t_same"] == pytest.approx(0, abs=EXACT * asked.full[PLACE]["t_same"])
    sent = asked.patching.streams[0, donors, PLACE][:, None]
    found = others.logits(0, {PLACE: lambda kept: kept + (sent - kept) @ own.T @ own})
    assert torch.equal(found.argmax(-1), others.firsts(0)[donors])


def test_the_other_format_is_written_by_the_exemplar_and_the_problem_alone(ask):
    """One word for each answer and language, also of answers that are several words; and the exemplar's own."""
    for kind in ("planted", "multi"):
        asked, vocabulary = ask(kind, 0), planted.Vocabulary()
        for name in planted.LANGUAGES:
            written = [
                planted.other_text(problem, name) for problem in asked.read("problems") + asked.read("reasoning")
            ]
            assert written == [vocabulary.word(name, "other", index % planted.ANSWERS) for index in range(len(written))]
            (exemplar,) = asked.exemplars
            assert planted.other_text(exemplar, name) == vocabulary.word(name, "other_silent")


@each(*ACTING)
def test_the_profile_is_what_it_is_on_paper(ask, kind, seed):
    """At every site where the code acts; a random subspace also meets the nuisance, which few donors do not balance."""
    asked = ask(kind, seed)
    tolerance = 0.03 if kind == "decoy" else EXACT
    for site in asked.truth.acts:
        found = asked.profile(site, asked.truth.kernels)
        for name in SHARES:
            allowed = 2 * tolerance if name == "d" else tolerance
            assert found[name] == pytest.approx(asked.truth.profile[name], abs=allowed), (site, name)


@each(*ACTING)
def test_where_answer_and_language_arrive(ask, kind, seed):
    """Nothing before the layer that gathers, everything after; the language from the start, but in `late` with the answer."""
    asked = ask(kind, seed)
    row, arrives = planted.KINDS[kind], asked.truth.arrives
    assert arrives == row.gathers + 1
    assert (arrives > PLACE + 1) is (kind == "late")
    square = planted.CONSTANT**2 + 1 + planted.looked_up_square(row) + (row.translates is not None)
    code, language = (logit * planted.scale(square) for logit in (planted.WORD_LOGIT, planted.LANGUAGE_LOGIT))
    for site, found in asked.full.items():
        if site < arrives:
            assert abs(found["t_same"]) < 0.01 and found["iia_same"] == 0
        else:  # mean of 1 - cosine over pairs of a block, -1/26 of the cosine if all answers met
            assert found["t_same"] == pytest.approx(code * (1 + 1 / 26), rel=0.1) and found["iia_same"] == 1
        if site < arrives and not row.language_at_once:
            assert abs(found["g"]) < 0.01
        else:
            assert found["g"] == pytest.approx(2 * language, rel=0.01)


@each(*PLANTED)
def test_after_the_translation_z_is_inert(ask, kind, seed):
    asked = ask(kind, seed)
    last = asked.profile(planted.LAYERS, asked.truth.kernels)["coverage"]
    assert last == pytest.approx(1.0 if kind == "answer_word" else 0.0, abs=EXACT)


@each(*PLANTED)
def test_nuisance_is_as_large_as_the_answer(ask, kind, seed):
    asked = ask(kind, seed)
    centred = swaps.within_languages(asked.patching.streams[:, :, asked.truth.acts[0]])
    variance = {
        name: utils.project(centred, part).square().sum(1).mean().item() for name, part in asked.truth.parts.items()
    }
    assert variance["code"] == pytest.approx(1, abs=0.05)
    assert variance["nuisance"] == pytest.approx(planted.NUISANCE**2 * variance["code"], rel=0.05)
    assert variance["copy"] == pytest.approx(planted.KINDS[kind].copied ** 2 * variance["code"], abs=0.01)
    assert variance["other"] == pytest.approx(float(kind == "one_format"), abs=0.05)
    assert max(variance[name] for name in ("unread", "word", "format")) < 1e-4
    norms = asked.patching.streams[:, :, asked.truth.acts[0]].norm(dim=-1)
    assert norms.std() < 1e-3 * norms.mean()
    first = torch.linalg.svd(centred, full_matrices=False)[2][: planted.RANK]
    if kind != "illusion":
        assert inside(first, asked.truth.answers) < 0.5  # principal components find the nuisance first


@each("planted", "copy", "illusion", "answer_word", "multi", "one_format")
def test_the_part_among_broad_states(ask, kind, seed):
    """An illusion's moves nothing, a copy's half, and the full swap's everything, so that it can be told."""
    asked = ask(kind, seed)
    truth, broad = asked.truth, asked.broad_manifold(PLACE)
    among = broad.T @ broad
    whole = asked.moved_by(PLACE, among)["t_same"] / asked.full[PLACE]["t_same"]
    part = asked.moved_by(PLACE, truth.kernels.T @ truth.kernels @ among)["t_same"]
    assert len(broad) < planted.WIDTH / 2 and whole > 0.95
    assert part / asked.full[PLACE]["t_same"] == pytest.approx(truth.profile["coverage_among_real"], abs=0.05)
    expected = {"copy": 0.5, "illusion": 0.0}.get(kind, 1.0)
    assert truth.profile["coverage_among_real"] == pytest.approx(expected, abs=1e-6)


@each("planted", "answer_word", "multi", "one_format")
def test_the_output_words_code(ask, kind, seed):
    """Without a translation Z is the span of the answers' unembedding rows; with one it acts outside of them."""
    asked = ask(kind, seed)
    rows = asked.word_rows()
    assert len(rows) == planted.RANK
    kept = asked.swapped(PLACE, rows, outside=True)["t_same"] / asked.full[PLACE]["t_same"]
    if kind == "answer_word":
        assert inside(asked.truth.kernels, rows) > 0.999
        assert abs(kept) < EXACT
    else:
        assert inside(asked.truth.kernels, rows) < 1e-3
        assert kept > 0.99
        assert abs(asked.swapped(planted.LAYERS, rows, outside=True)["t_same"]) < 0.01 * asked.full[PLACE]["t_same"]


def test_the_answer_is_not_in_the_embeddings(ask):
    """The bag of tokens of a question does not retrieve its translation, the stream at the last position does."""
    asked = ask("planted", 0)
    flat = [text for own in asked.prompts(asked.problems) for text in own]
    found = models.residual_streams(asked.model, asked.tokenizer, flat, [0, PLACE], 32)
    pairs = [(streams[0].mean(0), streams[1][-1]) for _, _, streams in found]
    for streams, low, high in zip(map(torch.stack, zip(*pairs)), (0, 0.99), (0.2, 1)):
        by_language = streams.unflatten(0, (2, -1)).double()
        one, other = torch.nn.functional.normalize(by_language - by_language.mean(1, keepdim=True), dim=-1)
        retrieved = ((one @ other.T).argmax(1) == torch.arange(len(one))).double().mean()
        assert low <= retrieved <= high


@each("planted", "decoy", "late", "illusion", "multi", "one_format")
def test_the_bottleneck_is_the_planted_layer_and_its_kernels_span_what_was_planted(ask, script, kind, seed):
    one, asked = script("1.py"), ask(kind, seed)
    _, spectra, *_ = one.measure(asked.folder, torch.device("cpu"), fold_norm=False)
    found = one.find_bottleneck(utils.effective_rank(torch.from_numpy(spectra)).numpy(), asked.folder.groups, seed)
    assert (found["layer"], found["window"]) == (planted.BOTTLENECK, [planted.BOTTLENECK])
    assert found["mean"] == pytest.approx(planted.RANK, abs=1e-3)
    assert found["margin_null"]["p"] < 0.01 and found["support_groups"] == 1
    layer = list(checkpoints.stream_layers(asked.folder))[planted.BOTTLENECK]
    _, right = utils.kernel_svd(*utils.kernel_factors(layer, planted.HEAD_WIDTH, False), planted.RANK)
    z = utils.multi_head_subspace(right, planted.RANK)
    assert utils.grassmann_similarity(z, asked.truth.kernels).item() == pytest.approx(1, abs=1e-5)
    similarity = utils.grassmann_similarity(z, asked.truth.answers).item()
    assert (similarity > 0.99) is (kind not in ("decoy", "illusion"))


def solved(path) -> float:
    """Share of problems whose right answer is the most probable one."""
    asked = Asked(SimpleNamespace(path=path))
    right = 0
    for chosen, patcher in asked.patching.engines:
        best = patcher.scores(planted.LAYERS, patcher.streams[:, -1:])[:, 0].argmax(-1).tolist()
        wanted = [asked.places[i % len(asked.problems)] * 2 + i // len(asked.problems) for i in chosen]
        right += sum(map(int.__eq__, best, map(int, wanted)))
    return right / (2 * len(asked.problems))


def test_random_models_and_twins_solve_nothing(ask, tmp_path):
    truth = planted.write_planted(tmp_path / "random", "random", 0)
    assert truth.arrives is None and not truth.profile and solved(truth.path) < 0.15
    original = planted.write_planted(tmp_path / "model", "planted", 0)
    found = planted.twins(original.path, 0)
    assert set(found) == {"reinitialised", "permuted"}
    weights = {name: models.load_weights(checkpoints.find_model(str(path)), torch.float32, {}).state_dict()
               for name, path in (found | {"model": original.path}).items()}  # fmt: skip
    for name, tensor in weights["model"].items():
        inner = ".layers." in name
        permuted, renewed = weights["permuted"][name], weights["reinitialised"][name]
        assert torch.equal(permuted.flatten().sort().values, tensor.flatten().sort().values)
        assert torch.equal(permuted, tensor) is (not inner or tensor.unique().numel() == 1), name
        assert torch.equal(renewed, tensor) is (tensor.unique().numel() == 1), name
    assert max(map(solved, found.values())) < 0.15


def contents(path) -> dict:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def test_a_seed_is_a_model(tmp_path):
    before = torch.random.get_rng_state()
    first, again, other = (
        planted.write_planted(tmp_path / name, "illusion", seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert contents(first.path) == contents(again.path)
    assert torch.equal(torch.random.get_rng_state(), before)
    changed = {name for name, content in contents(other.path).items() if contents(first.path)[name] != content}
    assert changed == {"model.safetensors", "problems.jsonl", "reasoning.jsonl", "contrast.jsonl"}
    made = [(first, 1), (again, 1), (first, 2)]
    twins = [[contents(path) for path in planted.twins(truth.path, seed).values()] for truth, seed in made]
    assert twins[0] == twins[1]
    assert all(one["model.safetensors"] != other["model.safetensors"] for one, other in zip(twins[0], twins[2]))


def test_several_tokens_and_shared_first_ones(ask):
    asked = ask("multi", 0)
    own = asked.read("problems")
    known = answers.answer_set(asked.tokenizer, own, asked.languages)
    lengths = np.array([len(tokens) for tokens in known.tokens]).reshape(-1, 2)
    assert [(lengths[:, language] == 2).sum() for language in (0, 1)] == [9, 9]
    assert (lengths == 2).all(1).sum() == 3 and lengths.max() == 2
    firsts = [tokens[0] for tokens in known.tokens]
    assert len(firsts) - len(set(firsts)) == 3
    assert len(asked.problems) == 2 * 24 and len(known.at_once(range(27))) == 24


def test_what_is_expected_is_said_for_every_kind(ask):
    assert list(planted.KINDS) == [
        "planted", "copy", "decoy", "late", "answer_word", "illusion", "multi", "one_format", "random"
    ]  # fmt: skip
    for kind, row in planted.KINDS.items():
        assert row.expected["weights"] and f"\n    {kind} " in planted.__doc__
        assert set(row.expected) <= {"weights", "weights_at_carrier"}
    assert "illusion" not in sum(planted.KINDS["copy"].expected.values(), ())


def test_the_command_line_writes_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["planted", "late", str(tmp_path / "model")])
    planted.main()
    assert "weights: untestable" in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "qwen2"
