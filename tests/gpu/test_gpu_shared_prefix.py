"""Shared-prefix packs on a GPU: variable-length attention in bfloat16, padding in float32. Skipped without one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; torch sees none")

GROUPS = [(37, [9, 4, 0, 17, 64]), (128, [30, 33]), (5, [1, 1, 1]), (260, [70])]


@pytest.fixture(scope="module")
def inputs():
    """Queries with 4 heads, keys and values with 2, of 64 numbers, float64 on the GPU."""
    noise = torch.Generator().manual_seed(5)
    tokens = sum(prompt + sum(responses) for prompt, responses in GROUPS)
    return [torch.randn(tokens, n, 64, generator=noise, dtype=torch.float64).mul_(2).cuda() for n in (4, 2, 2)]


def outputs(attend, inputs, dtype):
    """Output and gradients in float64."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    out = attend(*leaves)
    weights = torch.linspace(0, 40, out.numel(), device="cuda").cos().view_as(out).to(out.dtype)
    return [x.double() for x in (out.detach(), *torch.autograd.grad((out * weights).sum(), leaves))]


@pytest.fixture(scope="module")
def wanted(inputs):
    from tests.unit.actor.test_prefix_attention import dense, dense_mask

    mask = dense_mask(GROUPS).cuda()
    return outputs(lambda q, k, v: dense(q, k, v, mask, 0.125), inputs, torch.float64)


def relative(mine, wanted):
    return max(float((one - other).norm() / other.norm()) for one, other in zip(mine, wanted, strict=True))


def test_variable_length_attention_is_causal_at_the_end_of_the_keys():
    """The first thing to know of a new version: 2 queries over 5 keys see 4 and 5 of them, not 1 and 2."""
    from torch.nn.attention.varlen import varlen_attn

    query, key = torch.zeros(2, 1, 64), torch.zeros(5, 1, 64)
    value = torch.eye(5, 64).unsqueeze(1)
    query, key, value = (x.to("cuda", torch.bfloat16) for x in (query, key, value))
    ends = [torch.tensor([0, n], dtype=torch.int32, device="cuda") for n in (2, 5)]
    seen = varlen_attn(query, key, value, *ends, 2, 5, scale=1.0, window_size=(-1, 0))[:, 0, :5]
    torch.testing.assert_close(seen[0].float().cpu(), torch.tensor([0.25] * 4 + [0.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(seen[1].float().cpu(), torch.tensor([0.2] * 5), atol=1e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_attention_is_the_dense_mask(inputs, wanted, dtype):
    from mars.actor.prefix_attention import SharedPrefixLayout, attend_padded

    layout = SharedPrefixLayout.of(GROUPS).to(torch.device("cuda"))
    mine = outputs(lambda q, k, v: attend_padded(q, k, v, layout, 0.125), inputs, dtype)
    assert relative(mine, wanted) < (1e-3 if dtype == torch.float32 else 2e-2)


def test_variable_length_attention_is_the_dense_mask(inputs, wanted):
    from mars.actor.prefix_attention import SharedPrefixLayout, attend_segments, grouped_varlen

    layout = SharedPrefixLayout.of(GROUPS).to(torch.device("cuda"))
    attend = lambda q, k, v: attend_segments(q, k, v, layout, 0.125, grouped_varlen())  # noqa: E731
    assert relative(outputs(attend, inputs, torch.bfloat16), wanted) < 2e-2
    first, second = (attend(*(x.bfloat16() for x in inputs)) for _ in range(2))
    assert torch.equal(first, second)


def test_variable_length_attention_at_the_3b_models_shape():
    """16 heads on 2, of 128 numbers; two images and six, eight responses each. Padding is the reference."""
    from mars.actor.prefix_attention import SharedPrefixLayout, attend_padded, attend_segments, grouped_varlen

    noise = torch.Generator().manual_seed(6)
    groups = [(2650, [256, 1, 97, 256, 30, 256, 200, 256]), (3700, [256] * 8)]
    layout = SharedPrefixLayout.of(groups).to(torch.device("cuda"))
    tokens = sum(prompt + sum(responses) for prompt, responses in groups)
    inputs = [torch.randn(tokens, heads, 128, generator=noise).cuda() for heads in (16, 2, 2)]
    wanted = outputs(lambda q, k, v: attend_padded(q, k, v, layout, 128**-0.5), inputs, torch.float32)
    mine = outputs(
        lambda q, k, v: attend_segments(q, k, v, layout, 128**-0.5, grouped_varlen()), inputs, torch.bfloat16
    )
    assert relative(mine, wanted) < 2e-2


@pytest.mark.parametrize("head", [80, 72])
def test_variable_length_attention_of_the_vision_towers(head):
    """Heads of Qwen2.5-VL and of Qwen3-VL; windows of 64 patches with cut ones between, and a whole image."""
    from mars.actor.vision_attention import attend_batched, segment_attention

    noise, lengths = torch.Generator().manual_seed(7), [64, 64, 32, 64, 16, 1280]
    ends = torch.tensor([0, *lengths], dtype=torch.int32, device="cuda").cumsum(0, dtype=torch.int32)
    inputs = [torch.randn(sum(lengths), 16, head, generator=noise).cuda() for _ in range(3)]

    def segments(*tensors):
        rows = (x.transpose(0, 1).unsqueeze(0) for x in tensors)
        return segment_attention(None, *rows, None, cu_seq_lens_q=ends, max_length_q=1280, scaling=head**-0.5)[0][0]

    wanted = outputs(lambda q, k, v: attend_batched(q, k, v, ends, head**-0.5), inputs, torch.float32)
    assert relative(outputs(segments, inputs, torch.bfloat16), wanted) < 2e-2
    assert relative(outputs(segments, inputs, torch.float32), wanted) < 1e-5


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_5"])
def world(request, tmp_path_factory):
    """Qwen3.5's linear attention uses transformers' kernels in torch, unless flash-linear-attention is installed."""
    from mars.data.synthetic.tiny_model import build_tiny
    from tests.tiny_world import TinyWorld

    return TinyWorld(build_tiny(tmp_path_factory.mktemp("model") / "tiny", seed=3, family=request.param))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    import numpy as np
    from PIL import Image

    from mars.types import ImageRef

    folder, noise, refs = tmp_path_factory.mktemp("pictures"), np.random.default_rng(11), []
    for i, (width, height) in enumerate([(64, 48), (56, 56)]):
        path = folder / f"{i}.png"
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        refs.append(ImageRef(str(path), (width, height)))
    return refs


def test_checkpointing_recomputes_the_same(world, pictures):
    from tests.tiny_world import GRPO, distance, gradients

    batch = world.batch([world.train_prompt("a", pictures, [5, 9, 2]), world.train_prompt("text", [], [7, 3])])
    found = []
    for checkpointing in (True, False):
        trainer = world.trainer(gradient_checkpointing=checkpointing, dtype="bfloat16", device="cuda", objective=GRPO)
        found.append(gradients(trainer, batch)[0])
        trainer.close()
    assert distance(*found) < 1e-2


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_updates_with_packs_are_those_with_rows(world, pictures, dtype, limit):
    from tests.tiny_world import GRPO, distance, gradients

    prompts = [world.train_prompt("a", pictures, [5, 9, 2]), world.train_prompt("text", [], [7, 3])]
    found = []
    for packing in ("shared_prefix", "padded"):
        trainer = world.trainer(packing=packing, dtype=dtype, device="cuda", objective=GRPO)
        found.append(gradients(trainer, world.batch(prompts, packing=packing))[0])
        trainer.close()
    assert distance(*found) < limit
