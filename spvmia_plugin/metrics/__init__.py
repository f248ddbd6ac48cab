"""What the scores amount to: numbers, their uncertainty and their limits. NumPy and SciPy only."""
