from __future__ import annotations

import torch

from aligncut_cli.maths.encoding import AlignmentMaps, predict_from_pooled


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TOKENS = [draw(2, 4, 6, 5, seed=1), draw(3, 4, 6, 7, seed=2)]
MAPS = AlignmentMaps((draw(2, 5, 3, seed=3), draw(3, 7, 3, seed=4)), draw(3, 8, seed=5), draw(8, seed=6))


def test_pooled_features_predict_what_equation_2_as_printed_predicts_from_all_tokens() -> None:
    predicted = predict_from_pooled([tokens.mean(dim=2) for tokens in TOKENS], MAPS)
    for image in range(4):
        per_token = []
        for token in range(6):
            total = torch.zeros(3, dtype=torch.float64)
            for tokens, weights in zip(TOKENS, MAPS.weights, strict=True):
                for layer in range(len(tokens)):
                    total += tokens[layer, image, token] @ weights[layer]
            per_token.append(total / 5 @ MAPS.readout)
        torch.testing.assert_close(predicted[image], torch.stack(per_token).mean(dim=0) + MAPS.bias)
