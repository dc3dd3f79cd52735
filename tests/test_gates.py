"""What else could explain a swap: draws matched on a subspace, the output word's code, and the states that a model visits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from bench import planted
from lab import checkpoints, gates, models, statistics

WIDTH = 40


def streams(seed: int, languages: int = 2, problems: int = 12) -> torch.Tensor:
    """Problems that differ along a few directions much and along all a little, and languages by an offset of their own."""
    draw = statistics.seeded(seed, "streams")
    sizes = torch.linspace(3, 0.1, WIDTH, dtype=torch.float64)
    offsets = torch.randn(languages, 1, WIDTH, generator=draw, dtype=torch.float64)
    return offsets + torch.randn(languages, problems, WIDTH, generator=draw, dtype=torch.float64) * sizes


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(4, 12), st.integers(2, 4), st.floats(0.0, 0.7))
def test_matched_draws_hold_what_the_subspace_holds(seed, k, languages, lean):
    """Whatever the subspace: of Haar's share or of much more of the variance, toward the offset or away from it."""
    found = streams(seed, languages)
    centred = (found - found.mean(1, keepdim=True)).flatten(0, 1)
    top = torch.linalg.svd(centred, full_matrices=False)[2][:k]
    haar = utils.random_subspaces(statistics.seeded(seed, "haar"), 1, k, WIDTH)[0]
    basis = torch.linalg.qr((lean * top + (1 - lean) * haar).mT)[0].mT
    within, offset = gates.shares(basis, found)
    draws = gates.matched_draws(statistics.seeded(seed, "draws"), 5, basis, found)
    assert draws.shape == (5, k, WIDTH)
    torch.testing.assert_close(draws @ draws.mT, torch.eye(k, dtype=torch.float64).expand(5, k, k))
    for draw in draws:
        own, turned = gates.shares(draw, found)
        reach = min(k, languages - 1)
        assert turned == pytest.approx(offset, abs=1e-8) or reach < languages - 1
        assert own == pytest.approx(within, abs=0.02)


def test_matched_draws_of_haar_subspaces_hold_as_much_of_a_code_as_these_do():
    """The null's own calibration, where it is known: of 200 subspaces 5 % pass, whatever they happen to share with a code."""
    parts, codes = planted.directions(0), planted.answer_codes()
    draw = statistics.seeded(0, "calibration")
    nuisance = planted.unit_rows(len(codes), planted.RANK, draw) * planted.NUISANCE
    shared = codes @ parts["code"] + nuisance @ parts["nuisance"]
    found = torch.stack([shared + sign * parts["language"] for sign in (1, -1)])
    passed = 0
    for basis in utils.random_subspaces(draw, 200, planted.RANK, planted.WIDTH):
        draws = gates.matched_draws(draw, 19, basis, found)
        held = [(one @ parts["code"].T).square().sum().item() for one in (basis, *draws)]
        passed += held[0] >= max(held[1:])
    assert 200 * 0.05 * 0.4 < passed < 200 * 0.08


def test_no_matched_draws_where_a_subspace_leaves_no_room():
    found = streams(0)
    assert gates.matched_draws(statistics.seeded(0, ""), 2, torch.eye(WIDTH, dtype=torch.float64)[1:], found) is None


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_neox"])
def test_unembedding_rows_are_what_logits_read_in_the_raw_stream(families, family):
    """On streams of one length logits are linear in the stream; the rows are their slopes, up to that length."""
    model, _ = models.load_model(checkpoints.find_model(str(families[family])), torch.device("cpu"), torch.float32)
    width, tokens = model.config.get_text_config().hidden_size, [3, 7, 11]
    with torch.no_grad():
        for parameter in models.site_modules(model)[-1].parameters():
            parameter += torch.linspace(-0.3, 0.4, width)
    rows = gates.unembedding_rows(model, tokens)
    draw = statistics.seeded(0, "streams")
    own = torch.randn(6, width, generator=draw, dtype=torch.float64)
    own = own - own.mean(1, keepdim=True)
    own = own / own.square().mean(1, keepdim=True).sqrt()
    with torch.no_grad():
        norm = models.site_modules(model)[-1]
        found = torch.nn.functional.linear(norm(own.float()), model.get_output_embeddings().weight[tokens])
    constant = found.double() - own @ rows.T  # a bias of the norm, if it has one
    torch.testing.assert_close(constant, constant[:1].expand(6, 3), atol=2e-4, rtol=0)


def test_the_words_code_is_centred_in_each_language():
    draw = statistics.seeded(0, "words")
    rows = torch.randn(8, WIDTH, generator=draw, dtype=torch.float64)
    rows[::2] += 100 * torch.nn.functional.normalize(torch.randn(WIDTH, generator=draw, dtype=torch.float64), dim=0)
    head = torch.nn.Linear(WIDTH, 8, bias=False, dtype=torch.float64)
    head.weight.data = rows

    class Bare:
        dtype, device = torch.float64, torch.device("cpu")

        class config:
            @staticmethod
            def get_text_config():
                class text:
                    hidden_size = WIDTH

                return text

        class decoder:
            layers, norm = [], torch.nn.RMSNorm(WIDTH, dtype=torch.float64)

        get_decoder = staticmethod(lambda: Bare.decoder)
        get_output_embeddings = staticmethod(lambda: head)

    columns = [(0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,)]  # four answers in two languages: even and odd
    basis = gates.word_subspace(Bare, columns, 2)
    assert len(basis) == 6
    for own in (rows[::2], rows[1::2]):
        centred = own - own.mean(0)
        torch.testing.assert_close(utils.project(centred, basis), centred)
    leaning = rows[::2].mean(0) - rows[1::2].mean(0)
    assert utils.project(leaning, basis).norm() < 0.6 * leaning.norm()


def test_what_is_left_of_a_subspace_outside_of_another():
    axes = torch.eye(6, dtype=torch.float64)
    both = torch.stack([axes[0], (axes[1] + axes[2]) / 2**0.5])
    left = gates.left_outside(both, axes[:2])
    assert left.shape == (1, 6)
    assert abs(left[0, 2].item()) == pytest.approx(1)
    assert gates.left_outside(axes[:2], axes[:3]).shape == (0, 6)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "model"
    planted.write_planted(path, "planted", 0)
    model, tokenizer = models.load_model(checkpoints.find_model(str(path)), torch.device("cpu"), torch.float32)
    return model, tokenizer


def test_broad_states_are_the_models_own_and_count_once(asked):
    """Against every position of every prompt, run one at a time; a shared beginning gives its states once."""
    model, tokenizer = asked
    vocabulary = planted.Vocabulary()
    filler = [vocabulary.word("en", "filler", index) for index in range(12)]
    prompts = [" " + " ".join(filler[:9]) + f" {word}" for word in filler[9:]]
    last, others = gates.broad_states(model, tokenizer, prompts, [0, 4], 2, statistics.seeded(0, ""))
    whole = {}
    for prompt in prompts:
        with torch.no_grad():
            found = model(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states
        for place in range(found[0].shape[1]):
            whole[tuple(tokenizer(prompt)["input_ids"][: place + 1])] = torch.stack(
                [found[0][0, place], found[4][0, place]]
            )
    assert last.shape == (2, 3, planted.WIDTH)
    ends = torch.stack([whole[tuple(tokenizer(prompt)["input_ids"])] for prompt in prompts], 1)
    torch.testing.assert_close(last, ends, atol=1e-4, rtol=1e-4)
    assert others.shape[1] <= len(whole) - len(prompts)
    distances = torch.cdist(others[1], others[1]) + 100 * torch.eye(others.shape[1])
    assert distances.min() > 1e-3
    known = torch.stack(list(whole.values()), 1)
    assert torch.cdist(others[1], known[1]).min(1).values.max() < 1e-2


def test_a_manifold_has_five_states_for_each_component_and_stops_at_its_share(asked):
    model, tokenizer = asked
    vocabulary, draw = planted.Vocabulary(), np.random.default_rng(0)
    prompts = [
        [" ".join(vocabulary.word(name, "filler", index) for index in draw.integers(30, size=6)) for _ in range(16)]
        for name in planted.LANGUAGES
    ]
    found = gates.broad_manifolds(model, tokenizer, prompts, [2, 5], 8, statistics.seeded(0, ""))
    assert set(found) == {2, 5}
    for manifold in found.values():
        count = len(manifold.components)
        assert count <= manifold.states // gates.STATES_EACH
        assert manifold.share >= gates.SHARE or count == manifold.states // gates.STATES_EACH
        torch.testing.assert_close(manifold.components @ manifold.components.T, torch.eye(count, dtype=torch.float64))


def test_both_kinds_of_states_weigh_alike():
    last, others = torch.randn(3, 4, dtype=torch.float64) + 5, torch.randn(30, 4, dtype=torch.float64) - 5
    found = gates.centred_halves(last, others)
    torch.testing.assert_close(found[:3].sum(0) / 3**0.5, -found[3:].sum(0) / 30**0.5)
    assert found[:3].square().sum().item() == pytest.approx(found[3:].square().sum().item(), rel=0.5)
