"""What the persistent kernel is given; the kernel itself needs a GPU: `bench planner` checks it there."""

import importlib.util

import pytest
import torch

from tickdrive.planner.network_config import preset

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")

WIDTH, ROWS = 64, 8


def lanes():
    """Lane number, its row or column g and its part q of the inner axis."""
    return [(lane, lane >> 2, lane & 3) for lane in range(32)]


def of_tokens(tokens, g, q, pair, part):
    """The 4 elements that a lane holds of row g for one product, as the kernel reads them."""
    first = pair * 32 + q * 8 + part * 4
    return tokens[g, first : first + 4]


def narrow_operand(parts):
    """(16, 8) from each lane's 4 elements: PTX, mma.m16n8k16, matrix B."""
    out = torch.zeros(16, 8)
    for (_, g, q), four in zip(lanes(), parts, strict=True):
        out[2 * q : 2 * q + 2, g] = four[:2]
        out[2 * q + 8 : 2 * q + 10, g] = four[2:]
    return out


@pytest.mark.parametrize("lines", [16, 32])
def test_lines_are_in_the_order_of_the_tensor_cores(lines):
    from tickdrive.planner.fused_loop import lines_in_order

    weight, tokens = torch.randn(2, 64, WIDTH), torch.randn(ROWS, WIDTH)
    ordered = lines_in_order(weight, lines)[1]
    for program, own in enumerate(ordered):
        tiles, out = own.view(WIDTH // 32, 2, lines // 16, 32, 8), torch.zeros(lines, ROWS)
        for pair in range(WIDTH // 32):
            for part in range(2):
                narrow = narrow_operand([of_tokens(tokens, g, q, pair, part) for _, g, q in lanes()])
                for tile in range(lines // 16):
                    wide = torch.zeros(16, 16)  # matrix A
                    for lane, g, q in lanes():
                        held = tiles[pair, part, tile, lane]
                        wide[g, 2 * q : 2 * q + 2], wide[g + 8, 2 * q : 2 * q + 2] = held[:2], held[2:4]
                        wide[g, 2 * q + 8 : 2 * q + 10] = held[4:6]
                        wide[g + 8, 2 * q + 8 : 2 * q + 10] = held[6:]
                    out[tile * 16 : tile * 16 + 16] += wide @ narrow
        want = weight[1, program * lines : program * lines + lines] @ tokens.T
        assert torch.allclose(out, want, atol=1e-4)


@pytest.mark.parametrize("cluster", [2, 4])
def test_every_program_owns_eight_columns_of_its_slice(cluster):
    from tickdrive.planner.fused_loop import owned

    own = owned(16, cluster)
    assert sorted(own.tolist()) == list(range(16))
    for program, eight in enumerate(own.tolist()):
        assert eight // (16 // cluster) == program % cluster


@pytest.mark.parametrize("cluster", [2, 4])
def test_parts_of_a_cluster_add_up_to_its_columns(cluster):
    """Each program has its part of the inner axis for all columns that its cluster owns."""
    from tickdrive.planner.fused_loop import owned, parted

    weight, tokens = torch.randn(2, WIDTH, 4 * WIDTH), torch.randn(ROWS, 4 * WIDTH)
    parts = parted(weight, cluster)[1].view(-1, cluster, 8 * cluster, 4 * WIDTH // cluster)  # cluster, rank
    sums = torch.einsum("crli,tri->ctl", parts, tokens.view(ROWS, cluster, -1))
    own = owned(WIDTH // 8, cluster).view(-1, cluster)
    for of_cluster, total in zip(own, sums, strict=True):
        columns = torch.cat([torch.arange(eight * 8, eight * 8 + 8) for eight in of_cluster.tolist()])
        assert torch.allclose(total, tokens @ weight[1, columns].T, atol=1e-4)


def test_units_lie_together_with_their_gates():
    from tickdrive.planner.fused_loop import owned, units_of

    weight, own = torch.randn(3 * WIDTH, WIDTH), owned(WIDTH // 8, 4)
    arranged = units_of(weight, own).view(WIDTH // 8, 4, 8, WIDTH)
    for gate in range(3):
        eights = weight[gate * WIDTH : (gate + 1) * WIDTH].view(-1, 8, WIDTH)
        assert torch.equal(arranged[:, gate], eights[own])
    assert not arranged[:, 3].any()


class _Hopper:
    major, multi_processor_count, shared_memory_per_block_optin = 9, 132, 232448


@pytest.mark.parametrize(
    ("name", "changes", "dtype", "why"),
    [
        ("seed", {}, torch.float16, None),
        ("medium", {}, torch.bfloat16, None),
        ("light", {}, torch.float16, None),
        ("seed", {}, torch.float32, "16 bits"),
        ("compact", {}, torch.float16, None),
        ("seed", {"n_emb": 512, "n_head": 4}, torch.bfloat16, None),
        ("seed", {"n_emb": 192, "n_head": 3}, torch.float16, "number of heads"),
        ("seed", {"n_status": 8}, torch.float16, "status samples"),
        ("seed", {"n_emb": 1024, "n_head": 16}, torch.float16, "shared memory"),
        ("seed", {"horizon": 10}, torch.float16, "2 to 8 waypoints"),
    ],
)
def test_networks_that_it_does_not_fit_are_told(monkeypatch, name, changes, dtype, why):
    from tickdrive.planner import fused_loop

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: _Hopper())
    config = preset(name, **changes)
    told = fused_loop.why_not(config, dtype, torch.device("cuda"))
    assert told is None if why is None else why in told
    assert fused_loop.why_not(config, dtype, torch.device("cpu")) == "not on CUDA"


def test_nothing_is_compiled_where_nothing_may_be_built(monkeypatch, tmp_path):
    """An agent's set-up stands under a watchdog."""
    from tickdrive.planner.errors import EngineNotReadyError
    from tickdrive.planner.fused_loop import LoopWeights, PersistentLoop
    from tickdrive.planner.policy import DiffusionPolicy

    monkeypatch.setenv("TICKDRIVE_CACHE", str(tmp_path))
    config = preset("light", n_layer=1)
    network = DiffusionPolicy(config).network
    width = config.n_emb
    loop = PersistentLoop(
        LoopWeights(
            up=torch.randn(1, 4 * width, width),
            down=torch.randn(1, width, 4 * width),
            down_bias=torch.randn(1, width),
            out_bias=torch.randn(1, width),
            gru=network.head.gru,
            head_norm=network.head.norm,
            head_out=network.head.out,
            points=torch.randn(2, width),
            points_bias=torch.randn(config.horizon, width),
            input_norm=torch.nn.LayerNorm(width),
        ),
        config,
    )
    with pytest.raises(EngineNotReadyError, match="tickdrive warmup"):
        loop.load(build=False)
    assert not loop.loaded
