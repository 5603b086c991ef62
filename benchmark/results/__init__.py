"""What is published: its columns, its catalog, where it comes from."""
