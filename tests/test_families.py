"""Every family's row against its running model: the weights that are streamed are those that the forward pass multiplies by."""

from conftest import FAMILIES

from lab import families


def test_every_row_is_tested():
    assert FAMILIES.keys() == families.FAMILIES.keys()
