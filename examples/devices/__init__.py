"""Devices that replay recordings: generators of records as a device sends them, without any network."""
