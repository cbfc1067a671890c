//! A durable private PostgreSQL beside its data, for when no database URL is given.
