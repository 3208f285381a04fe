"""Whole registrations: fastreg against ANTs, elastix, Greedy and FireANTs, and what was tried for fastreg's own."""
