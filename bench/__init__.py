"""Benchmarks that prove speed and gradients: all of them, or the parts named.

    python -m bench                       everything, about twelve minutes, into bench/results/ and docs/
    python -m bench --quick               every op and implementation at 80x96x112: ten minutes, printed, nothing kept
    python -m bench exactness             errors against float64, on easy and hard data; exit code 1 if a row fails
    python -m bench speed --only lncc     one op; --group growth: one question
    python -m bench memory jobs           several parts
    python -m bench report FILE.json      the pages and pictures anew, from a record and nothing else

and, each with its own --help:

    python -m bench registration          whole registrations against ANTs, elastix, Greedy, ...
    python -m bench trials                what was tried for `fastreg register`: the tables of docs/register.md
    python -m bench gpu                   the ops and a training step on this GPU; bench/cuda/gpu.sh calls it
    python -m bench masks                 what a mask costs in the local correlation
    python -m bench interpolation         what the interpolations of files cost, beside SimpleITK and SciPy
    python -m bench activations           the memory of a training step, counted tensor by tensor
    python -m bench motion                known motion in a real EPI, found again, beside ANTsPy
    python -m bench dropin                fastreg in place of another library's ops: equality and speed
    python -m bench dropin-tests          other libraries' own tests with fastreg's ops
    python -m bench report-page           the picture of a cohort's report in docs/report.md, of phantoms
    python -m bench sass                  what nvcc makes of the GPU kernels; no GPU is needed

Nothing is measured for an op and backend whose gradients fail in the same run. Peers come with pip install '.[bench]'
(FireANTs by hand: pip install --no-deps fireants); one that is absent is said to be absent. Run it in the checkout,
with fastreg installed there (pip install -e): the benchmarks themselves are not installed.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
