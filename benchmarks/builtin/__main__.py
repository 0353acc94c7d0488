"""Runs `neuron_store.benchmarks.builtin.main`."""

import sys

from neuron_store.benchmarks.builtin import main

sys.exit(main())
