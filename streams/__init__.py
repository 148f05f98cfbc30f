"""Everything that runs: processors, materialisers and programs."""
