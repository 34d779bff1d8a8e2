def total(items, discount=0):
    if discount < 0 or discount > 100:
        raise ValueError("discount must be between 0 and 100")
    price = sum(price * count for price, count in items)
    if discount:
        price = price * (100 - discount) // 100
    return price


def labels(items):
    if not items:
        return "empty"
    return ", ".join(f"{count}x{price}" for price, count in items)
