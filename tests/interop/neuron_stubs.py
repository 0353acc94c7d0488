"""Stand-ins for the Neuron packages, as much of them as optimum-neuron's cache code touches.

`install(version)` has to run before optimum.neuron is imported.
"""

import importlib.machinery
import importlib.metadata
import os
import sys
import types


class CacheUrl:
    def __init__(self, url, url_type="fs"):
        self.url = url
        self.url_type = url_type

    @staticmethod
    def get_cache_url(cache_dir=None):
        return CacheUrl(cache_dir or os.environ["NEURON_COMPILE_CACHE_URL"])

    def is_s3(self):
        return self.url_type == "s3"


class CompileCache:
    compiler_version = None

    def __init__(self, cache_url):
        self.cache_url = cache_url
        self.cache_path = cache_url.url

    def get_cache_dir_with_cache_key(self, key):
        return f"{self.cache_path}/neuronxcc-{self.compiler_version}/{key}"


class CompileCacheFs(CompileCache):
    def exists(self, path):
        return os.path.exists(path)

    def upload_string_to_file(self, path, data):
        with open(path, "x", encoding="utf-8") as file:
            file.write(data)


class CompileCacheS3(CompileCache):
    pass


class Installed(importlib.metadata.DistributionFinder):
    """Says that torch_neuronx is installed: optimum-neuron asks for its version, too."""

    def find_spec(self, *_arguments):
        return None

    def find_distributions(self, context):
        return [TorchNeuronx()] if context.name == "torch_neuronx" else []


class TorchNeuronx(importlib.metadata.Distribution):
    def read_text(self, filename):
        return "Metadata-Version: 2.1\nName: torch-neuronx\nVersion: 0\n" if filename == "METADATA" else None

    def locate_file(self, path):
        raise FileNotFoundError(path)


def add_module(name, **members):
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module).update(members)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def install(compiler_version):
    """Make optimum-neuron believe that this version of the compiler is installed."""
    CompileCache.compiler_version = compiler_version
    sys.meta_path.append(Installed())
    for name in ("torch_xla", "torch_xla.core", "torch_xla.core.xla_model", "torch_xla.runtime"):
        add_module(name)
    add_module("torch_neuronx", DataParallel=None)
    add_module("neuronxcc", __version__=compiler_version)
    add_module("libneuronxla")
    add_module(
        "libneuronxla.neuron_cc_cache",
        CacheUrl=CacheUrl,
        CompileCache=CompileCache,
        CompileCacheFs=CompileCacheFs,
        CompileCacheS3=CompileCacheS3,
        create_compile_cache=CompileCacheFs,
    )
