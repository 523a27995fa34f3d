"""Numbers in words, as every command says them."""


def count(number: int, noun: str) -> str:
    """``1 slide``, ``2 slides``, ``3 patches``; thousands set apart."""
    plural = "es" if noun.endswith("tch") else "s"
    return f"{number:,} {noun}" + ("" if number == 1 else plural)


def size(nbytes: float) -> str:
    """``812 KB``, ``3.1 MB`` or ``1.2 GB``, in steps of 1024."""
    for power, unit in ((3, "GB"), (2, "MB")):
        if nbytes >= 1024**power:
            return f"{nbytes / 1024**power:,.1f} {unit}"
    return f"{nbytes / 1024:.0f} KB"
