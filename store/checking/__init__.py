"""Finding what is wrong in a store, and mending it: what `neuron-store verify` does."""
