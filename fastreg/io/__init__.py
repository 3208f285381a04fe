"""Formats on disk: images, label maps, warps, affines, points."""
