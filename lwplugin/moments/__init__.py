"""Second moments of layers: one pass over unlabelled examples that feeds every family.

For a layer y = Wx the moments E[xxᵀ] and E[xy*ᵀ] against the parent's response y* decide which inputs matter
and what the remaining weights should be, in closed form, without labels or training.
"""

from lwplugin.moments.moments import Moments
from lwplugin.moments.rows import Rows, inputs_of, responses_of, sample_rows, supports
from lwplugin.moments.solve import BlockRemoval, Solution, solve

__all__ = [
    "BlockRemoval",
    "Moments",
    "Rows",
    "Solution",
    "inputs_of",
    "responses_of",
    "sample_rows",
    "solve",
    "supports",
]
