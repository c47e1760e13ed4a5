"""XLA's switches for the tests, which compile much and compute little; without importing jax."""

# Compilation in two thirds of the time that it takes. Convolutions and matrix products are library
# calls, whose speed the level does not change.
QUICK = "--xla_backend_optimization_level=1"


def xla_flags(num_devices: int) -> str:
    """So many devices made of the CPU, and quick compilation."""
    return f"--xla_force_host_platform_device_count={num_devices} {QUICK}"
