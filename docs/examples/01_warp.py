"""Warp an image by a displacement field, then find the field again by its gradient: `python 01_warp.py`."""

import torch
from torch.nn.functional import avg_pool3d

import fastreg

torch.manual_seed(0)
vol = avg_pool3d(torch.rand(1, 1, 40, 48, 56), 7, 1, 3)  # [batch, channels, D, H, W], smooth noise
flow = torch.zeros(1, 3, 40, 48, 56)  # in voxels: channel 0 along D, 1 along H, 2 along W
flow[:, 2] = 1.5

moved = fastreg.warp(vol, flow)  # moved(p) = vol(p + flow(p)), zero outside the image
between = (vol[..., 11] + vol[..., 12]) / 2
print("voxel 10 reads between 11 and 12:", torch.allclose(moved[..., 10], between))

shift = torch.zeros(1, 3, 1, 1, 1, requires_grad=True)
optimizer = torch.optim.Adam([shift], lr=0.1)
for _ in range(60):
    error = (fastreg.warp(vol, shift.expand_as(flow)) - moved).square().mean()
    optimizer.zero_grad()
    error.backward()  # through the warp, to the field; to the image too if it asks for a gradient
    optimizer.step()
print("found:", " ".join(f"{value:.2f}" for value in shift.flatten().tolist()), "voxels along D, H, W")
