"""What identifies a compile: the command line, the compiler, the HLO and the inputs that hide.

Nothing here imports another floor of neuron-store. Importing this package imports nothing else: the shim's
hit path loads only the modules it needs.
"""
