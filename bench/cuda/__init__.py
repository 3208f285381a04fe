"""On a GPU: times (run), what nvcc makes of the kernels (sass), and gpu.sh, which checks everything on a machine."""
