"""Where results live: records, blobs, locks and the event log. Keys are opaque here.

Importing this package imports nothing else: the shim's hit path loads only the modules it needs.
"""
