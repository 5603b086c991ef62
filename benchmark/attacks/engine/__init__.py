"""Many searches at once: stacks, traces, optimisers, memory."""
