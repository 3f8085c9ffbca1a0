"""What every method is checked with: settings that differ from those of a tiny search."""

from fastdarts.registry import methods

# Methods that start from the result of other searches are checked in tests of their own.
ALONE = [name for name, method in methods().items() if {"supernet", "genotypes"}.isdisjoint(vars(method.settings()))]
SETTINGS = {
    "darts-ada": {"eigenvalue_every": 1, "es_window": 1, "es_lag": 1, "es_start": 0},
    "dr-nas": {"partial": 4, "next_partial": 2, "next_candidates": 2, "warmup": 0},
    "oles": {"freeze_window": 2, "freeze_below": 0.5},
    "i-darts": {"weight_steps": 2},
    "lambda-darts": {"layers": 4},
    "p-darts": {"epochs": 3, "warmup": 0, "layers": 3, "added_layers": (0, 1, 1), "kept_candidates": (3, 2)},
    "sgas": {"space": "s3", "nodes": 1, "epochs": 4, "decide_from": 0, "decide_every": 1, "batch_growth": 4},
    "pc-darts": {"warmup": 1},
    "sharp-darts": {"learning_rate_warmup": 1},
    "random": {"candidates": 2, "epochs": 1},
    "evolution": {"queries": 3, "epochs": 1, "population": 1, "tournament": 1},
    "reinforce": {"queries": 2, "epochs": 1},
    "nas-rl": {"queries": 3, "epochs": 1, "policy_batch": 2},
    "ppo": {"queries": 3, "epochs": 1, "policy_batch": 2},
    "nsga2": {"queries": 3, "epochs": 1, "population": 2},
    "tpe": {"queries": 3, "epochs": 1, "random_queries": 2},
    "random-ws": {"candidates": 3},
    "enas": {"candidates": 3, "policy_steps": 2, "policy_batch": 2},
    "proxyless": {"space": "mbconv-tiny", "layers": 7, "warmup": 0, "weight_steps": 1, "train_portion": 0.5},
}
