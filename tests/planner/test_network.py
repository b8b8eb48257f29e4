import dataclasses

import pytest
import torch

from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError
from tickdrive.planner.layers import DecoderLayer, HeadRMSNorm, time_embedding
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.network_config import (
    PRESETS,
    PdmServerConfig,
    PolicyConfig,
    load_pdm_server_config,
    preset,
)
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize

TINY = PolicyConfig(
    n_emb=32, n_head=4, n_layer=3, n_encoder_layer=2, vl_width=24, reasoning_width=20, observation_width=16
)


def tiny_network(seed=0, **changes):
    return randomize(DiffusionPolicy(dataclasses.replace(TINY, **changes)), seed).eval().network


def draw(config, batch=2, n_vl=9, n_reasoning=5, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "trajectory": randn(batch, config.horizon, 2),
        "t": torch.randint(100, (batch,), generator=generator),
        "cond": randn(batch, config.n_observation, config.observation_width),
        "gen_vit_tokens": randn(batch, n_vl, config.vl_width),
        "reasoning_query_tokens": randn(batch, n_reasoning, config.reasoning_width),
        "ego_status": randn(batch, config.n_status, config.status_width),
    }


def encoder_inputs(inputs):
    return {key: inputs[key] for key in ("cond", "gen_vit_tokens", "reasoning_query_tokens")}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_predicts_noise_of_the_plans_shape(name):
    # as many layers, but narrow: the shapes' bookkeeping is what is tested
    full = PRESETS[name]
    config = preset(name, n_emb=full.n_head * 4, vl_width=24, reasoning_width=20)
    with torch.no_grad():
        assert TransformerForDiffusion(config)(**draw(config)).shape == (2, 6, 2)


def test_presets_have_the_settled_sizes():
    sizes = {name: (c.n_emb, c.n_head, c.n_layer, c.n_encoder_layer) for name, c in PRESETS.items()}
    assert sizes == {
        "seed": (768, 12, 12, 4),
        "medium": (640, 10, 8, 4),
        "light": (512, 8, 6, 4),
        "compact": (256, 8, 4, 4),
    }
    assert (PRESETS["seed"].vl_width, PRESETS["seed"].reasoning_width, PRESETS["seed"].status_width) == (
        2560,
        2560,
        14,
    )
    assert (PRESETS["compact"].vl_width, PRESETS["compact"].status_width) == (256, 22)


def test_the_seed_preset_runs_on_the_studys_tokens():
    config = preset("seed")
    inputs = draw(config, batch=1, n_vl=512, n_reasoning=7)
    with torch.no_grad():
        network = TransformerForDiffusion(config).eval()
        memory, vl_features, reasoning_features = network.encode_conditions(**encoder_inputs(inputs))
        out = network.decode_trajectory(
            inputs["trajectory"], inputs["t"], memory, vl_features, reasoning_features, inputs["ego_status"]
        )
    assert memory.shape == (1, 6, 768)
    assert vl_features.shape == (1, 512, 768)
    assert reasoning_features.shape == (1, 7, 768)
    assert out.shape == (1, 6, 2) and torch.isfinite(out).all()


def test_forward_is_encode_then_decode():
    network, inputs = tiny_network(), draw(TINY)
    with torch.no_grad():
        encoded = network.encode_conditions(**encoder_inputs(inputs))
        decoded = network.decode_trajectory(inputs["trajectory"], inputs["t"], *encoded, inputs["ego_status"])
        assert torch.equal(network(**inputs), decoded)


@pytest.mark.parametrize("n_vl, n_reasoning", [(1, 1), (3, 0), (0, 4), (0, 0), (40, 17)])
def test_any_number_of_tokens(n_vl, n_reasoning):
    with torch.no_grad():
        out = tiny_network()(**draw(TINY, n_vl=n_vl, n_reasoning=n_reasoning))
    assert out.shape == (2, 6, 2) and torch.isfinite(out).all()


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_contents_of_padding_never_matter(garbage):
    network, inputs = tiny_network(), draw(TINY)
    vl_mask, reasoning_mask = torch.ones(2, 9, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    vl_mask[0, 4:] = False
    reasoning_mask[1, 2:] = False
    with torch.no_grad():
        before = network(**inputs, vl_mask=vl_mask, reasoning_mask=reasoning_mask)
        inputs["gen_vit_tokens"][0, 4:] = garbage
        inputs["reasoning_query_tokens"][1, 2:] = garbage
        after = network(**inputs, vl_mask=vl_mask, reasoning_mask=reasoning_mask)
    assert torch.equal(before, after)


def test_masking_equals_leaving_out():
    network, inputs = tiny_network(), draw(TINY)
    vl_mask, reasoning_mask = torch.arange(9) < 6, torch.arange(5) < 3
    short = dict(inputs, gen_vit_tokens=inputs["gen_vit_tokens"][:, :6])
    short["reasoning_query_tokens"] = inputs["reasoning_query_tokens"][:, :3]
    with torch.no_grad():
        masked = network(**inputs, vl_mask=vl_mask.expand(2, -1), reasoning_mask=reasoning_mask.expand(2, -1))
        torch.testing.assert_close(masked, network(**short))
        assert not torch.allclose(masked, network(**inputs), atol=1e-3)


def test_a_sample_without_a_real_token_equals_one_without_tokens():
    network, inputs = tiny_network(), draw(TINY)
    none = torch.zeros(2, 9, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    empty = dict(inputs, gen_vit_tokens=torch.zeros(2, 0, 24), reasoning_query_tokens=torch.zeros(2, 0, 20))
    with torch.no_grad():
        masked = network(**inputs, vl_mask=none[0], reasoning_mask=none[1])
        assert torch.isfinite(masked).all()
        torch.testing.assert_close(masked, network(**empty))


@pytest.mark.parametrize(
    "name", ["trajectory", "t", "cond", "gen_vit_tokens", "reasoning_query_tokens", "ego_status"]
)
def test_every_input_reaches_the_prediction(name):
    network, inputs = tiny_network(), draw(TINY)
    changed = dict(inputs)
    changed[name] = (inputs[name] + 37) % 100 if name == "t" else inputs[name] + 1.0
    with torch.no_grad():
        assert (network(**inputs) - network(**changed)).abs().max() > 1e-2


@pytest.mark.parametrize("sample", range(4))
def test_every_status_sample_reaches_the_prediction(sample):
    network, inputs = tiny_network(), draw(TINY)
    changed = dict(inputs, ego_status=inputs["ego_status"].clone())
    changed["ego_status"][:, sample] += 1.0
    with torch.no_grad():
        assert (network(**inputs) - network(**changed)).abs().max() > 1e-3


def test_a_waypoint_sees_earlier_noise_only_through_the_heads_gru():
    # no self-attention, and a unidirectional GRU: what the hoisted engine rests on
    network, inputs = tiny_network(), draw(TINY)
    changed = dict(inputs, trajectory=inputs["trajectory"].clone())
    changed["trajectory"][:, 3] += 1.0
    with torch.no_grad():
        moved = (network(**inputs) - network(**changed)).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [False, False, False, True, True, True]


def test_decoder_sees_history_and_future_tokens_and_keeps_the_future():
    network, inputs = tiny_network(), draw(TINY)
    seen = []
    network.decoder[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.no_grad():
        assert network(**inputs).shape[1] == TINY.horizon
    assert seen == [(2, TINY.n_status + TINY.horizon, TINY.n_emb)]


def test_decoder_layers_are_distinct_objects_with_their_own_weights():
    network = TransformerForDiffusion(TINY)
    assert len({id(layer) for layer in network.decoder}) == TINY.n_layer
    storages = [parameter.data_ptr() for parameter in network.parameters()]
    assert len(set(storages)) == len(storages)


def test_every_layer_starts_from_the_encoders_memory():
    network, inputs = tiny_network(), draw(TINY)
    seen = []
    for layer in network.decoder:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    with torch.no_grad():
        network(**inputs)
    assert len(seen) == TINY.n_layer and all(memory is seen[0] for memory in seen)


def test_encode_conditions_takes_no_timestep_and_no_trajectory():
    import inspect

    names = set(inspect.signature(TransformerForDiffusion.encode_conditions).parameters)
    assert names == {
        "self",
        "cond",
        "gen_vit_tokens",
        "reasoning_query_tokens",
        "vl_mask",
        "reasoning_mask",
    }


def test_a_fresh_decoder_layer_is_the_identity():
    layer = TransformerForDiffusion(TINY).decoder[0]
    tokens = torch.randn(2, 10, 32)
    with torch.no_grad():
        out = layer(tokens, torch.randn(2, 6, 32), torch.randn(2, 14, 32), None, torch.randn(2, 32))
    assert torch.equal(out, tokens)


def test_all_parameters_get_a_gradient():
    network = tiny_network()
    network(**draw(TINY)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a bias common to all keys shifts all scores alike, and the softmax removes it; the GRU's own is kept
    assert all(name.endswith("attention.k.bias") for name in without), without


def test_random_weights_give_every_branch_its_share():
    network, inputs = tiny_network(), draw(TINY)
    shares = {}

    def watch(index, layer: DecoderLayer):
        seen = {}
        for name in ("memory_attention", "trajectory_attention", "ffn", "modulation"):
            getattr(layer, name).register_forward_hook(
                lambda _, a, out, name=name: seen.__setitem__(name, out)
            )

        def done(_, args, __):
            tokens, memory = args[0], args[1]
            parts = seen["modulation"][:, None].chunk(9, dim=-1)
            for name, gate, base in (
                ("memory_attention", parts[2], memory),
                ("trajectory_attention", parts[5], tokens),
                ("ffn", parts[8], tokens),
            ):
                shares[index, name] = float((gate * seen[name]).norm() / base.norm())

        layer.register_forward_hook(done)

    for index, layer in enumerate(network.decoder):
        watch(index, layer)
    with torch.no_grad():
        out = network(**inputs)
    assert len(shares) == 9 and min(shares.values()) > 0.1, shares
    assert 0.1 < float(out.std()) < 3.0


def test_head_rms_norm_is_per_head_and_weighted():
    norm = HeadRMSNorm(8, 2)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(8.0).view(2, 4))
    x = torch.tensor([[3.0, 3, 3, 3, 1, -1, 1, -1]])
    want = torch.tensor([[0.0, 1, 2, 3, 4, -5, 6, -7]])
    torch.testing.assert_close(norm(x), want, atol=1e-4, rtol=1e-4)


def test_time_embedding_tells_all_timesteps_apart_in_any_dtype():
    t = torch.arange(100)
    exact = time_embedding(t, 64, torch.float64)
    assert torch.pdist(exact).min() > 0.3
    torch.testing.assert_close(
        time_embedding(t, 64, torch.bfloat16).double(), exact, atol=5e-3, rtol=0
    )  # rounding of the result only, none of the frequencies


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 4e-2), (torch.float16, 5e-3)])
def test_narrow_dtypes_are_close_to_fp32(dtype, bound):
    network, inputs = tiny_network(), draw(TINY)
    with torch.no_grad():
        want = network(**inputs)
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        got = network.to(dtype)(**cast)
    assert got.dtype == dtype
    assert (got.float() - want).norm() / want.norm() < bound


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"n_head": 5}, "n_head"),
        ({"n_layer": 0}, "n_layer"),
        ({"dt_s": 0.0}, "dt_s"),
        ({"p_drop_attn": 1.0}, "p_drop_attn"),
        ({"num_inference_steps": 101}, "num_inference_steps"),
        ({"first_timestep": 100}, "first_timestep"),
        ({"prediction_type": "sample"}, "prediction_type"),
        ({"beta_schedule": "squaredcos_cap_v1"}, "squaredcos_cap_v2"),
    ],
)
def test_a_wrong_size_is_named(changes, word):
    with pytest.raises(ConfigError, match=word):
        dataclasses.replace(TINY, **changes)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'compact'"):
        preset("compct")


def test_the_shipped_yaml_is_the_seed_preset_and_takes_the_studys_keys():
    assert load_pdm_server_config().policy == PRESETS["seed"]
    changed = load_pdm_server_config(
        overrides=("policy.num_inference_steps=5", "policy.n_layer=6", "policy.n_emb=512", "policy.n_head=8")
    ).policy
    assert (changed.num_inference_steps, changed.n_layer, changed.n_emb, changed.n_head) == (5, 6, 512, 8)
    with pytest.raises(ConfigError, match="Did you mean 'n_layer'"):
        load_config(PdmServerConfig, overrides=("policy.n_layers=6",))
