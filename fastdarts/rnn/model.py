"""The names of rnn/model.py of the public DARTS code."""

from fastdarts.moved import names
from fastdarts.spaces.recurrent.cell import DARTSCell
from fastdarts.spaces.recurrent.model import RNNModel

__all__ = ["DARTSCell", "RNNModel"]

__getattr__ = names("rnn.model")
