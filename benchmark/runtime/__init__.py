"""What surrounds the computing: stores, workers, tracking, randomness."""
