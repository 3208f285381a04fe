"""Triton: for every op its kernels and the functions that launch them. Installed as `fastreg.kernels`."""
