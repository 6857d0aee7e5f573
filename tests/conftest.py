"""Settings every test shares. Four host devices, so that sharding is tested on any machine."""

import os

# Before jax starts: it reads this once.
_FLAG = "--xla_force_host_platform_device_count=4"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "thorough",
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def pytest_configure(config):
    """With ``-n 2 --dist loadfile`` files start in their own order, not with the most tests first:
    those of C++ are few and long, and would end alone."""
    config.option.loadscopereorder = False
