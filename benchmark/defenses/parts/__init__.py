"""What several defenses are made of. Nothing here is a defense."""
