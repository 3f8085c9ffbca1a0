"""Recurrent cells: their search space, supernet, language model, text and loops (DARTS, sections 2.2 and 3.1.2)."""
