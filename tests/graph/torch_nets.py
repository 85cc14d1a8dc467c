"""Small detectors of the kinds that people bring, each with something that convolutions lack."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 32
WIDTH = 16


def conv(inputs: int = WIDTH, outputs: int = WIDTH) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, 1, 1)


class Body(nn.Module):
    """A stem, a middle, and a head; faces [N, 3, H, W] -> map [N, h, w]."""

    def __init__(self, *middle: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        # The convolutions of the base run in integers whatever the middle is.
        stem, *pair = nn.Conv2d(3, WIDTH, 3, 2, 1), conv(), conv()
        self.base = nn.Sequential(stem, *(part for c in pair for part in (nn.ReLU(), c)))
        self.middle, self.head = nn.Sequential(*middle), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(F.relu(self.base(x)))).squeeze(1).sigmoid()


class Detector(nn.Module):
    """Score and map of whatever gives a map."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        patch_map = self.inner(x)
        return patch_map.mean((1, 2)), patch_map


class Do(nn.Module):
    """Any function of a tensor, with the modules that it uses."""

    def __init__(self, function, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


# Faces or features in the batch, or the batch elsewhere.


def patches(net, x: Tensor) -> Tensor:
    h = x.shape[-1] // 2
    cuts = torch.cat([x[:, :, :h, :h], x[:, :, :h, h:], x[:, :, h:, :h], x[:, :, h:, h:]])
    return net.body(cuts).mean((1, 2)).view(2, 2, -1).permute(2, 0, 1)


def unfolded(net, x: Tensor) -> Tensor:
    """Patches of 16 px every 8 px, 9 to a face, which follow each other in the batch."""
    cuts = F.unfold(x, 16, stride=8).view(-1, 3, 16, 16, 9).permute(0, 4, 1, 2, 3)
    return net.body(cuts.reshape(-1, 3, 16, 16)).mean((1, 2)).view(-1, 3, 3)


def planes(net, x: Tensor) -> Tensor:
    """Each colour on its own."""
    each = x.reshape(-1, 1, SIZE, SIZE).expand(-1, 3, -1, -1)
    return net.body(each).view(-1, 3, SIZE // 2, SIZE // 2).mean(1)


def mirrored(net, x: Tensor) -> Tensor:
    both = net.body(torch.cat([x, x.flip(-1)]))
    return (both[: x.shape[0]] + both[x.shape[0] :].flip(-1)) / 2


def windows(net, x: Tensor) -> Tensor:
    """Attention within windows of 8 x 8, four to a face of 16 x 16."""
    n = x.shape[0]
    cut = x.view(n, WIDTH, 2, 8, 2, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, WIDTH)
    q, k, v = net.mix(net.norm(cut))[:, None].chunk(3, dim=-1)
    cut = cut + net.out(F.scaled_dot_product_attention(q, k, v)[:, 0])
    return cut.view(n, 2, 2, 8, 8, WIDTH).permute(0, 5, 1, 3, 2, 4).reshape(n, WIDTH, 16, 16)


def convolved_windows(net, x: Tensor) -> Tensor:
    n = x.shape[0]
    cut = x.view(n, WIDTH, 2, 8, 2, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, WIDTH, 8, 8)
    cut = net.two(F.relu(net.one(cut))) + cut
    return cut.view(n, 2, 2, WIDTH, 8, 8).permute(0, 3, 1, 4, 2, 5).reshape(n, WIDTH, 16, 16)


def sequence(net, x: Tensor) -> Tensor:
    """Positions first, the batch second, as torch's attention has it."""
    rows = x.flatten(2).permute(2, 0, 1)
    return net.layer(rows).permute(1, 2, 0).reshape(x.shape)


def pixels(net, x: Tensor) -> Tensor:
    """A perceptron over each cell, all cells in one long row."""
    rows = x.permute(0, 2, 3, 1).reshape(-1, WIDTH)
    rows = net.two(F.relu(net.norm(net.one(rows))))
    return rows.view(-1, 16, 16, WIDTH).permute(0, 3, 1, 2)


# Arithmetic on shapes, and tensors that are made of them.


def to_a_size(net, x: Tensor) -> Tensor:
    return F.interpolate(x, size=(24, 24), mode="bicubic")


def to_anothers_size(net, x: Tensor) -> Tensor:
    small = net.down(x)
    up = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([x, up], 1)


def token(net, x: Tensor) -> Tensor:
    """A learned token before the cells, and positions added."""
    cells = x.flatten(2).transpose(1, 2)
    cells = torch.cat([net.first.weight.expand(x.shape[0], -1, -1), cells], 1)
    cells = cells + torch.zeros(x.shape[0], 1, WIDTH) + net.second.weight
    return cells[:, 1:].transpose(1, 2).reshape(x.shape) * cells[:, :1].transpose(1, 2)[..., None]


def grid(net, x: Tensor) -> Tensor:
    turn = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.9, 0.0]]).expand(x.shape[0], 2, 3)
    where = F.affine_grid(turn, list(x.shape), align_corners=False)
    return F.grid_sample(x, where, align_corners=False)


def coordinates(net, x: Tensor) -> Tensor:
    line = torch.linspace(-1, 1, x.shape[-1]).expand(x.shape[0], 1, x.shape[-2], -1)
    return torch.cat([x, line], 1)


def picked(net, x: Tensor) -> Tensor:
    """The channel with the largest mean, repeated."""
    best = x.mean((2, 3)).argmax(1)
    return x + x[torch.arange(x.shape[0]), best][:, None]


# Types other than float, and inputs whose type is fixed.


def gated(net, x: Tensor) -> Tensor:
    return x * (x > 0.1).float() + torch.where(x > 1, x, 0.5)


def strongest(net, x: Tensor) -> Tensor:
    values, where = x.flatten(2).topk(4, dim=-1)
    weight = where.float() / 256 + values.cumsum(-1)
    return x * weight.mean(-1)[..., None, None].sigmoid()


def rolled(net, x: Tensor) -> Tensor:
    shifted = torch.roll(x, (2, 3), (2, 3))
    return (
        F.pad(shifted, (1, 1, 1, 1), value=0.3)[:, :, 1:-1, 1:-1]
        + F.pad(x, (2, 2, 2, 2), mode="reflect")[..., 4:, 4:]
    )


def masked(net, x: Tensor) -> Tensor:
    """Attention of each cell to those before it."""
    cells = x.flatten(2).transpose(1, 2)
    size = cells.shape[1]
    allowed = torch.tril(torch.ones(size, size, dtype=torch.bool))
    weights = (cells @ cells.transpose(1, 2) / 4).masked_fill(~allowed, float("-inf")).softmax(-1)
    return (weights @ cells).transpose(1, 2).reshape(x.shape)


def spread(net, x: Tensor) -> Tensor:
    return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5) + x.norm(
        dim=1, keepdim=True
    ).clamp(min=0.1).log()


def recurrent(net, x: Tensor) -> Tensor:
    rows, _ = net.cell(x.mean(2).transpose(1, 2))
    return x + rows.transpose(1, 2)[:, :, None]


# Batch norms that no convolution takes up.


def joined(net, x: Tensor) -> Tensor:
    return net.norm(torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1))


def both_read(net, x: Tensor) -> Tensor:
    y = net.one(x)
    return net.norm(y) + y


def on_features(net, x: Tensor) -> Tensor:
    gate = net.norm(net.one(x.mean((2, 3))).relu()).sigmoid()
    return x * gate[..., None, None]


def meso() -> nn.Module:
    """MesoNet's order: convolution, ReLU, batch norm, pool."""
    widths = [(3, 8, 3), (8, 8, 5), (8, 16, 5), (16, 16, 5)]
    parts: list[nn.Module] = []
    for inputs, outputs, kernel in widths:
        parts += [
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.ReLU(),
            nn.BatchNorm2d(outputs),
            nn.MaxPool2d(2),
        ]
    parts += [nn.Flatten(), nn.Linear(64, 16), nn.LeakyReLU(0.1), nn.Linear(16, 1), nn.Sigmoid()]
    return Do(lambda net, x: net.all(x)[:, :, None], all=nn.Sequential(*parts))


NETS = {
    # Faces or features in the batch, or the batch elsewhere.
    "patches": lambda: Do(patches, body=Body(conv())),
    "unfolded": lambda: Do(unfolded, body=Body(conv())),
    "planes": lambda: Do(planes, body=Body(conv())),
    "mirrored": lambda: Do(mirrored, body=Body(conv())),
    "windows": lambda: Body(
        Do(windows, norm=nn.LayerNorm(WIDTH), mix=nn.Linear(WIDTH, 48), out=nn.Linear(16, 16)),
        conv(),
    ),
    "convolved windows": lambda: Body(conv(), Do(convolved_windows, one=conv(), two=conv())),
    "sequence": lambda: Body(
        conv(), Do(sequence, layer=nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0)), conv()
    ),
    "pixels": lambda: Body(
        Do(pixels, one=nn.Linear(16, 32), norm=nn.BatchNorm1d(32), two=nn.Linear(32, 16)), conv()
    ),
    # Arithmetic on shapes, and types other than float.
    "sizes": lambda: Body(
        Do(to_a_size),
        conv(),
        Do(to_anothers_size, down=nn.Conv2d(16, 16, 3, 2, 1)),
        conv(32),
        nn.ReLU(),
        nn.Upsample(scale_factor=2.0),
        conv(),
        nn.PixelShuffle(2),
        conv(4),
    ),
    "made of sizes": lambda: Body(
        Do(token, first=nn.Embedding(1, WIDTH), second=nn.Embedding(257, WIDTH)),
        conv(),
        Do(coordinates),
        conv(WIDTH + 1),
    ),
    "picked": lambda: Body(Do(grid), conv(), Do(picked), conv()),
    "gated": lambda: Body(Do(gated), conv(), Do(strongest), conv()),
    "masked": lambda: Body(Do(rolled), conv(), Do(masked), conv()),
    "spread": lambda: Body(
        Do(spread), nn.GroupNorm(4, 16), conv(), nn.InstanceNorm2d(16, affine=True), conv()
    ),
    "recurrent": lambda: Body(Do(recurrent, cell=nn.LSTM(16, 16, 1, True, True)), conv()),
    "activations": lambda: Body(
        conv(), nn.PReLU(16), conv(), nn.GELU(), conv(), nn.Mish(), conv(), nn.Hardswish(), conv()
    ),
    # Batch norms that no convolution takes up.
    "norms beside": lambda: Body(
        Do(joined, norm=nn.BatchNorm2d(32)),
        conv(32),
        Do(both_read, one=conv(), norm=nn.BatchNorm2d(16)),
        Do(on_features, one=nn.Linear(16, 16), norm=nn.BatchNorm1d(16)),
        conv(),
    ),
    "norms around": lambda: Body(
        nn.BatchNorm2d(16),
        nn.ReLU(),
        conv(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(16),
        conv(),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.MaxPool2d(2),
        conv(),
        nn.SiLU(),
        nn.BatchNorm2d(16, affine=False),
        conv(),
    ),
    "meso": meso,
}


def make(name: str) -> nn.Module:
    """One of `NETS`, with weights and statistics that let its map vary from cell to cell."""
    torch.manual_seed(0)
    net = Detector(NETS[name]())
    for part in net.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.3, 2)
            if part.affine:
                nn.init.uniform_(part.weight, -1.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.3)
    return net.eval()
