"""fastreg's ops and losses in a training loop and a network of your own: `python 05_your_own_loop.py`."""

import torch
from torch import nn
from torch.nn.functional import avg_pool3d

import fastreg

torch.manual_seed(0)
network = nn.Sequential(  # any module that maps two images to a field will do
    nn.Conv3d(2, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv3d(8, 8, 3, padding=1), nn.LeakyReLU(0.2),
    nn.Conv3d(8, 3, 3, padding=1),
)  # fmt: skip
similarity, roughness = fastreg.losses.LNCC(window=5), fastreg.losses.Smoothness()
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)

for step in range(31):
    fixed = avg_pool3d(torch.rand(1, 1, 24, 24, 24), 5, 1, 2)  # your data loader here
    moving = fixed.roll(1, dims=-1)
    flow = fastreg.integrate(network(torch.cat([moving, fixed], 1)))  # a velocity: the field does not fold
    loss = similarity(fastreg.warp(moving, flow), fixed) + roughness(flow)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}, displacement along W {flow[:, 2].mean().item():+.2f} voxels")
