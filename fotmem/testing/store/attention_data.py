"""Random keys and queries that resemble those of attention: hard for approximate indexes."""

import torch
from torch import Tensor

TOPICS = 150


def attention_data(
    heads: int, tokens: int, queries: int, dim: int, *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys, values ``[H, N, D]`` and queries ``[H, Q, D]``, float32.

    As in the layers of a language model

    - all keys of a head share an offset that is longer than what tells them apart;
    - keys come in topics, neighbouring ones often in the same, some topics far larger than others;
    - some directions vary more than others, and norms are log-normal;
    - token 0 is a sink: a key of tiny norm. It beats most others, because
    - queries are not distributed as keys: they share another offset, against that of the keys, so
      that typical inner products are negative;
    - one key in twenty is the repetition of an earlier one, and one key comes 50 times.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    spread = torch.logspace(0.2, -0.7, dim)  # of the coordinates, before they are mixed
    mixing = torch.linalg.qr(normal(heads, dim, dim)).Q
    centres = normal(heads, TOPICS, dim) * spread
    sizes = (1.2 * normal(TOPICS)).softmax(0)
    starts = torch.multinomial(sizes, tokens // 8 + 1, replacement=True, generator=random)
    topics = starts.repeat_interleave(8)[:tokens]
    directions = torch.nn.functional.normalize(normal(heads, 1, dim), dim=-1)
    offsets = directions * spread.norm() * torch.linspace(0.5, 1.2, heads)[:, None, None]
    keys = centres[:, topics] + 0.4 * normal(heads, tokens, dim) * spread + offsets
    keys *= (0.12 * normal(heads, tokens, 1)).exp()
    keys[:, 0] *= 0.02
    repeated = torch.randperm(tokens - 1, generator=random)[: tokens // 20] + 1
    keys[:, repeated] = keys[:, (repeated * torch.rand(len(repeated), generator=random)).long()]
    often = torch.randperm(tokens - 1, generator=random)[:50] + 1
    keys[:, often] = keys[:, often[:1]]
    wanted = torch.randint(TOPICS, (queries,), generator=random)
    asked = 3.0 * centres[:, wanted] / spread.norm() + 0.1 * normal(heads, queries, dim)
    asked -= 1.2 * directions
    return (
        keys @ mixing.transpose(1, 2),
        normal(heads, tokens, dim),
        (asked * dim**0.5 * 0.5) @ mixing.transpose(1, 2),
    )
