"""How much the property-based tests try: a few fixed inputs in `make test`, many random ones in `make fuzz`."""

from hypothesis import HealthCheck, settings

common = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("few", max_examples=15, derandomize=True, database=None, **common)
settings.register_profile("many", max_examples=1500, print_blob=True, **common)


def share(of: int) -> settings:
    """Settings for a test whose inputs are slow: one input where others have ``of``."""
    return settings(max_examples=max(5, settings.default.max_examples // of))
