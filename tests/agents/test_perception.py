import numpy as np
import pytest
import torch

from tickdrive.agents.config import PerceptionConfig
from tickdrive.agents.perception.base import load_extractor
from tickdrive.agents.perception.compact import CompactExtractor
from tickdrive.agents.perception.compact_network import CompactConfig, CompactPerception
from tickdrive.agents.types import Decision, PlannerInputs
from tickdrive.planner.errors import CheckpointError, ConfigError, SensorError
from tickdrive.planner.network_config import preset
from tickdrive.planner.tracing import Tracer

SMALL = CompactConfig(
    width=32,
    image_height=64,
    image_width=128,
    image_channels=(8, 8, 16, 16, 32),
    bev_size=32,
    bev_channels=(8, 8, 16, 16),
    heads=4,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: threads that wait for each other on a busy machine cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def used(config=SMALL, seed=0):
    """A network whose batch norms have seen data, so that folding them is no identity."""
    torch.manual_seed(seed)
    network = CompactPerception(config).train()
    for _ in range(3):
        network(*batch(config))
    return network.eval()


def batch(config=SMALL, size=4):
    return (
        torch.rand(size, 3, config.image_height, config.image_width) * 255.0,
        torch.rand(size, config.n_observation, config.bev_planes, config.bev_size, config.bev_size),
        torch.randn(size, config.n_status, config.status_width),
    )


def random_inputs(config=SMALL, seed=1):
    rng = np.random.default_rng(seed)
    return PlannerInputs(
        image=rng.integers(0, 256, (config.image_height, config.image_width, 3), dtype=np.uint8),
        lidar_bev=rng.integers(
            0,
            256,
            (config.n_observation, config.bev_planes, config.bev_size, config.bev_size),
            dtype=np.uint8,
        ),
        ego_status=rng.normal(size=(config.n_status, config.status_width)).astype(np.float32),
    )


def test_the_shipped_sizes():
    network = CompactPerception().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) < 6e6
    with torch.no_grad():
        features, predictions = network(*batch(network.config, 1))
    assert features.vl_tokens.shape == (1, 8 * 16 + 8 * 8, 256)
    assert features.reasoning_tokens.shape == (1, 7, 256)
    assert features.observation_tokens.shape == (1, 4, 256)
    assert predictions.decision.shape == (1, len(Decision))
    assert predictions.semantic.shape == (1, 29, 32, 64)


def test_folding_the_batch_norms_changes_nothing():
    network = used()
    folded = network.folded()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    inputs = batch()
    with torch.no_grad():
        plain, _ = network(*inputs)
        fused, _ = folded(*inputs)
    for name in ("vl_tokens", "reasoning_tokens", "observation_tokens"):
        torch.testing.assert_close(getattr(fused, name), getattr(plain, name), rtol=1e-3, atol=1e-4)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())  # a copy was folded


def test_extraction_is_what_training_sees_and_repeats_itself():
    network, inputs = used(), random_inputs()
    extractor = CompactExtractor(network)
    features, reasoning = extractor.extract(inputs)
    again, _ = extractor.extract(inputs)
    with torch.no_grad():
        expected, predictions = network(
            torch.from_numpy(inputs.image).float().permute(2, 0, 1)[None],
            torch.from_numpy(inputs.lidar_bev).float()[None] / 255.0,
            torch.from_numpy(inputs.ego_status)[None],
        )
    assert torch.equal(features.vl_tokens, again.vl_tokens)
    torch.testing.assert_close(features.vl_tokens, expected.vl_tokens, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features.observation_tokens, expected.observation_tokens, rtol=1e-3, atol=1e-3)
    probabilities = predictions.decision.softmax(-1)[0]
    assert reasoning.decision == Decision(int(probabilities.argmax()))
    assert sum(reasoning.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert reasoning.probability == pytest.approx(float(probabilities.max()), abs=1e-3)


def test_every_input_matters():
    extractor, inputs = CompactExtractor(used()), random_inputs()
    base, _ = extractor.extract(inputs)
    for name in ("image", "lidar_bev", "ego_status"):
        changed = PlannerInputs(**{**vars(inputs), name: np.zeros_like(getattr(inputs, name))})
        features, _ = extractor.extract(changed)
        assert not torch.allclose(features.reasoning_tokens, base.reasoning_tokens, atol=1e-4), name
    older = inputs.lidar_bev.copy()
    older[0] = 0
    features, _ = extractor.extract(PlannerInputs(inputs.image, older, inputs.ego_status))
    moved = (features.observation_tokens - base.observation_tokens).abs().amax(-1)[0]
    assert moved[0] > 1e-4 and moved[1:].max() < 1e-5  # a frame makes its own token


def test_the_work_is_timed_by_its_two_spans():
    tracer = Tracer()
    tracer.begin()
    CompactExtractor(used()).extract(random_inputs(), tracer)
    assert [span.name for span in tracer.end().spans] == ["vl", "reasoning"]


def test_inputs_of_another_size_are_refused():
    extractor, inputs = CompactExtractor(used()), random_inputs()
    with pytest.raises(SensorError, match="ego_status"):
        extractor.extract(PlannerInputs(inputs.image, inputs.lidar_bev, inputs.ego_status[:, :14]))


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path, half):
    network = used()
    network.save_pretrained(tmp_path / "planner" / "perception", {"step": 3}, half=half)
    policy = preset("compact", vl_width=32, reasoning_width=32, observation_width=32)
    extractor = load_extractor(PerceptionConfig(), tmp_path / "planner", policy)
    assert extractor.metadata == {"step": 3}
    got, _ = extractor.extract(random_inputs())
    expected, _ = CompactExtractor(network).extract(random_inputs())
    tolerance = 2e-2 if half else 1e-5
    torch.testing.assert_close(got.vl_tokens, expected.vl_tokens, rtol=tolerance, atol=tolerance)


def test_what_does_not_fit_is_said(tmp_path):
    used().save_pretrained(tmp_path / "perception")
    with pytest.raises(CheckpointError, match="VL tokens of width 32; the planner takes 256"):
        load_extractor(PerceptionConfig(), tmp_path, preset("compact"))
    with pytest.raises(CheckpointError, match="width 22, the planner of 14"):
        load_extractor(PerceptionConfig(), tmp_path, preset("seed"))
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_extractor(PerceptionConfig(checkpoint=str(tmp_path / "none")), None, preset("compact"))
    with pytest.raises(ConfigError, match="Did you mean 'compact'"):
        load_extractor(PerceptionConfig(kind="compactt"), None, preset("compact"))
    weights = tmp_path / "perception" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_extractor(PerceptionConfig(), tmp_path, preset("compact"))


def test_the_decision_is_learnt_from_what_is_seen():
    """A red or a green blob in the picture decides; nothing else differs."""
    torch.manual_seed(0)
    network = CompactPerception(SMALL).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)

    def toy(size):
        image, bev, status = batch(SMALL, size)
        image = image * 0.5
        label = torch.arange(size) % 2
        for i in range(size):
            x, y = 8 + int(torch.randint(96, ())), 4 + int(torch.randint(32, ()))
            image[i, :, y : y + 8, x : x + 6] = 0.0
            image[i, int(label[i]), y : y + 8, x : x + 6] = 255.0
        return (image, bev, status), label

    for _ in range(40):
        inputs, label = toy(16)
        loss = torch.nn.functional.cross_entropy(network(*inputs)[1].decision, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    inputs, label = toy(32)
    with torch.no_grad():
        accuracy = (network(*inputs)[1].decision.argmax(1) == label).float().mean()
    assert accuracy > 0.9


def test_random_features_have_the_planners_sizes_and_differ_from_tick_to_tick():
    policy = preset("light")
    extractor = load_extractor(PerceptionConfig(kind="random"), None, policy)
    inputs = extractor.example_inputs()
    tracer = Tracer()
    tracer.begin()
    first, reasoning = extractor.extract(inputs, tracer)
    assert [span.name for span in tracer.end().spans] == ["random_features"]
    assert reasoning is None
    assert first.vl_tokens.shape == (1, 512, 2560) and first.reasoning_tokens.shape == (1, 7, 2560)
    assert first.observation_tokens.shape == (1, policy.n_observation, policy.observation_width)
    second, _ = extractor.extract(inputs)
    assert not torch.equal(first.vl_tokens, second.vl_tokens)
    with pytest.raises(ConfigError, match=r"random_tokens is \[512\].*two whole numbers"):
        PerceptionConfig(kind="random", random_tokens=[512])
