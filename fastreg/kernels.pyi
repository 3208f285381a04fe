# For mypy and editors: what is installed as fastreg.kernels stands in kernels/ beside this folder (pyproject.toml).
# Not installed itself.
from kernels import adam as adam
from kernels import correlate as correlate
from kernels import determinant as determinant
from kernels import integrate as integrate
from kernels import lncc as lncc
from kernels import mind as mind
from kernels import penalty as penalty
from kernels import smoothness as smoothness
from kernels import warp as warp
