"""How much of what is tried over and over this run tries; each case runs in every profile.

| `TEST_PROFILE` | Examples of Hypothesis | Fonts of WeasyPrint | Kills of the API |
|---|---|---|---|
| `local`, the default | a quarter | cut down in the tests about that, elsewhere whole | 6 |
| `ci`, which `./dev check` sets | as the tests say | cut down | 12 |
| `nightly`, which the weekly run sets | ten times as many | cut down | 12 |
"""

import os

import hypothesis

SHARES = {"local": 0.25, "ci": 1.0, "nightly": 10.0}
PROFILE = os.environ.get("TEST_PROFILE") or "local"
if PROFILE not in SHARES:
    raise ValueError(f"TEST_PROFILE is {PROFILE!r}: it must be one of {', '.join(SHARES)}")


def examples(count: int) -> int:
    """Return how many of `count` examples this run tries; at least 5."""
    return max(round(count * SHARES[PROFILE]), 5)


def load() -> None:
    """Give tests that name no number of examples this run's share of Hypothesis's 100."""
    hypothesis.settings.register_profile("articurated", max_examples=examples(100))
    hypothesis.settings.load_profile("articurated")
