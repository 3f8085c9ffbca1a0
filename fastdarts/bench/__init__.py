"""Timing fastdarts beside the public DARTS code: what ``fastdarts bench`` and the suites in ``benchmarks/`` share."""
