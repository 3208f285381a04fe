"""What a network is fed: cohorts, volumes on a working grid, pairs, synthetic images."""
