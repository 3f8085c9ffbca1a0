"""Which lines of the CUDA kernels not every program runs, for the count of their instructions.

How often a program runs them is said in kernels/mixed_op/cuda_traffic.py, by the same names.
"""

SIZES = (3, 5, 7)
LABELS = {
    "unaligned": r"if \(i < count\)",
    "load_taps": r"\bload_(flipped_)?taps\(|\b(load|clear)_diagonals\(",
    "product": r"\badd_product<T",
    "moments": r"\bmoments\.add\(",
    "totals": r"\bmoments\.store\(",
    "first": r"moments\.begin\(",
    "whole": r"\bfinish\(All\(",
    "edge": r"\bfinish\(First\{|const int left = \(height|rows = n < images|if \(rows == 0\) base|if \(r >= rows\)"
    r"|if \(!there\(r\)",
    "normal": r"normal_of\(|rectified\(normal|\bload\(Normalise<T>\{",
    "plain": r"\bload\(Rectify<T>\{",
    "write": r"\bwrite\(shared, warps",
    "plain rows": r"\bset_plain\(a, row",
    "last": r"\bfinish_row\(",
    "arrive": r"!is_last\(",
    "units": r"\bfor_units\(",
    "pools": r"\bpool_into<|\bpool<(false|true)>",
    "drawn": r"\bdraw_into<",
    "kept": r"keep_kinks\(|kept_maxima<|kept, own|state\.places|bits\[|if \(bits",
    "strided": r"pool_column<2, places>",
    "tables": r"\bload_tables\(|Slope\(a, ",
    "pool_gradients": r"\badd_pools<",
    "point": r"\badd_point<",
    "second": r"if \(arguments\.adds\)",
    "taps": r"tap_sums\.template add<S, 1>",
    "dilated taps": r"tap_sums\.template add<S, 2>",
    "end": r"\badd_parts\(",
    "store": r"tap_sums\.store",
    "setup": r"load_constants\(|load_pointwise<",
    "normals": r"load_normals\(|normals\[i\] = row",
}
LABELS |= {f"{k} eights": rf"\brows\(std::integral_constant<int, {k}>\(\)\);" for k in (1, 2, 3)}
LABELS |= {f"{k}×{k}": rf"return depthwise<{k}, 1(, {k})?>\(.*(1|dilation), taps" for k in SIZES}
LABELS |= {f"{k}×{k} dilated": rf"return depthwise<{k}, 1(, {k})?>\(.*2, taps" for k in SIZES}
LABELS |= {f"{k}×{k} stride 2": rf"return depthwise<{k}, 2>" for k in SIZES}
LABELS |= {f"{k}×{k} data": rf"return run\(std::integral_constant<int, {k}>\(\), One" for k in SIZES}
LABELS |= {f"{k}×{k} dilated data": rf"return run\(std::integral_constant<int, {k}>\(\), Two" for k in SIZES}
LABELS |= {f"{k} rows": rf"return run\(std::integral_constant<int, {k}>\(\)\);" for k in (1, 2, 3, 4, 5, 7)}
LABELS |= {"1×1": r"\btake<T>\("}
LABELS |= {f"{k}×{k} gradient": rf"return stage_gradients_of<T, exact, vector, {k}, S>" for k in (1, *SIZES)}
