"""The page that shows whether registrations worked: one HTML file that needs nothing else."""
