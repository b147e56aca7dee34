"""Hypothesis without its clocks: on a shared machine they measure the neighbours."""

from hypothesis import HealthCheck, settings

settings.register_profile("transport", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("transport")
