"""The runtimes of a processor: Faust, Flink and backfill."""
