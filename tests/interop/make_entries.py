"""Have the real optimum-neuron write registry entries for small models: python make_entries.py DEST.

    DEST/models/<name>/…                    the models' configurations, as their Hub repos have them
    DEST/optimum-neuron-<version>/…         a cache repo with an entry for each export

It runs where tests/interop/requirements.txt is installed, and needs no network. The Neuron packages are stubs: nothing
is compiled, but the entries and the layout come from optimum-neuron's own classes and its own `hub_neuronx_cache`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import neuron_stubs

COMPILER = "2.21.33363.0+82129205"
DIFFUSERS = "0.35.2"
REVISION = "0123456789abcdef0123456789abcdef01234567"

neuron_stubs.install(COMPILER)

from optimum.neuron.cache.entries.multi_model import MultiModelCacheEntry  # noqa: E402 - after the stubs
from optimum.neuron.cache.entries.single_model import SingleModelCacheEntry  # noqa: E402
from optimum.neuron.cache.hub_cache import hub_neuronx_cache  # noqa: E402
from optimum.neuron.models.inference.backend.config import NxDNeuronConfig  # noqa: E402
from optimum.neuron.utils import DiffusersPretrainedConfig, store_compilation_config  # noqa: E402
from optimum.neuron.version import __version__  # noqa: E402
from transformers import AutoConfig, BertConfig, CLIPTextConfig, LlamaConfig, Qwen2Config  # noqa: E402

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SMALL, "num_key_value_heads": 2, "vocab_size": 1000, "dtype": "bfloat16"}


def save(folder, config, architecture):
    config.architectures = [architecture]
    config.save_pretrained(folder)


def save_models(models):
    # The second Llama is another model of the same architecture, as fine-tuned ones are: one's entries serve the other.
    for name in ("tiny-llama", "tiny-llama-chat"):
        save(models / name, LlamaConfig(**DECODER), "LlamaForCausalLM")
    save(models / "tiny-qwen2", Qwen2Config(**DECODER, tie_word_embeddings=True), "Qwen2ForCausalLM")
    save(models / "tiny-bert", BertConfig(**SMALL, vocab_size=1000, dtype="float32"), "BertForSequenceClassification")
    save_diffusion_model(models / "tiny-stable-diffusion")


def save_diffusion_model(folder):
    """A Stable Diffusion pipeline, with the fields that diffusers writes."""
    diffusers = {"_diffusers_version": DIFFUSERS}
    text_encoder = CLIPTextConfig(**SMALL, vocab_size=1000, dtype="float32")
    save(folder / "text_encoder", text_encoder, "CLIPTextModel")
    unet = {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [32, 64],
        "cross_attention_dim": 64,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    }
    vae = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
    }
    index = {
        "_class_name": "StableDiffusionPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for path, content in (("unet/config.json", unet), ("vae/config.json", vae), ("model_index.json", index)):
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**diffusers, **content}, indent=2, sort_keys=True) + "\n")


def decoder_entry(models, name, batch_size, sequence_length, tp_degree, target):
    """What an export for text generation registers."""
    neuron_config = NxDNeuronConfig(
        checkpoint_id=f"acme/{name}",
        checkpoint_revision=REVISION,
        batch_size=batch_size,
        sequence_length=sequence_length,
        tp_degree=tp_degree,
        torch_dtype="bfloat16",
        target=target,
        on_device_sampling=True,
        fused_qkv=True,
        continuous_batching=batch_size > 1,
    )
    config = AutoConfig.from_pretrained(models / name).get_text_config()
    config.torch_dtype = neuron_config.torch_dtype  # as the export does
    return SingleModelCacheEntry(f"acme/{name}", "text-generation", config, neuron_config)


def traced(config, shapes, task, model_type=None, auto_cast="matmul"):
    """A component's configuration, as the export of a traced model completes it."""
    return store_compilation_config(
        config=config,
        input_shapes=shapes,
        compiler_kwargs={
            "auto_cast": auto_cast,
            "auto_cast_type": "bf16" if auto_cast else None,
            "instance_type": "trn1",
        },
        float_dtype="fp32",
        dynamic_batch_size=False,
        tensor_parallel_size=1,
        compiler_type="neuronx-cc",
        compiler_version=COMPILER,
        inline_weights_to_neff=True,
        optlevel="2",
        model_type=model_type,
        task=task,
    )


def encoder_entry(models):
    task = "text-classification"
    config = AutoConfig.from_pretrained(models / "tiny-bert")
    config = traced(config, {"batch_size": 1, "sequence_length": 128}, task)
    return SingleModelCacheEntry("acme/tiny-bert", task, config)


def diffusion_entry(models):
    folder = models / "tiny-stable-diffusion"
    text_shapes = {"batch_size": 1, "sequence_length": 77}
    image_shapes = {"batch_size": 1, "num_channels": 4, "width": 64, "height": 64}
    parts = {
        "text_encoder": ("text_encoder", text_shapes, "feature-extraction", "clip-text-model"),
        "unet": ("unet", {**text_shapes, **image_shapes, "vae_scale_factor": 8}, "semantic-segmentation", "unet"),
        "vae_encoder": ("vae", {**image_shapes, "num_channels": 3}, "semantic-segmentation", "vae-encoder"),
        "vae_decoder": ("vae", image_shapes, "semantic-segmentation", "vae-decoder"),
    }
    neuron_stubs.add_module("diffusers", __version__=DIFFUSERS)  # asked for nothing but this
    configs = {}
    for name, (part, shapes, task, model_type) in parts.items():
        if part == "text_encoder":
            config = AutoConfig.from_pretrained(folder / part)
        else:
            config = DiffusersPretrainedConfig.from_dict(json.loads((folder / part / "config.json").read_text()))
        configs[name] = traced(config, shapes, task, model_type)
    return MultiModelCacheEntry("acme/tiny-stable-diffusion", configs)


def main(destination):
    models = destination / "models"
    save_models(models)
    entries = [
        decoder_entry(models, "tiny-llama", 1, 512, 2, "trn1"),
        decoder_entry(models, "tiny-llama", 4, 1024, 8, "trn2"),
        decoder_entry(models, "tiny-llama-chat", 2, 2048, 2, "trn1"),
        decoder_entry(models, "tiny-qwen2", 1, 512, 2, "trn1"),
        encoder_entry(models),
        diffusion_entry(models),
    ]
    with tempfile.TemporaryDirectory() as cache:
        for entry in entries:
            with hub_neuronx_cache(entry=entry, cache_dir=cache):
                pass
        # Its aliases are links, which an upload to the Hub follows, and so does this copy.
        shutil.copytree(cache, destination / f"optimum-neuron-{__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
