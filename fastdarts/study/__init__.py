"""Studies: a whole search space measured, and searches judged by it."""
