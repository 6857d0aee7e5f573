"""Device time: intervals on several streams, and none where there is no GPU."""

import time

import jax
import jax.numpy as jnp
import pytest
from noise2music.bench import device


def test_overlapping_kernels_count_once():
    assert device.busy_and_span([]) == (0.0, 0.0)
    busy, span = device.busy_and_span([(3.0, 4.0), (0.0, 2.0), (1.0, 2.5), (1.2, 1.4)])
    assert (busy, span) == (3.5, 4.0)


def test_the_platform_that_was_asked_for():
    before = jax.config.jax_default_device
    try:
        assert device.chosen() is None or before is not None
        device.use("cpu")
        assert device.chosen() == "cpu" and not device.on_gpu()
    finally:
        jax.config.update("jax_default_device", before)


def test_a_trace_without_a_gpu_is_refused():
    x = jnp.ones(8)
    with pytest.raises(RuntimeError, match="must see kernels on the GPU, got none"):
        device.seconds_on_device(lambda: jax.block_until_ready(x + 1), calls=1)
    with pytest.raises(RuntimeError, match="must see kernels on the GPU, got none"):
        device.idle_share(lambda: jax.block_until_ready(x + 1))


@pytest.mark.gpu
def test_device_time_of_a_product():
    a = jax.device_put(jnp.ones((2048, 2048)), jax.devices("gpu")[0])
    assert 1e-6 < device.seconds_on_device(lambda: jax.block_until_ready(a @ a)) < 1e-1


@pytest.mark.gpu
def test_idle_time_between_two_products():
    a = jax.device_put(jnp.ones((2048, 2048)), jax.devices("gpu")[0])

    def twice():
        for _ in range(2):
            jax.block_until_ready(a @ a)
            time.sleep(0.01)

    assert 0.5 < device.idle_share(twice) < 1.0
