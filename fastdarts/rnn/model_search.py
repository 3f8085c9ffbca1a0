"""The names of rnn/model_search.py of the public DARTS code."""

from fastdarts.spaces.recurrent.cell import DARTSCellSearch
from fastdarts.spaces.recurrent.model import RNNModelSearch

__all__ = ["DARTSCellSearch", "RNNModelSearch"]
