"""Runs beside each other: methods times seeds, with means, paired differences and one page of curves."""
