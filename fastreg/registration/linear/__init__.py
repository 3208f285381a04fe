"""Linear alignment: images at coarse levels, starts, what is maximised, fits, and the search through them."""
