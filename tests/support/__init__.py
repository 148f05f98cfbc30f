"""What tests share: the running platform, clocks and generators."""
