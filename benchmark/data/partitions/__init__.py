"""How the training examples are spread over clients, one way a file."""
