"""Numbers with their uncertainty: estimates, tests, comparisons. NumPy, and nothing of the loop."""
