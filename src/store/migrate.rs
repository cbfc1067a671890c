//! Installs and updates the schemas under one lock.
