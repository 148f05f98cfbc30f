"""SQL of people who are not trusted: a gate in front, a throw-away process behind it."""
