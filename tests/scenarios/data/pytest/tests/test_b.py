from shop.cart import total


def test_discount():
    assert total([(100, 1)], discount=25) == 75
