"""Image towers that come with some language models: how many parameters they add, and how many heads they have."""

from __future__ import annotations

from dataclasses import dataclass

from engines.sizing.keys import Keys


@dataclass(frozen=True)
class Tower:
    """An image tower with its projector."""

    parameters: int
    heads: int


_SIGLIP = {"num_channels": 3}
_PIXTRAL = {  # what transformers' PixtralVisionConfig fills in
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 16,
}


def siglip(config: Keys, hidden: int) -> Tower:
    """Gemma 3: a SigLIP tower, whose layers have biases, and a projection to ``hidden``. Raises Refused.

    Source: transformers, ``models/siglip/modeling_siglip.py`` and ``models/gemma3/modeling_gemma3.py``.
    """
    keys = Keys(config.mapping("vision_config"), _SIGLIP, "vision_config.")
    width, inner, patch = keys.count("hidden_size"), keys.count("intermediate_size"), keys.count("patch_size")
    positions = (keys.count("image_size") // patch) ** 2
    embedding = width * keys.count("num_channels") * patch * patch + width + positions * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    projection = width * hidden + width
    total = embedding + keys.count("num_hidden_layers") * layer + 2 * width + projection
    return Tower(total, keys.count("num_attention_heads"))


def pixtral(config: Keys, hidden: int) -> Tower:
    """Mistral Small 3.1 and later: a Pixtral tower without biases, four patches merged into one. Raises Refused.

    Source: transformers, ``models/pixtral/modeling_pixtral.py`` and ``models/mistral3/modeling_mistral3.py``.
    """
    keys = Keys(config.mapping("vision_config"), _PIXTRAL, "vision_config.")
    width, inner, patch = keys.count("hidden_size"), keys.count("intermediate_size"), keys.count("patch_size")
    merge, bias = config.count("spatial_merge_size"), config.flag("multimodal_projector_bias")
    tower = width * keys.count("num_channels") * patch * patch + width
    tower += keys.count("num_hidden_layers") * (4 * width * width + 3 * width * inner + 2 * width)
    projector = width + merge * merge * width * width + width * hidden + hidden * hidden + bias * 2 * hidden
    return Tower(tower + projector, keys.count("num_attention_heads"))
