"""What a person runs: the `neuron-store` command."""
