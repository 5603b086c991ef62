"""What the stages call, one file each."""
