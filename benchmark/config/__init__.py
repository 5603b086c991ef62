"""What params.yaml may say: its types, and one line for each mistake."""
