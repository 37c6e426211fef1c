"""Data files that travel with the package: `reference_values.csv`, the paper's published numbers."""
