"""A reference `neuronx-cc` that really compiles (for CPUs, with XLA), and real HLO to give it.

No AWS Neuron compiler is needed: tests, demonstrations and benchmarks run anywhere that jaxlib runs. Nothing
is imported here, so that asking the reference compiler for its version stays cheap.
"""
