"""What is measured: overlap, distances, regularity, landmarks."""
