from shop.cart import labels


def test_labels():
    assert labels([(3, 2)]) == "2x3"
    assert labels([]) == "empty"
