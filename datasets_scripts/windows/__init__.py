"""Events to windows: cut, split, labelled, and audited for leaks."""
