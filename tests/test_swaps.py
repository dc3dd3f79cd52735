"""Swaps: what is put where, against one prompt at a time; halves by answer, and the size of streams and fits."""

import numpy as np
import pytest
import torch

import utils
from lab import checkpoints, engine, models, statistics, swaps

PROMPTS = [
    ["Question: five", "Question: Tom has 4 apples. How many?\nAnswer:", "Q: nine"],
    ["问题：五", "问题：四", "问题：小明有4个苹果。答案："],
]
ANSWERS = [(5,), (7, 8), (7, 9), (3, 4), (20,), (21,)]  # three answers in two languages
SITE = 2


@pytest.fixture(scope="module")
def loaded(small):
    return models.load_model(checkpoints.find_model(str(small)), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def patching(loaded) -> swaps.Patching:
    return swaps.Patching(*loaded, PROMPTS, ANSWERS, 2, [np.array([0, 2]), np.array([1])])


@pytest.fixture(scope="module")
def bases() -> torch.Tensor:
    return utils.random_subspaces(statistics.seeded(0, "bases"), 3, 7, 48).float()


DONORS = np.array([[False, True, True], [True, False, False], [False, False, False]])


@pytest.fixture(scope="module")
def onto() -> torch.Tensor:
    return utils.random_subspaces(statistics.seeded(0, "onto"), 1, 20, 48)[0].float()


@pytest.mark.parametrize("among", [False, True], ids=["anywhere", "among some directions"])
@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
def test_every_cell_is_the_swap_of_its_recipient_donor_languages_and_subspace(
    loaded, patching, bases, onto, outside, among
):
    found = patching.scores(SITE, DONORS, bases, outside, onto if among else None)
    assert found.shape == (3, 2, 3, 2, 3, 6) and found.dtype == np.float32
    for b, r, a, i in np.ndindex(2, 3, 2, 3):
        if not DONORS[r, i]:
            assert np.isnan(found[:, b, r, a, i]).all()
            continue
        recipient, donor = (
            engine.PatchedPrompts(*loaded, [PROMPTS[language][problem]], ANSWERS)
            for language, problem in ((b, r), (a, i))
        )
        own = recipient.streams[0, SITE]
        for place, basis in enumerate(bases):
            part = (donor.streams[0, SITE] - own) @ basis.T @ basis
            change = donor.streams[0, SITE] - own - part if outside else part
            moved = own + (change @ onto.T @ onto if among else change)
            expected = recipient.scores(SITE, moved[None, None])[0, 0]
            np.testing.assert_allclose(found[place, b, r, a, i], expected, atol=1e-4)


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
def test_a_swap_onto_a_subspace_is_a_product_of_projectors(bases, onto, outside):
    """Of P the projector inside or outside and Q the one onto: own + (sent - own) P Q, by dense matrices in float64."""
    own, sent = torch.randn(2, 1, 1, 48), torch.randn(2, 2, 4, 48)
    found = swaps.changes(own, sent, bases, outside, onto)
    assert found.shape == (2, 3, 2, 4, 48)
    target = onto.T.double() @ onto.double()
    for place, basis in enumerate(bases.double()):
        inside = basis.T @ basis
        through = (torch.eye(48) - inside if outside else inside) @ target
        expected = own.double() + (sent - own).double() @ through
        torch.testing.assert_close(found[:, place].double(), expected, atol=1e-4, rtol=0)


def test_the_full_swap_onto_a_subspace_changes_that_part_alone(loaded, patching, onto):
    own, sent = torch.randn(2, 1, 1, 48), torch.randn(2, 2, 4, 48)
    found = swaps.changes(own, sent, None, onto=onto)
    assert found.shape == (2, 1, 2, 4, 48)
    expected = own.double() + (sent - own).double() @ onto.T.double() @ onto.double()
    torch.testing.assert_close(found[:, 0].double(), expected, atol=1e-4, rtol=0)
    everything, nothing = torch.eye(48), torch.zeros(0, 48)
    torch.testing.assert_close(swaps.changes(own, sent, None, onto=everything)[:, 0], sent, atol=1e-5, rtol=0)
    assert torch.equal(swaps.changes(own, sent, None, onto=nothing)[:, 0], own.expand_as(sent))
    np.testing.assert_allclose(
        patching.scores(SITE, DONORS, onto=onto), patching.scores(SITE, DONORS, onto[None]), atol=1e-4, equal_nan=True
    )


def test_onto_keeps_what_lies_in_it_and_nothing_else(onto):
    own, sent = torch.randn(2, 1, 1, 48), torch.randn(2, 2, 4, 48)
    among, beyond = onto[None, :5], torch.linalg.svd(onto)[2][None, 20:27]
    torch.testing.assert_close(
        swaps.changes(own, sent, among, onto=onto), swaps.changes(own, sent, among), atol=1e-5, rtol=0
    )
    still = swaps.changes(own, sent, beyond, onto=onto)
    torch.testing.assert_close(still, own[:, None].expand_as(still), atol=1e-5, rtol=0)


def test_the_full_swap_is_the_donors_stream_and_the_identity_changes_no_bit(loaded, patching):
    found = patching.scores(SITE, DONORS)
    assert found.shape == (1, 2, 3, 2, 3, 6)
    alone = engine.PatchedPrompts(*loaded, [PROMPTS[1][0]], ANSWERS)
    expected = alone.scores(SITE, patching.streams[0, 1, SITE][None, None])[0, 0]
    np.testing.assert_allclose(found[0, 1, 0, 0, 1], expected, atol=1e-4)
    own = patching.streams[:, :, SITE]
    same = swaps.changes(own[:, :, None], own[:, :, None], None, False)
    assert torch.equal(same[:, 0], own[:, :, None])


def test_what_lies_inside_and_outside_adds_up(bases):
    own, sent = torch.randn(2, 1, 1, 48), torch.randn(2, 2, 4, 48)
    inside, outside = (swaps.changes(own[:, :, None, 0], sent, bases, side) for side in (False, True))
    torch.testing.assert_close(
        inside + outside, (own[:, :, None] + sent[:, None]).expand(-1, 3, -1, -1, -1), rtol=1e-4, atol=1e-4
    )


def test_the_groups_of_problems_do_not_matter(loaded, patching, bases):
    together = swaps.Patching(*loaded, PROMPTS, ANSWERS, 8, [np.arange(3)])
    np.testing.assert_allclose(
        together.scores(SITE, DONORS, bases), patching.scores(SITE, DONORS, bases), atol=1e-4, equal_nan=True
    )


@pytest.mark.parametrize("seed", range(5))
def test_halves_part_the_answers(seed):
    numbers = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6])
    development = swaps.halves(numbers, statistics.seeded(seed, "halves"))
    mine, others = set(numbers[development]), set(numbers[~development])
    assert not mine & others and len(mine) == 3 and len(others) == 4


def test_halves_differ_with_the_seed():
    drawn = {tuple(swaps.halves(range(12), statistics.seeded(seed, "halves"))) for seed in range(20)}
    assert len(drawn) > 15


def test_participation_ratio():
    draw = statistics.seeded(0, "vectors")
    frame = torch.linalg.qr(torch.randn(200, 5, generator=draw, dtype=torch.float64))[0]
    assert swaps.participation_ratio(frame @ torch.eye(5, 30, dtype=torch.float64)) == pytest.approx(5)
    stretched = frame @ torch.diag(torch.tensor([2.0, 1, 1, 0, 0])).double()
    assert swaps.participation_ratio(stretched) == pytest.approx(36 / 18)  # (4 + 1 + 1)² / (16 + 1 + 1)
    assert swaps.participation_ratio(torch.zeros(4, 3).double()) == 0


def test_within_languages_takes_each_languages_mean_away():
    streams = torch.randn(2, 6, 4)
    centred = swaps.within_languages(streams + torch.tensor([[[5.0] * 4], [[-3.0] * 4]]))
    torch.testing.assert_close(centred, swaps.within_languages(streams), rtol=0, atol=1e-5)
    assert centred.shape == (12, 4) and centred[:6].mean(0).abs().max() < 1e-6


def test_answer_means_span_the_answers_and_not_the_language_or_the_problem():
    draw = statistics.seeded(1, "answers")
    frame = torch.linalg.qr(torch.randn(24, 24, generator=draw))[0]
    numbers = [0, 0, 1, 1, 2, 2, 3, 3]
    codes, language = torch.randn(4, 3, generator=draw) @ frame[:3], frame[3]
    opposite = torch.tensor([1.0, -1] * 4)[:, None] * frame[4]  # differs between two problems with one answer
    streams = torch.stack([codes[numbers] + sign * 9 * language + opposite for sign in (1, -1)])
    basis = swaps.answer_means(streams, numbers, 10)
    assert basis.shape == (3, 24)  # four answers span three directions
    torch.testing.assert_close(basis @ basis.T, torch.eye(3).double(), rtol=0, atol=1e-5)
    assert utils.grassmann_similarity(basis, frame[:3].double()) == pytest.approx(1, abs=1e-5)
    assert swaps.answer_means(streams, numbers, 2).shape == (2, 24)
