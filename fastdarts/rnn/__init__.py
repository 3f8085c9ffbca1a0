"""The names of the folder rnn of the public DARTS code."""
