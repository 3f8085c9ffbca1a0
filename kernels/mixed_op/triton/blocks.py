"""Block sizes and options of the Triton kernels, few and by class of shape. Triton need not be installed."""


def power_of_two(n: int) -> int:
    """The least that is no less than n."""
    return 1 << (n - 1).bit_length()


def blocks(channels: int, outputs: int, exact: bool) -> dict[str, dict[str, int]]:
    """By kernel, so that no register spills and two blocks or more fit.

    `exact`: products of float32 are not rounded to TF32.
    """
    narrow = is_narrow(channels, outputs)
    pixels = 64 if narrow else 32
    few = {"num_warps": 4}
    many = {"num_warps": 8, "maxnreg": 128}  # two blocks; asked for less, ptxas spills to fit four
    block_c = min(32, max(16, power_of_two(channels)))
    block_o = min(32 if exact else 64, max(16, power_of_two(outputs)))
    return {
        "stages": {"BLOCK_P": pixels, "BLOCK_C": 16, "BLOCK_O": block_o} | (few if narrow else many),
        "stages_gradients": {
            "BLOCK_P": 32,
            "BLOCK_C": block_c,
            "BLOCK_O": 16,
            "num_stages": 1,
        }
        | (many if block_c == 16 else few),
        "maps": {"BLOCK_P": pixels, "BLOCK_C": min(32, power_of_two(max(channels, outputs)))} | many,
    }


def is_narrow(channels: int, outputs: int) -> bool:
    """Whether one block has all channels of twice as many pixels."""
    return max(channels, outputs) <= 16
