import pytest

from shop.cart import total


@pytest.mark.parametrize("wrong", [-1, 101])
def test_wrong_discount(wrong):
    with pytest.raises(ValueError):
        total([], discount=wrong)
