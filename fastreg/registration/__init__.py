"""Registration of two images or many: alignment, optimisation, networks, what comes out."""
