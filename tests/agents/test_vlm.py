import dataclasses

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="4.57")

from tickdrive.agents.config import PerceptionConfig  # noqa: E402
from tickdrive.agents.perception.base import load_extractor  # noqa: E402
from tickdrive.agents.perception.vlm import PROMPT, VlmExtractor, VlmHead, VlmHeadConfig  # noqa: E402
from tickdrive.agents.types import PlannerInputs  # noqa: E402
from tickdrive.planner.errors import CheckpointError, ConfigError, SensorError  # noqa: E402
from tickdrive.planner.network_config import preset  # noqa: E402
from tickdrive.planner.policy import DiffusionPolicy  # noqa: E402
from tickdrive.planner.tracing import Tracer  # noqa: E402

POLICY = preset(
    "compact",
    n_emb=32,
    n_head=4,
    n_layer=1,
    n_encoder_layer=1,
    vl_width=64,
    reasoning_width=64,
    observation_width=32,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: threads that wait for each other on a busy machine cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A randomly initialised Qwen3-VL of 64 dimensions and a word tokenizer, saved as the hub has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("tiny-qwen3-vl")
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "[UNK]"]
    words = [*special, "user", "assistant", *sorted(set(PROMPT.replace(".", " ").replace(",", " ").split()))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.add_special_tokens({"additional_special_tokens": special[:5]})
    fast.save_pretrained(path)
    config = transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        vision_start_token_id=2,
        vision_end_token_id=3,
        image_token_id=4,
        video_token_id=127,
    )
    torch.manual_seed(0)
    transformers.Qwen3VLForConditionalGeneration(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def extractor(folder):
    return load_extractor(PerceptionConfig(kind="vlm", model=str(folder)), None, POLICY)


def random_inputs(seed=0, height=256, width=512):
    rng = np.random.default_rng(seed)
    return PlannerInputs(
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        lidar_bev=rng.integers(0, 256, (4, 3, 128, 128), dtype=np.uint8),
        ego_status=rng.normal(size=(4, 22)).astype(np.float32),
    )


def test_hidden_states_become_padded_tokens_that_the_planner_takes(extractor):
    tracer = Tracer()
    tracer.begin()
    features, reasoning = extractor.extract(random_inputs(), tracer)
    assert [span.name for span in tracer.end().spans] == ["vl", "reasoning"]
    assert reasoning is None  # nobody trained this head: it must not pretend to know
    assert features.vl_tokens.shape == (1, 512, 64)
    assert features.reasoning_tokens.shape == (1, 7, 64)
    assert features.observation_tokens.shape == (1, 4, 32)
    real = int(features.vl_mask.sum())
    assert 128 < real < 250 and features.vl_mask[0, :real].all()
    assert torch.isfinite(features.vl_tokens).all() and not features.vl_tokens[0, real:].any()

    torch.manual_seed(0)
    policy = DiffusionPolicy(POLICY).eval()
    noise = torch.randn(1, 6, 2)
    status = torch.from_numpy(random_inputs().ego_status)[None]
    plan = policy.conditional_sample(features, status, noise)
    cut = dataclasses.replace(features, vl_tokens=features.vl_tokens[:, :real], vl_mask=None)
    torch.testing.assert_close(policy.conditional_sample(cut, status, noise), plan, rtol=1e-4, atol=1e-4)


def test_picture_and_status_reach_the_tokens(extractor):
    inputs = random_inputs()
    base, _ = extractor.extract(inputs)
    again, _ = extractor.extract(inputs)
    assert torch.equal(base.vl_tokens, again.vl_tokens)
    other, _ = extractor.extract(dataclasses.replace(inputs, image=random_inputs(1).image))
    assert not torch.allclose(other.vl_tokens, base.vl_tokens, atol=1e-4)
    other, _ = extractor.extract(dataclasses.replace(inputs, ego_status=inputs.ego_status + 1))
    assert torch.equal(other.vl_tokens, base.vl_tokens)
    assert not torch.allclose(other.reasoning_tokens, base.reasoning_tokens, atol=1e-4)
    other, _ = extractor.extract(dataclasses.replace(inputs, lidar_bev=inputs.lidar_bev * 0))
    assert not torch.allclose(other.observation_tokens, base.observation_tokens, atol=1e-4)


def test_patches_are_those_of_transformers_own_processor(extractor):
    """Each patch must stand where the model expects it, or it sees a shuffled picture."""
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil as Processor,
        )
    except ImportError:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor as Processor
    processor = Processor(
        patch_size=16, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    image = random_inputs().image
    expected = processor(images=[image], return_tensors="pt")
    assert expected["image_grid_thw"].tolist() == [[1, 16, 32]]
    torch.testing.assert_close(extractor.pixel_values(image), expected["pixel_values"], rtol=1e-4, atol=1e-4)


def test_another_rigs_picture_is_resized(extractor):
    features, _ = extractor.extract(random_inputs(height=300, width=700))
    assert features.vl_tokens.shape == (1, 512, 64)


def test_a_trained_head_speaks_and_round_trips(folder, tmp_path, extractor):
    torch.manual_seed(3)
    head = VlmHead(VlmHeadConfig(hidden=64, reasoning_width=64, observation_width=32))
    head.save_pretrained(tmp_path / "perception")
    loaded = load_extractor(PerceptionConfig(kind="vlm", model=str(folder)), tmp_path, POLICY)
    features, reasoning = loaded.extract(random_inputs())
    assert reasoning is not None and sum(reasoning.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert not torch.allclose(
        features.reasoning_tokens, extractor.extract(random_inputs())[0].reasoning_tokens
    )


def test_what_does_not_fit_is_said(folder, tmp_path, extractor):
    config = PerceptionConfig(kind="vlm", model=str(folder))
    with pytest.raises(CheckpointError, match="VL tokens of width 64; the planner takes 256"):
        load_extractor(config, None, preset("compact"))
    VlmHead(VlmHeadConfig(hidden=32, reasoning_width=64, observation_width=32)).save_pretrained(
        tmp_path / "perception"
    )
    with pytest.raises(CheckpointError, match="hidden states of width 32"):
        load_extractor(config, tmp_path, POLICY)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_extractor(PerceptionConfig(kind="vlm", model=str(tmp_path)), None, POLICY)
    with pytest.raises(SensorError, match="ego status"):
        extractor.extract(dataclasses.replace(random_inputs(), ego_status=np.zeros((4, 14), np.float32)))
    with pytest.raises(ConfigError, match="tokens; the planner is given 20"):
        short = VlmHead(VlmHeadConfig(hidden=64, reasoning_width=64, observation_width=32, n_vl=20))
        model = transformers.AutoModel.from_pretrained(folder)
        VlmExtractor(model, transformers.AutoTokenizer.from_pretrained(folder), short, trained=False)
