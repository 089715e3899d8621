"""What an engine's stream amounts to."""

from __future__ import annotations


def completions(engine, requests):
    """[request][sample] -> Completion, for tests that do not care when each came. Every sample comes once."""
    by_place = {}
    for finished in engine.generate(requests):
        for sample in finished:
            assert (sample.request, sample.index) not in by_place
            by_place[sample.request, sample.index] = sample.completion
    assert set(by_place) == {(i, k) for i, request in enumerate(requests) for k in range(request.num_samples)}
    return [[by_place[i, k] for k in range(request.num_samples)] for i, request in enumerate(requests)]
