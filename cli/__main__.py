"""`python -m neuron_store.cli`, for where the script `neuron-store` is not on PATH."""

from neuron_store.cli.main import main

main()
