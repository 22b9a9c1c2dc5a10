"""The tiny checkpoints of Qwen2.5-Omni: the whole model, and its thinker alone.

``qwen2_5_omni`` has the names of `Qwen/Qwen2.5-Omni-3B`, which start with ``thinker.``, in three
shards, with a few tensors of the talker and the vocoder. ``qwen2_5_omni_thinker`` has the same
thinker in one file, under the names that fine-tuned embedders keep.
"""

from tests.parity.shapes import (
    QWEN2_5_DECODER,
    QWEN2_5_TOWER,
    Config,
    Shapes,
    audio_tower,
    decoder,
    qwen2_5_tower,
)

WHISPER = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 300,
    "n_samples": 4800000,
    "nb_max_frames": 30000,
    "dither": 0.0,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
}

THINKER = {
    "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
    "model_type": "qwen2_5_omni_thinker",
    "audio_token_index": 2008,
    "image_token_index": 2006,
    "video_token_index": 2007,
    "audio_start_token_id": 2009,
    "audio_end_token_id": 2010,
    "vision_start_token_id": 2003,
    "vision_end_token_id": 2004,
    "vision_token_id": 2005,
    "bos_token_id": 2000,
    "eos_token_id": 2001,
    "pad_token_id": 2000,
    "ignore_index": -100,
    "user_token_id": 872,
    "position_id_per_seconds": 25,
    "seconds_per_chunk": 2,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "audio_config": {
        "model_type": "qwen2_5_omni_audio_encoder",
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "attention_dropout": 0.0,
        "d_model": 64,
        "dropout": 0.0,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 160,
        "encoder_layers": 3,
        "num_hidden_layers": 3,
        "initializer_range": 0.02,
        "max_source_positions": 1500,
        "n_window": 100,
        "num_mel_bins": 128,
        "output_dim": 128,
        "scale_embedding": False,
    },
    "text_config": {
        "model_type": "qwen2_5_omni_text",
        **QWEN2_5_DECODER,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [4, 6, 6]},
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
    },
    "vision_config": {
        "model_type": "qwen2_5_omni_vision_encoder",
        **QWEN2_5_TOWER,
        "embed_dim": 64,
        "tokens_per_second": 25,
        "initializer_range": 0.02,
    },
}

OMNI = {
    "architectures": ["Qwen2_5OmniModel"],
    "model_type": "qwen2_5_omni",
    "enable_audio_output": True,
    "enable_talker": True,
    "thinker_config": {
        **THINKER,
        "architectures": ["Qwen2OmniNaViTThinkerForConditionalGeneration"],
    },
    "talker_config": {
        "model_type": "qwen2_5_omni_talker",
        "hidden_size": 32,
        "embedding_size": 128,
    },
    "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"},
    "torch_dtype": "float32",
}


def thinker(c: Config) -> Shapes:
    text = c["text_config"]
    yield from decoder(text, "model.", bias=True, normed=False)
    yield "lm_head.weight", (text["vocab_size"], text["hidden_size"])
    yield from qwen2_5_tower(c["vision_config"], "visual.", qkv=("q", "k", "v"))
    yield from audio_tower(c["audio_config"], "audio_tower.")


def omni(c: Config) -> Shapes:
    for name, shape in thinker(c["thinker_config"]):
        yield "thinker." + name, shape
    yield "talker.model.embed_tokens.weight", (64, 128)
    yield "talker.model.layers.0.self_attn.q_proj.weight", (32, 32)
    yield "talker.model.layers.0.self_attn.q_proj.bias", (32,)
    yield "talker.thinker_to_talker_proj.weight", (32, 128)
    yield "talker.codec_head.weight", (64, 32)
    yield "token2wav.code2wav_dit_model.text_embed.codec_embed.weight", (64, 32)
    yield "token2wav.code2wav_bigvgan_model.conv_pre.weight", (32, 32, 5)
