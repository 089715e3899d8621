"""Count the images that pass vLLM's vision encoder. Imports nothing of mars, because vLLM loads it in its workers."""

from __future__ import annotations

from typing import Any


class EncoderCounter:
    """vLLM's `worker_extension_cls`: its methods are called on every worker through `collective_rpc`."""

    model_runner: Any

    def count_encoder_runs(self) -> None:
        """Start counting. The model's `embed_multimodal` returns one array per image that it encodes."""
        model = self.model_runner.model
        encode, self._encoder_runs = model.embed_multimodal, 0

        def counted(**images: Any) -> Any:
            features = encode(**images)
            self._encoder_runs += len(features)
            return features

        model.embed_multimodal = counted

    def encoder_runs(self) -> int:
        return self._encoder_runs
