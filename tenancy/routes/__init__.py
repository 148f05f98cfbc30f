"""Control's routes, a module a subject. `public` is passed on by the gateway; `platform` and `internal` are for processes."""
