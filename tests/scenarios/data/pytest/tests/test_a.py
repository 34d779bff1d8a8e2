from shop.cart import total


def test_sum():
    assert total([(3, 2), (4, 1)]) == 10


def test_nothing():
    assert total([]) == 0
