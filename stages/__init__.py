"""The pipeline's stages: thin shells from params.yaml to calls of the library."""
