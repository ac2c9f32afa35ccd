"""Step1X-Edit in plain PyTorch, for tests: written from its description, not from our code.

Parameters have the published names, so that a published file (or our export) is its state dict.
Tokens run in the published order, text first; heads are not rearranged, RoPE turns neighbouring
pairs, attention is written out.

B batch, T text tokens, N image tokens (noise, then reference).
"""

import math

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, silu


def sincos(t):
    """(B,) in [0, 1] -> (B, 256): 128 cosines, 128 sines of 1000 t."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    angles = 1000 * t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def turn(x, ids, axes_dim, theta):
    """x (B, H, L, K), ids (L, 3): each pair (2i, 2i + 1) turned by its angle."""
    angles = [
        ids[:, i, None].double() * theta ** (-torch.arange(0, d, 2).double() / d)
        for i, d in enumerate(axes_dim)
    ]
    angles = torch.cat(angles, dim=1)
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2).float()


def softmax_attention(q, k, v, mask=None):
    """All (B, H, L, K); mask (B, 1, L, L), True where a query may look."""
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return (logits.softmax(dim=3) @ v).transpose(1, 2).flatten(2)


def heads_of(qkv, heads):
    """(B, L, 3 H K) -> q, k, v (B, H, L, K)."""
    b, length, width = qkv.shape
    return qkv.reshape(b, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)


def modulated(x, shift, scale):
    normed = layer_norm(x, x.shape[-1:], eps=1e-6)
    return (1 + scale[:, None]) * normed + shift[:, None]


class RmsScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width))

    def forward(self, x):
        return self.scale * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class QkNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query_norm, self.key_norm = RmsScale(width), RmsScale(width)


class Mlp(nn.Module):
    """Two layers and SiLU between."""

    def __init__(self, c_in, d):
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(c_in, d), nn.Linear(d, d)

    def forward(self, x):
        return self.out_layer(silu(self.in_layer(x)))


class Modulation(nn.Module):
    def __init__(self, d, chunks):
        super().__init__()
        self.chunks, self.lin = chunks, nn.Linear(d, chunks * d)

    def forward(self, vec):
        return self.lin(silu(vec)).chunk(self.chunks, dim=1)


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.norm = QkNorm(d // heads)


class DoubleBlock(nn.Module):
    def __init__(self, d, f, heads):
        super().__init__()
        self.heads = heads
        for stream in ("img", "txt"):
            setattr(self, f"{stream}_mod", Modulation(d, 6))
            setattr(self, f"{stream}_attn", Attention(d, heads))
            mlp = nn.Sequential(nn.Linear(d, f), nn.GELU(approximate="tanh"), nn.Linear(f, d))
            setattr(self, f"{stream}_mlp", mlp)

    def forward(self, img, txt, vec, rope):
        streams = (txt, self.txt_mod(vec), self.txt_attn), (img, self.img_mod(vec), self.img_attn)
        parts = []
        for x, (shift, scale, *_), attn in streams:
            q, k, v = heads_of(attn.qkv(modulated(x, shift, scale)), self.heads)
            parts.append((attn.norm.query_norm(q), attn.norm.key_norm(k), v))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*parts, strict=True))
        attended = softmax_attention(rope(q), rope(k), v)
        results = []
        split = attended.split([txt.shape[1], img.shape[1]], dim=1)
        mlps = self.txt_mlp, self.img_mlp
        for (x, mod, attn), seen, mlp in zip(streams, split, mlps, strict=True):
            _, _, gate1, shift2, scale2, gate2 = mod
            x = x + gate1[:, None] * attn.proj(seen)
            results.append(x + gate2[:, None] * mlp(modulated(x, shift2, scale2)))
        return results[1], results[0]


class SingleBlock(nn.Module):
    def __init__(self, d, f, heads):
        super().__init__()
        self.heads, self.widths = heads, (3 * d, f)
        self.modulation = Modulation(d, 3)
        self.linear1, self.linear2 = nn.Linear(d, 3 * d + f), nn.Linear(d + f, d)
        self.norm = QkNorm(d // heads)

    def forward(self, x, vec, rope):
        shift, scale, gate = self.modulation(vec)
        qkv, mlp = self.linear1(modulated(x, shift, scale)).split(self.widths, dim=2)
        q, k, v = heads_of(qkv, self.heads)
        q, k = rope(self.norm.query_norm(q)), rope(self.norm.key_norm(k))
        both = torch.cat([softmax_attention(q, k, v), gelu(mlp, approximate="tanh")], dim=2)
        return x + gate[:, None] * self.linear2(both)


class FinalLayer(nn.Module):
    def __init__(self, d, c):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))
        self.linear = nn.Linear(d, c)

    def forward(self, x, vec):
        shift, scale = self.adaLN_modulation(vec).chunk(2, dim=1)
        return self.linear(modulated(x, shift, scale))


class RefinerBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.self_attn_qkv, self.self_attn_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, 4 * d), "fc2": nn.Linear(4 * d, d)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))

    def forward(self, x, c, mask):
        gate1, gate2 = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        attended = softmax_attention(*heads_of(self.self_attn_qkv(self.norm1(x)), self.heads), mask)
        x = x + gate1 * self.self_attn_proj(attended)
        return x + gate2 * self.mlp["fc2"](silu(self.mlp["fc1"](self.norm2(x))))


class Connector(nn.Module):
    def __init__(self, c_in, d, heads, depth, vec_in_dim, has_scale):
        super().__init__()
        refiner = nn.Module()
        refiner.t_embedder, refiner.c_embedder = nn.Module(), nn.Module()
        refiner.t_embedder.mlp = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        refiner.c_embedder.linear_1 = nn.Linear(c_in, d)
        refiner.c_embedder.linear_2 = nn.Linear(d, d)
        refiner.input_embedder = nn.Linear(c_in, d)
        refiner.individual_token_refiner = nn.Module()
        blocks = nn.ModuleList(RefinerBlock(d, heads) for _ in range(depth))
        refiner.individual_token_refiner.blocks = blocks
        self.S, self.global_proj_out = refiner, nn.Linear(c_in, vec_in_dim)
        if has_scale:
            self.scale_factor = nn.Parameter(torch.empty(1))

    def forward(self, text, mask, t):
        """text (B, T, C), mask (B, T) of booleans, t (B,)."""
        mean = (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        context = self.S.c_embedder.linear_2(silu(self.S.c_embedder.linear_1(mean)))
        c = self.S.t_embedder.mlp(sincos(t)) + context
        sees = mask[:, None, :, None] & mask[:, None, None, :]
        sees[:, :, :, 0] = True  # padded queries look at the first key alone
        x = self.S.input_embedder(text)
        for block in self.S.individual_token_refiner.blocks:
            x = block(x, c, sees)
        scale = 1 + self.scale_factor if hasattr(self, "scale_factor") else 1
        return x, self.global_proj_out(scale * mean)


class TorchStep1X(nn.Module):
    """Sizes are those of our config, by the same names."""

    def __init__(self, config):
        super().__init__()
        d, f = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.axes_dim, self.theta, heads = config.axes_dim, config.theta, config.num_heads
        self.shift = int(config.version != "v1.0")  # of the reference's positions
        self.connector = Connector(
            config.connector_in_channels,
            config.connector_hidden_size,
            config.connector_heads,
            config.connector_depth,
            config.vec_in_dim,
            has_scale=config.version == "v1.0",
        )
        self.img_in = nn.Linear(config.in_channels, d)
        self.txt_in = nn.Linear(config.context_in_dim, d)
        self.time_in, self.vector_in = Mlp(256, d), Mlp(config.vec_in_dim, d)
        self.double_blocks = nn.ModuleList(DoubleBlock(d, f, heads) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(
            SingleBlock(d, f, heads) for _ in range(config.depth_single_blocks)
        )
        self.final_layer = FinalLayer(d, config.in_channels)

    def forward(self, latents, reference, text, mask, t):
        """latents, reference, result (B, 16, h, w), text (B, T, C), mask (B, T), t (B,)."""
        b, c, h, w = latents.shape
        img = torch.cat([packed(latents), packed(reference)], dim=1)
        txt, vector = self.connector(text, mask, t)
        ids = torch.cat([
            torch.zeros(txt.shape[1], 3),
            places(h // 2, w // 2),
            places(reference.shape[2] // 2, reference.shape[3] // 2) + self.shift,
        ])  # fmt: skip

        def rope(x):
            return turn(x, ids, self.axes_dim, self.theta)

        img, txt = self.img_in(img), self.txt_in(txt)
        vec = self.time_in(sincos(t)) + self.vector_in(vector)
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, rope)
        x = torch.cat([txt, img], dim=1)
        for block in self.single_blocks:
            x = block(x, vec, rope)
        tokens = self.final_layer(x[:, txt.shape[1] :], vec)[:, : h * w // 4]
        return (
            tokens.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
        )


def packed(x):
    """(B, C, h, w) -> (B, h w / 4, 4 C): two by two, channels first."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, h * w // 4, 4 * c)


def places(rows, columns):
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)
    return ids.reshape(-1, 3)
