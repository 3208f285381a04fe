"""Free-form deformations: a displacement that is a sum of cubic B-splines at control points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastreg.ops.spline import bspline_at


@dataclass(frozen=True, eq=False)
class BSpline:
    """A transform of ITK's and elastix's kind: fixed place -> fixed place + displacement, in RAS mm."""

    control: np.ndarray
    """[X, Y, Z, 3] or [X, Y, 2], the weights of the control points' splines, RAS mm, float64."""
    affine: np.ndarray
    """[4, 4], control point -> RAS mm."""

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.control.ndim - 1

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Fixed places [..., 3] in RAS mm -> moving places; where a spline is missing nothing moves, as in ITK."""
        back = np.linalg.inv(self.affine)
        points = (places @ back[:3, :3].T + back[:3, 3])[..., : self.ndim]
        weights = torch.from_numpy(np.moveaxis(self.control, -1, 0).copy())[None]
        last = np.array(self.control.shape[:-1]) - 2.0
        inside = ((points >= 1) & (points <= last)).all(-1, keepdims=True)
        displacement = np.zeros_like(places)
        displacement[..., : self.ndim] = bspline_at(weights, np.where(inside, points, 1.0))
        return places + np.where(inside, displacement, 0.0)
