"""One colour for each peer, in every picture."""

COLOURS = {
    "fastreg": "#d1495b",
    "torch": "#30638e",
    "torch.compile": "#7ba7cc",
    "VoxelMorph": "#5b8c5a",
    "neurite": "#5b8c5a",
    "MONAI": "#c78c11",
    "FireANTs": "#7b5ea7",
    "SimpleITK": "#8c6d5b",
    "scipy": "#777777",
    "ANTs": "#30638e",
    "elastix": "#5b8c5a",
    "Greedy": "#c78c11",
    "ConvexAdam": "#8c6d5b",
}
UNKNOWN = "#444444"
