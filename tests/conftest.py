"""Settings every test shares. Four host devices, so that sharding is tested on any machine."""

import ctypes
import os
import shutil
import sys
import tempfile

# Before jax starts: it reads this once.
_FLAG = "--xla_force_host_platform_device_count=4"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Compiling is most of what the tests do. Programs are kept in a folder that the workers of
# pytest-xdist and the processes that tests start share, so each is compiled once a run.
_COMPILED = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _COMPILED = tempfile.mkdtemp(prefix="n2m_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "thorough",
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def quick_compiler():
    """Compiles in half the time what runs briefly. For tests of what the programs are used for:
    their numbers, which are then rounded a little otherwise, are tested as users compile them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def freed_memory_goes_back():
    """glibc keeps what compilers freed: a worker would grow to gigabytes over the files."""
    yield
    if sys.platform.startswith("linux"):
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)


def pytest_configure(config):
    """With ``-n 2 --dist loadfile`` files start in their own order, not with the most tests first:
    those of C++ are few and long, and would end alone."""
    config.option.loadscopereorder = False


def pytest_unconfigure(config):
    """The process that made the folder is the one that started the others."""
    if _COMPILED is not None:
        shutil.rmtree(_COMPILED, ignore_errors=True)
