//! Nothing: the tests use the generated client as any program would.
